from __future__ import annotations

import getpass
import sys

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.errors
import pytest

from distill.config import JudgeSection, TeacherSection
from distill.errors import PipelineError
from distill.teacher.keys import describe_key, find_key, store_key
from tests.keyrings import LockedKeyring, MemoryKeyring

KEY = "sk-or-v1-0123456789abcdef"
TEACHER = TeacherSection(api_key_env="TEST_TEACHER_KEY")
LOCAL = TeacherSection(api_key_env="TEST_TEACHER_KEY", base_url="http://127.0.0.1:8080/v1")


@pytest.fixture(autouse=True)
def ring(monkeypatch: pytest.MonkeyPatch) -> MemoryKeyring:
    """An empty keyring, and no key in the environment."""
    monkeypatch.delenv("TEST_TEACHER_KEY", raising=False)
    return use(monkeypatch, MemoryKeyring())


def use(monkeypatch: pytest.MonkeyPatch, backend: MemoryKeyring) -> MemoryKeyring:
    """Make this the keyring until the test ends."""
    monkeypatch.setattr(keyring.core, "_keyring_backend", backend)
    return backend


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, ring: MemoryKeyring) -> None:
    ring.entries["hybridrag-distill", "openrouter.ai"] = "from the ring"
    monkeypatch.setenv("TEST_TEACHER_KEY", f"  {KEY}\n")
    assert find_key(TEACHER) == KEY


def test_the_keyring_is_asked_for_the_very_host(ring: MemoryKeyring) -> None:
    ring.entries["hybridrag-distill", "openrouter.ai"] = KEY
    assert find_key(TEACHER) == KEY
    other = TEACHER.model_copy(update={"base_url": "https://api.example.com/v1"})
    with pytest.raises(PipelineError, match=r"no key for api\.example\.com: set .* TEST_TEACHER_KEY, or run"):
        find_key(other)


def test_hybridrag3s_own_entry_is_not_read_unasked(ring: MemoryKeyring) -> None:
    ring.entries["hybridrag", "azure_api_key"] = KEY
    with pytest.raises(PipelineError, match="no key for openrouter"):
        find_key(TEACHER)


SHARED = TEACHER.model_copy(update={"use_hybridrag_key": True})


def test_hybridrag3s_own_entry_is_used_when_the_config_says_so_and_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch, ring: MemoryKeyring
) -> None:
    ring.entries["hybridrag", "azure_api_key"] = "from-hybridrag3"
    assert find_key(SHARED) == "from-hybridrag3"
    ring.entries["hybridrag-distill", "openrouter.ai"] = "our-own"
    assert find_key(SHARED) == "our-own"
    monkeypatch.setenv("TEST_TEACHER_KEY", "from-environment")
    assert find_key(SHARED) == "from-environment"


def test_without_any_entry_hybridrag3s_is_none_either(ring: MemoryKeyring) -> None:
    ring.entries["hybridrag", "api_key"] = KEY
    with pytest.raises(PipelineError, match="no key for openrouter"):
        find_key(SHARED)


def test_a_server_on_this_machine_never_gets_hybridrag3s_key(ring: MemoryKeyring) -> None:
    ring.entries["hybridrag", "azure_api_key"] = KEY
    assert find_key(LOCAL.model_copy(update={"use_hybridrag_key": True})) == ""


@pytest.mark.parametrize(("entry", "words"), [
    (("hybridrag-distill", "openrouter.ai"), "the keyring's entry for openrouter.ai"),
    (("hybridrag", "azure_api_key"), "HybridRAG3's entry in the keyring (teacher.use_hybridrag_key)"),
])
def test_a_line_says_which_key_is_used_and_no_character_of_it(ring: MemoryKeyring, entry: tuple[str, str], words: str) -> None:
    ring.entries[entry] = KEY
    line = describe_key(SHARED)
    assert line == f"[OK] the key for openrouter.ai is from {words}" and KEY[:4] not in line


def test_the_line_for_the_environment_and_for_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_key(LOCAL) == "[OK] 127.0.0.1 is this machine: no key is sent"
    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)
    assert describe_key(LOCAL) == "[OK] the key for 127.0.0.1 is from the environment variable TEST_TEACHER_KEY"


def test_a_server_on_this_machine_needs_no_key_but_may_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, LockedKeyring())
    assert find_key(LOCAL) == ""
    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)
    assert find_key(LOCAL) == KEY


JUDGE = JudgeSection(api_key_env="TEST_TEACHER_KEY", base_url="https://judge.example.com/v1")
LOCAL_JUDGE = JudgeSection(api_key_env="TEST_TEACHER_KEY")


def test_the_teachers_variable_is_for_the_teachers_host_alone(monkeypatch: pytest.MonkeyPatch, ring: MemoryKeyring) -> None:
    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)
    assert find_key(LOCAL_JUDGE, TEACHER) == ""
    with pytest.raises(PipelineError, match=r"openrouter\.ai \(generate\.teacher\), so name another in evaluate\.judge"):
        find_key(JUDGE, TEACHER)
    ring.entries["hybridrag-distill", "judge.example.com"] = "of-the-judge"
    assert find_key(JUDGE, TEACHER) == "of-the-judge"
    monkeypatch.setenv("JUDGE_KEY", "its-own")
    assert find_key(JUDGE.model_copy(update={"api_key_env": "JUDGE_KEY"}), TEACHER) == "its-own"


def test_one_variable_serves_teacher_and_judge_at_one_host_or_a_teacher_that_needs_none(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)
    assert find_key(JUDGE.model_copy(update={"base_url": TEACHER.base_url}), TEACHER) == KEY
    assert find_key(JUDGE, LOCAL) == KEY


def test_a_judge_without_a_key_is_never_told_to_set_the_teachers_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, LockedKeyring())
    with pytest.raises(PipelineError, match=r"another in evaluate\.judge\.api_key_env, or run  python evaluate\.py --set"):
        find_key(JUDGE, TEACHER)


@pytest.mark.parametrize("backend", [LockedKeyring(), keyring.backends.fail.Keyring()])
def test_a_keyring_that_cannot_be_used_names_the_variable(monkeypatch: pytest.MonkeyPatch, backend: MemoryKeyring) -> None:
    use(monkeypatch, backend)
    with pytest.raises(PipelineError, match=r"keyring cannot be used .* set the environment variable TEST_TEACHER_KEY"):
        find_key(TEACHER)


def test_without_the_keyring_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(PipelineError, match="set the environment variable TEST_TEACHER_KEY, or run  pip install keyring"):
        find_key(TEACHER)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "\u00fcmlaut"])
def test_a_broken_key_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("TEST_TEACHER_KEY", key)
    with pytest.raises(PipelineError, match="the environment variable TEST_TEACHER_KEY holds a key with") as caught:
        find_key(TEACHER)
    assert key not in str(caught.value)


def test_set_key_stores_what_was_typed_and_shows_none_of_it(
    monkeypatch: pytest.MonkeyPatch, ring: MemoryKeyring, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(getpass, "getpass", lambda prompt: f" {KEY} ")
    store_key(TEACHER)
    assert ring.entries == {("hybridrag-distill", "openrouter.ai"): KEY} and find_key(TEACHER) == KEY
    shown = capsys.readouterr().out
    assert "openrouter.ai" in shown and KEY[:4] not in shown and str(len(KEY)) not in shown


def test_set_key_stores_nothing_for_nothing(monkeypatch: pytest.MonkeyPatch, ring: MemoryKeyring) -> None:
    monkeypatch.setattr(getpass, "getpass", lambda prompt: "  ")
    with pytest.raises(PipelineError, match="no key was typed"):
        store_key(TEACHER)
    assert not ring.entries


def test_set_key_for_this_machine_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"127\.0\.0\.1 is this machine"):
        store_key(LOCAL)


def test_set_key_with_a_locked_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, LockedKeyring())
    monkeypatch.setattr(getpass, "getpass", lambda prompt: KEY)
    with pytest.raises(PipelineError, match="cannot be used"):
        store_key(TEACHER)
