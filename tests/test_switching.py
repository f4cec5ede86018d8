"""--switch: one value of HybridRAG3's config.yaml changes, nothing else, and what would win over it is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import PipelineError
from distill.switching import DOTTED, FOLDED, switch_model

TUNED, BASE = "hybridrag-phi4mini", "hybridrag-phi4mini-base"
CONFIG = """\
# ours, do not touch
mode: offline
modes:
  online:
    api:
      model: gpt-4o        # not this one
  offline:
    retrieval: {top_k: 5}
    ollama:
      base_url: http://localhost:11434
      model: phi4-mini     # the approved one
      temperature: 0.1
ollama:
  model: phi4-mini
"""
EXPECTED = CONFIG.replace("model: phi4-mini     # the", f"model: {TUNED}     # the")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "HybridRAG3" / "config" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONFIG.encode())
    return path


def list_backups(config: Path) -> list[Path]:
    return sorted(config.parent.glob("*.bak"))


def list_told(config: Path, name: str = TUNED) -> list[str]:
    return [line for line in switch_model(config, name) if line.startswith("[WARN]")]


def test_a_profile_file_that_is_no_yaml_stops_nothing_and_a_date_that_is_none_is_one_line(config: Path) -> None:
    (config.parent / "user_modes.yaml").write_text("last_used: 2026-02-30\n")
    assert switch_model(config, TUNED)[0].startswith("[OK]")
    config.write_text(CONFIG + "made: 2026-13-45\n")
    with pytest.raises(PipelineError, match="is not YAML"):
        switch_model(config, BASE)


# -----------------------------------------------------------------------------
# What changes


def test_only_the_value_changes_and_the_old_file_stays_beside_it(config: Path) -> None:
    first, second, *_ = switch_model(config, TUNED)
    assert config.read_text() == EXPECTED
    assert first == f"[OK] {config}:11 {DOTTED}: phi4-mini -> {TUNED}"
    (backup,) = list_backups(config)
    assert str(backup) in second and backup.read_text() == CONFIG
    assert {path.name for path in config.parent.iterdir()} == {"config.yaml", backup.name}


@pytest.mark.parametrize("place", [".", "config", "config/config.yaml"])
def test_the_file_is_found_from_its_folders(config: Path, place: str) -> None:
    switch_model(config.parent.parent / place, TUNED)
    assert config.read_text() == EXPECTED


def test_line_ends_and_a_byte_order_mark_stay(config: Path) -> None:
    config.write_bytes(b"\xef\xbb\xbf" + CONFIG.replace("\n", "\r\n").encode())
    switch_model(config, TUNED)
    assert config.read_bytes() == b"\xef\xbb\xbf" + EXPECTED.replace("\n", "\r\n").encode()


def test_there_and_back_is_the_same_file_to_the_byte(config: Path) -> None:
    switch_model(config, TUNED)
    switch_model(config, BASE)
    switch_model(config, "phi4-mini")
    assert config.read_text() == CONFIG
    assert len(list_backups(config)) == 3  # each of its own name, within one second


def test_a_name_that_stands_there_already_writes_nothing(config: Path) -> None:
    switch_model(config, TUNED)
    before = config.stat().st_mtime_ns
    assert f"{DOTTED} is {TUNED} already: nothing was changed" in switch_model(config, TUNED)[0]
    assert config.stat().st_mtime_ns == before and len(list_backups(config)) == 1


@pytest.mark.parametrize(("written", "expected"), [
    ("model: 'phi4-mini'", f"model: '{TUNED}'"),
    ('model: "phi4-mini" # c', f'model: "{TUNED}" # c'),
    ("model:", f"model: {TUNED}"),
    ("model:   # none yet", f"model: {TUNED}   # none yet"),
    ("model: ~", f"model: {TUNED}"),
    ("model: &name phi4-mini", f"model: &name {TUNED}"),
    ("model: !!str phi4-mini", f"model: !!str {TUNED}"),
    ('"model" : phi4-mini', f'"model" : {TUNED}'),
    ("model: old\n      model: phi4-mini", f"model: old\n      model: {TUNED}"),
])
def test_whatever_way_it_is_written(config: Path, written: str, expected: str) -> None:
    head, tail = "modes:\n  offline:\n    ollama:\n      ", "\n      seed: 0\n"
    config.write_text(head + written + tail)
    switch_model(config, TUNED)
    assert config.read_text() == head + expected + tail


def test_flow_style_and_file_ends(config: Path) -> None:
    config.write_text("modes: {offline: {ollama: {model: phi4-mini, seed: 0}}}")
    switch_model(config, TUNED)
    assert config.read_text() == f"modes: {{offline: {{ollama: {{model: {TUNED}, seed: 0}}}}}}"


@given(name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True))
@settings(max_examples=60, deadline=None)
def test_any_name_that_a_model_can_have_is_read_back_as_text(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("names") / "config.yaml"
    path.write_text(CONFIG)
    switch_model(path, name)
    assert yaml.safe_load(path.read_text())["modes"]["offline"]["ollama"]["model"] == name  # 1e5, null and 010 too


@pytest.mark.skipif(sys.platform == "win32", reason="links and modes of Unix")
def test_rights_and_links_stay(config: Path, tmp_path: Path) -> None:
    config.chmod(0o640)
    link = tmp_path / "linked.yaml"
    link.symlink_to(config)
    switch_model(link, TUNED)
    assert link.is_symlink() and config.read_text() == EXPECTED
    assert {path.stat().st_mode & 0o777 for path in (config, *list_backups(config))} == {0o640}


# -----------------------------------------------------------------------------
# What is refused, with nothing changed


@pytest.mark.parametrize(("text", "message"), [
    ("mode: offline\nollama: {model: phi4-mini}\n", f"has no {DOTTED}: is it HybridRAG3's"),
    ("", f"has no {DOTTED}"),
    ("- a list\n", f"has no {DOTTED}"),
    ("modes: {offline: {ollama: {model: [a]}}}", f"has no {DOTTED}"),
    ("modes: {offline: }\n  x: [", "config.yaml:2 is not YAML"),
    ("modes:\n  offline:\n    ollama:\n      model: |\n        phi4-mini\n", f":4 {DOTTED} stands in a form"),
    ("a: &m phi4-mini\nmodes: {offline: {ollama: {model: *m}}}\n", f"{DOTTED} stands in a form"),
    ("modes: {offline: {ollama: {model: &m phi4-mini}}}\nb: *m\n", f"{DOTTED} stands in a form"),
])
def test_a_file_that_cannot_be_changed_safely_stays_as_it_is(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(PipelineError) as caught:
        switch_model(config, TUNED)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert config.read_text() == text and not list_backups(config)


def test_a_missing_file_and_utf_16_are_told(config: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is missing: --hybridrag-config takes"):
        switch_model(tmp_path / "nowhere", TUNED)
    config.write_bytes(CONFIG.encode("utf-16"))
    with pytest.raises(PipelineError, match="UTF-16"):
        switch_model(config, TUNED)


# -----------------------------------------------------------------------------
# What would win over it


def test_nothing_to_warn_of(config: Path) -> None:
    assert list_told(config) == []


@pytest.mark.parametrize(("name", "folded"), [
    ("phi4-mini", True), ("phi4-mini:tuned", True), ("phi4-mini-tuned", True), ("phi4", True), ("phi4:14b-mine", True),
    ("mistral:7b", True), ("gemma3", True), ("hybridrag-phi4mini", False), ("phi4mini-ours", False), ("my-mistral", False),
    ("mistral-ours", False), ("phi4-ours", False),
])
def test_names_that_hybridrag3_folds(config: Path, name: str, folded: bool) -> None:
    assert bool(FOLDED.fullmatch(name)) is folded
    assert any("takes names of this form for a stock model" in line for line in list_told(config, name)) is folded


@pytest.mark.parametrize(("change", "told"), [
    (("mode: offline", "mode: Online"), "says mode: online"),
    (("http://localhost:11434", "http://10.1.2.3:11434"), "network gate lets only this machine through"),
    (("http://localhost:11434", "127.0.0.1:11434"), None),
    (("http://localhost:11434", "http://[::1]:11434"), None),
    (("# ours, do not touch", "vllm: {enabled: true}"), "says vllm: enabled: true"),
    (("# ours, do not touch", "vllm: {enabled: false}"), None),
])
def test_settings_of_the_same_file(config: Path, change: tuple[str, str], told: str | None) -> None:
    config.write_text(CONFIG.replace(*change))
    lines = list_told(config)
    assert len(lines) == (told is not None) and (told or "") in "".join(lines)


PROFILE = """\
active_profile: {active}
profiles:
  laptop_safe:
    label: Laptop
    {values}: {{modes: {{offline: {{ollama: {{model: {model}, context_window: 4096}}}}}}}}
    {checked}
"""
CHECKED = "checked: {{modes: {{offline: {{ollama: {{model: {0}}}}}}}}}".format


@pytest.mark.parametrize(("active", "values", "model", "checked", "told"), [
    ("laptop_safe", "values", "phi4-mini", CHECKED("true"), True),
    ("laptop_safe", "values", "phi4-mini", "checked: true", True),
    ("laptop_safe", "values", "phi4-mini", "notes: old file", True),
    ("laptop_safe", "overrides", "phi4-mini", "notes: old file", True),
    ("laptop_safe", "values", "phi4-mini", CHECKED("false"), False),
    ("laptop_safe", "values", "phi4-mini", "checked: {}", False),
    ("laptop_safe", "values", TUNED, "checked: true", False),
    ('""', "values", "phi4-mini", "checked: true", False),
    ("another", "values", "phi4-mini", "checked: true", False),
])
def test_an_active_profile_that_sets_the_model(
    config: Path, active: str, values: str, model: str, checked: str, told: bool
) -> None:
    text = PROFILE.format(active=active, values=values, model=model, checked=checked)
    config.with_name("user_modes.yaml").write_text(text)
    wanted = f"the active profile {active} in user_modes.yaml sets the model {model}, and wins"
    assert [wanted in line for line in list_told(config)] == [True] * told
    assert config.with_name("user_modes.yaml").read_text() == text


def test_profiles_that_cannot_be_read_stop_nothing(config: Path) -> None:
    config.with_name("user_modes.yaml").write_text("active_profile: [")
    assert list_told(config) == [] and config.read_text() == EXPECTED


def test_the_overrides_of_older_versions(config: Path) -> None:
    config.with_name("user_overrides.yaml").write_text("ollama: {model: phi4-mini}\n")
    (line,) = list_told(config)
    assert "user_overrides.yaml sets ollama.model to phi4-mini: older versions" in line


def test_warnings_are_given_when_nothing_changes_too(config: Path) -> None:
    config.write_text(EXPECTED.replace("mode: offline", "mode: online"))
    assert len(list_told(config)) == 1 and not list_backups(config)
