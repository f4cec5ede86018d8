"""Encryption at rest: what stands in the files, what a reader sees, where the key is, and what each mistake says."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.errors
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.encryption import SERVICE, USER, VARIABLE, Cipher, clear_plain, encrypt_existing, require_cipher
from distill.errors import PipelineError
from distill.files import JsonlAppender, hold_lock, read_jsonl, write_jsonl_atomic
from distill.records import load_examples
from tests.keyrings import LockedKeyring, MemoryKeyring

ROOT = Path(__file__).parent.parent
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
ROWS = [{"output": "The torque is 45 Nm."}, {"output": "\u00e9\u2028\n"}]


def encode(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")


class DeafKeyring(MemoryKeyring):
    """A keyring that keeps nothing, like keyring's null backend."""

    def set_password(self, service: str, username: str, password: str) -> None:
        return


@pytest.fixture(autouse=True)
def ring(monkeypatch: pytest.MonkeyPatch) -> MemoryKeyring:
    """An empty keyring, and no key in the environment."""
    monkeypatch.delenv(VARIABLE, raising=False)
    return use(monkeypatch, MemoryKeyring())


def use(monkeypatch: pytest.MonkeyPatch, backend: Any) -> Any:
    monkeypatch.setattr(keyring.core, "_keyring_backend", backend)
    return backend


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A key in the environment."""
    monkeypatch.setenv(VARIABLE, encode(KEY))
    return KEY


def read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


# -----------------------------------------------------------------------------
# What stands in the file


def test_every_line_is_one_sealed_row(tmp_path: Path, key: bytes) -> None:
    """Opened here with cryptography alone: the form is the one that is documented."""
    write_jsonl_atomic(tmp_path / "a.jsonl", ROWS, encrypt=True)
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines()
    assert len(lines) == 2 and b"torque" not in b"".join(lines)
    for line, row in zip(lines, ROWS):
        [(name, sealed)] = json.loads(line).items()
        data = base64.b64decode(sealed, validate=True)
        assert name == "aes256gcm" and json.loads(AESGCM(key).decrypt(data[:12], data[12:], None)) == row


@given(rows=st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_come_back_as_they_went(tmp_path_factory: pytest.TempPathFactory, key: bytes, rows: list[dict]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl_atomic(path, rows, encrypt=True)
    assert read(path) == rows


def test_the_same_text_is_sealed_differently_each_time(key: bytes) -> None:
    cipher = Cipher(key, "here")
    sealed = {cipher.seal('{"a": 1}\n') for _ in range(100)}
    assert len(sealed) == 100


def test_the_same_rows_make_the_same_file(tmp_path: Path, key: bytes) -> None:
    """Stage 1 run again without news must not change train.jsonl, whose hash the later stages carry."""
    path = tmp_path / "a.jsonl"
    write_jsonl_atomic(path, ROWS, encrypt=True)
    before = path.read_bytes().splitlines()
    write_jsonl_atomic(path, [ROWS[0], {"output": "new"}, ROWS[1]], encrypt=True)
    after = path.read_bytes().splitlines()
    assert [after[0], after[2]] == before
    assert read(path) == [ROWS[0], {"output": "new"}, ROWS[1]]


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_an_encrypted_file_is_private_too(tmp_path: Path, key: bytes) -> None:
    write_jsonl_atomic(tmp_path / "a.jsonl", ROWS, encrypt=True)
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o600


def test_rows_are_appended_and_a_torn_line_is_cut(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "a.jsonl"
    with JsonlAppender(path, encrypt=True) as appender:
        appender.append(ROWS[0])
        assert read(path) == [ROWS[0]]  # on disk at once
    with open(path, "ab") as file:
        file.write(b'{"aes256gcm": "AAAA')
    assert [row for _, row in read_jsonl(path, torn_end=True)] == [ROWS[0]]
    with JsonlAppender(path, encrypt=True) as appender:
        appender.append(ROWS[1])
    assert read(path) == ROWS and b"torque" not in path.read_bytes()


def test_typed_rows_are_read_from_an_encrypted_file(tmp_path: Path, key: bytes) -> None:
    write_jsonl_atomic(tmp_path / "train.jsonl", [{"instruction": "i", "output": "o"}], encrypt=True)
    assert load_examples(tmp_path / "train.jsonl")[0].output == "o"


# -----------------------------------------------------------------------------
# Files from before


def test_a_file_of_both_forms_is_read(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl_atomic(path, [ROWS[0]])
    path.write_bytes(path.read_bytes() + Cipher(key, "here").seal(json.dumps(ROWS[1])).encode() + b'\n{"a": 1}\n')
    assert list(read_jsonl(path)) == [(1, ROWS[0]), (2, ROWS[1]), (4, {"a": 1})]


def test_plain_rows_are_encrypted_before_the_first_is_appended(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"output": "The torque is 45 Nm."}\r\n\r\n{"output": "torn')
    with JsonlAppender(path, encrypt=True) as appender:
        assert b"torque" not in path.read_bytes()
        appender.append({"a": 1})
    assert read(path) == [ROWS[0], {"a": 1}]


def test_what_is_encrypted_already_is_left_as_it_is(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl_atomic(path, ROWS, encrypt=True)
    before = path.read_bytes()
    encrypt_existing(path)
    assert path.read_bytes() == before


def test_there_may_be_nothing_to_encrypt(tmp_path: Path, key: bytes) -> None:
    encrypt_existing(tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_encryption_switched_off_again_goes_on_in_plain(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl_atomic(path, [ROWS[0]], encrypt=True)
    with JsonlAppender(path) as appender:
        appender.append({"a": 1})
    assert read(path) == [ROWS[0], {"a": 1}] and path.read_bytes().endswith(b'{"a": 1}\n')


# -----------------------------------------------------------------------------
# What earlier runs left in plain

PLAIN = b'{"output": "The torque is 45 Nm."}\n'


def test_nothing_stays_in_plain(tmp_path: Path, key: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    sealed = Cipher(KEY, "here").seal('{"a": 1}\n').encode()
    contents = {
        "requests.jsonl": PLAIN, "answers-20260101.jsonl": sealed + PLAIN,
        "recordings.jsonl": PLAIN + b'{"prompt": "torque \xc3',
        "train.jsonl": PLAIN + PLAIN.strip(), "rejected.jsonl": sealed + b'{"torque": ', "failures.jsonl": b"",
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".train.jsonl.4711.tmp").write_bytes(PLAIN)
    clear_plain(tmp_path)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))
    assert b"torque" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    rows = {name: read(tmp_path / name) for name in contents}
    assert rows["requests.jsonl"] == rows["recordings.jsonl"] == [ROWS[0]] and rows["rejected.jsonl"] == [{"a": 1}]
    assert rows["answers-20260101.jsonl"] == [{"a": 1}, ROWS[0]]
    assert rows["train.jsonl"] == [ROWS[0], ROWS[0]], "an editor's last line without a line feed is a row"
    assert capsys.readouterr().out.count("[OK] encrypted") == 5


def test_what_needs_no_encryption_is_left_to_the_byte(tmp_path: Path, key: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    other = Cipher(OTHER, "elsewhere").seal('{"a": 1}\n').encode()  # an old key's file, set aside
    contents = {"ledger.jsonl": PLAIN, "audit.jsonl": PLAIN, "old.jsonl": other, "notes.txt": PLAIN, "README.md": PLAIN}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    clear_plain(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents and not capsys.readouterr().out


def test_inputs_of_the_run_stay_and_are_named(tmp_path: Path, key: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mine.jsonl", "requests.jsonl"):
        (tmp_path / name).write_bytes(PLAIN)
    clear_plain(tmp_path, keep=[tmp_path / "x" / ".." / "mine.jsonl", tmp_path / "elsewhere.jsonl"])
    assert (tmp_path / "mine.jsonl").read_bytes() == PLAIN and b"torque" not in (tmp_path / "requests.jsonl").read_bytes()
    assert f"[WARN] {tmp_path / 'mine.jsonl'} is read by this run and stays in plain" in capsys.readouterr().out


def test_a_file_that_a_recorder_writes_is_not_taken_from_it(tmp_path: Path, key: bytes) -> None:
    (tmp_path / "recordings.jsonl").write_bytes(PLAIN)
    with hold_lock(tmp_path / "recordings.jsonl"), pytest.raises(PipelineError, match="another run is at work on"):
        clear_plain(tmp_path)
    assert (tmp_path / "recordings.jsonl").read_bytes() == PLAIN


# -----------------------------------------------------------------------------
# The key


def test_the_first_encrypted_write_makes_the_key_and_says_where_it_is(
    tmp_path: Path, ring: MemoryKeyring, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl_atomic(tmp_path / "a.jsonl", ROWS, encrypt=True)
    write_jsonl_atomic(tmp_path / "b.jsonl", ROWS, encrypt=True)
    [(entry, text)] = ring.entries.items()
    assert entry == (SERVICE, USER) and len(base64.b64decode(text, validate=True)) == 32
    assert read(tmp_path / "a.jsonl") == read(tmp_path / "b.jsonl") == ROWS
    printed = capsys.readouterr().out
    assert printed.count("[OK] A new encryption key is in the keyring") == 1
    assert "[WARN] Without it the encrypted files are lost" in printed and f"keyring set {SERVICE} {USER}" in printed
    assert text not in printed and printed.isascii()


def test_two_keys_are_not_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = require_cipher(tmp_path / "a.jsonl").key
    use(monkeypatch, MemoryKeyring())
    assert require_cipher(tmp_path / "a.jsonl").key != first


def test_the_environment_comes_first(tmp_path: Path, key: bytes, ring: MemoryKeyring) -> None:
    ring.entries[SERVICE, USER] = encode(OTHER)
    assert require_cipher(tmp_path / "a.jsonl").key == KEY


def test_a_machine_without_a_keyring_uses_the_environment(tmp_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    write_jsonl_atomic(tmp_path / "a.jsonl", ROWS, encrypt=True)
    assert read(tmp_path / "a.jsonl") == ROWS


@pytest.mark.parametrize("backend", [LockedKeyring(), keyring.backends.fail.Keyring(), DeafKeyring()])
def test_a_keyring_that_cannot_be_used_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    use(monkeypatch, backend)
    with pytest.raises(PipelineError, match=f"keyring cannot be used .* set the environment variable {VARIABLE}"):
        JsonlAppender(tmp_path / "a.jsonl", encrypt=True)  # before the first answer is paid for
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["cryptography.hazmat.primitives.ciphers.aead", "keyring"])
def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PipelineError, match=f"{module.split('.')[0]}.*not installed|not installed.*{module.split('.')[0]}"):
        write_jsonl_atomic(tmp_path / "a.jsonl", ROWS, encrypt=True)


@pytest.mark.parametrize("text", ["short", "not base64 at all!!", encode(KEY[:31]), encode(KEY + b"x"), "\u00fc" * 44])
def test_a_key_that_is_none_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ring: MemoryKeyring, text: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(PipelineError, match=f"the environment variable {VARIABLE} holds no encryption key") as caught:
        require_cipher(tmp_path / "a.jsonl")
    assert text not in str(caught.value)
    monkeypatch.delenv(VARIABLE)
    ring.entries[SERVICE, USER] = text
    with pytest.raises(PipelineError, match="the keyring's entry hybridrag-distill / encryption-key holds no encryption key"):
        require_cipher(tmp_path / "a.jsonl")


def test_a_key_shows_in_no_traceback() -> None:
    shown = repr(Cipher(KEY, "here")) + str(Cipher(KEY, "here"))
    assert repr(KEY)[2:10] not in shown and encode(KEY) not in shown


# -----------------------------------------------------------------------------
# A missing or wrong key, a changed line


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a plain line and two sealed ones; the key is gone again."""
    monkeypatch.setenv(VARIABLE, encode(KEY))
    path = tmp_path / "train.jsonl"
    write_jsonl_atomic(path, ROWS, encrypt=True)
    path.write_bytes(b'{"a": 1}\n' + path.read_bytes())
    monkeypatch.delenv(VARIABLE)
    return path


def test_without_the_key_the_first_sealed_line_is_named(sealed: Path) -> None:
    rows = read_jsonl(sealed)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(PipelineError, match=rf"train\.jsonl:2 is encrypted: this machine has no key .* set .*{VARIABLE}"):
        next(rows)


def test_with_another_key_the_line_and_the_key_s_place_are_named(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, encode(OTHER))
    with pytest.raises(PipelineError, match=rf"train\.jsonl:2 is encrypted: it was changed .* environment variable {VARIABLE}"):
        read(sealed)


def change(sealed: str, place: int) -> str:
    """Another character somewhere in a text of base64."""
    return sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda sealed: change(sealed, 0), lambda sealed: change(sealed, 20), lambda sealed: change(sealed, -10),
        lambda sealed: sealed[4:], lambda sealed: sealed[:-4], lambda sealed: "", lambda sealed: "AAAA",
        lambda sealed: "?" + sealed, lambda sealed: 7, lambda sealed: None,
    ],
)
def test_a_changed_line_is_named(sealed: Path, monkeypatch: pytest.MonkeyPatch, tamper: Any) -> None:
    monkeypatch.setenv(VARIABLE, encode(KEY))
    lines = sealed.read_text().splitlines()
    lines[2] = json.dumps({"aes256gcm": tamper(json.loads(lines[2])["aes256gcm"])})
    sealed.write_text("\n".join(lines) + "\n")
    rows = read_jsonl(sealed)
    assert next(rows)[0] == 1 and next(rows) == (2, ROWS[0])
    with pytest.raises(PipelineError, match=r"train\.jsonl:3 is encrypted: it was changed since"):
        next(rows)


@pytest.mark.parametrize("present", [None, OTHER])
def test_a_file_takes_no_rows_of_another_key(sealed: Path, monkeypatch: pytest.MonkeyPatch, present: bytes | None) -> None:
    """Half of the answers under each key, and neither could be read again."""
    if present:
        monkeypatch.setenv(VARIABLE, encode(present))
    before = sealed.read_bytes()
    with pytest.raises(PipelineError, match=r"train\.jsonl:2 is encrypted"):
        JsonlAppender(sealed, encrypt=True)
    assert sealed.read_bytes() == before


def test_no_new_key_is_made_beside_files_of_a_lost_one(sealed: Path, ring: MemoryKeyring) -> None:
    with pytest.raises(PipelineError, match=r"train\.jsonl is encrypted but this machine has no key .* or delete"):
        write_jsonl_atomic(sealed.with_name("heldout.jsonl"), ROWS, encrypt=True)
    assert not ring.entries


# -----------------------------------------------------------------------------
# The command, and what plain files need


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, *arguments], {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False)


def test_show_prints_the_rows_and_leaves_the_file(sealed: Path) -> None:
    before = sealed.read_bytes()
    done = run_python("-m", "distill.encryption", "show", str(sealed), **{VARIABLE: encode(KEY), "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.split("\n") if line] == [{"a": 1}, *ROWS]
    assert sealed.read_bytes() == before


def test_decrypt_makes_a_file_plain(sealed: Path) -> None:
    done = run_python("-m", "distill.encryption", "decrypt", str(sealed), **{VARIABLE: encode(KEY)})
    assert done.returncode == 0 and "torque" not in done.stdout
    assert read(sealed) == [{"a": 1}, *ROWS] and b"torque" in sealed.read_bytes()


def test_encrypt_makes_a_file_encrypted_and_decrypt_keeps_a_last_line_without_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(PLAIN + PLAIN.strip())
    for command, plain in (("decrypt", True), ("encrypt", False)):
        done = run_python("-m", "distill.encryption", command, str(path), **{VARIABLE: encode(KEY)})
        assert done.returncode == 0 and (b"torque" in path.read_bytes()) == plain, done.stderr
    done = run_python("-m", "distill.encryption", "show", str(path), **{VARIABLE: encode(KEY)})
    assert [json.loads(line) for line in done.stdout.splitlines()] == [ROWS[0], ROWS[0]]


@pytest.mark.parametrize("command", ["show", "decrypt", "encrypt"])
def test_a_missing_file_is_one_line(tmp_path: Path, command: str) -> None:
    done = run_python("-m", "distill.encryption", command, str(tmp_path / "none.jsonl"), **{VARIABLE: encode(KEY)})
    assert done.returncode == 1 and "none.jsonl is missing" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["show", "decrypt"])
def test_without_the_key_a_command_is_one_line_and_changes_nothing(sealed: Path, command: str) -> None:
    before = sealed.read_bytes()
    done = run_python("-m", "distill.encryption", command, str(sealed), **{VARIABLE: encode(OTHER)})
    assert sealed.read_bytes() == before
    assert done.returncode == 1 and "[FAIL]" in done.stderr and "Traceback" not in done.stderr
    assert encode(OTHER) not in done.stderr + done.stdout


def test_plain_files_need_neither_keyring_nor_cryptography(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from distill.files import *; path = Path(sys.argv[1]); "
        "write_jsonl_atomic(path, [{'a': 1}]); JsonlAppender(path).append({'a': 2}); assert len(list(read_jsonl(path))) == 2; "
        "assert not {'keyring', 'cryptography'} & set(sys.modules)"
    )
    done = run_python("-c", program, str(tmp_path / "a.jsonl"))
    assert done.returncode == 0, done.stderr
