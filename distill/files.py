"""Reading and writing: UTF-8 whatever PowerShell made of it, whole or not at all, private to the user, encrypted if wanted."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from distill.errors import PipelineError

if TYPE_CHECKING:
    from distill.encryption import Cipher

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
REPLACE_SECONDS = 5.0
ENCRYPTED = "aes256gcm"  # the only key of a JSON line that holds another one, encrypted: see distill/encryption.py


# -----------------------------------------------------------------------------
# Text


def read_text(path: Path, whole_lines: bool = False) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; with `whole_lines`, up to its last line feed.

    Raises PipelineError for a missing file, for UTF-16 (PowerShell 5.1's `>` writes it) and for other encodings.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise PipelineError(f"{path} is missing") from None
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}") from None
    if whole_lines:
        data = data[: data.rfind(b"\n") + 1]  # before decoding: the rest may end in the middle of a character
    if data.startswith(UTF16_MARKS):
        raise PipelineError(
            f"{path} is UTF-16, as PowerShell 5.1's > writes it: save it as UTF-8 (Out-File -Encoding utf8)"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PipelineError(f"{path}:{line} is not UTF-8: save the file as UTF-8") from None


def write_text_atomic(path: Path, text: str, private: bool = False) -> None:
    """Write UTF-8 with LF line ends; the file appears whole or not at all. `private`: readable by the user alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if private:
            create_private(temporary)
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            flush_to_disk(file)
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flush_to_disk(file: Any) -> None:
    """Flush Python's and the operating system's buffers: after this the bytes survive a power cut."""
    file.flush()
    os.fsync(file.fileno())


def replace_file(source: Path, target: Path) -> None:
    """os.replace, tried again for a few seconds: on Windows a virus scanner may hold either file for a moment."""
    deadline = time.monotonic() + REPLACE_SECONDS
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if time.monotonic() > deadline:
                raise PipelineError(f"{target} is held by another program: close it and run again") from None
            time.sleep(0.1)


# -----------------------------------------------------------------------------
# JSON and JSON lines


def write_json_atomic(path: Path, value: Any, private: bool = False) -> None:
    """Write indented JSON, whole or not at all."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", private)


def read_json(path: Path) -> Any:
    """Raises PipelineError with the line when the file is not JSON."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{path}:{getattr(error, 'lineno', 1)} is not JSON: {describe_fault(error)}") from None


def describe_fault(error: ValueError | RecursionError) -> str:
    """What json.loads stumbled over: besides bad JSON also good JSON that Python will not read."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "it is nested too deep" if isinstance(error, RecursionError) else "a number has too many digits"


def write_jsonl_atomic(path: Path, rows: Iterable[dict[str, Any]], private: bool = False, encrypt: bool = False) -> None:
    """One JSON object a line, whole or not at all. What is encrypted is private too.

    Rows that stand encrypted in the old file already keep their lines: the same rows make the same file.
    """
    lines = [to_line(row) for row in rows]
    if encrypt:
        from distill.encryption import seal_lines  # here and below: without encryption no one needs its packages

        lines = seal_lines(path, lines)
    write_text_atomic(path, "".join(lines), private or encrypt)


def to_line(row: dict[str, Any]) -> str:
    """One row as one line of JSON lines, with its line feed."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_jsonl(path: Path, torn_end: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object), decrypting what is encrypted; blank lines are passed over.

    With `torn_end`, a last line without its line feed is ignored: a killed process leaves one in a file it appends to.
    Raises PipelineError with the line for anything else that is not a JSON object, or not to be decrypted.
    """
    cipher: Cipher | None = None
    for number, line in enumerate(read_text(path, whole_lines=torn_end).split("\n"), start=1):
        if not line.strip():
            continue
        row = parse_line(path, number, line)
        if row.keys() == {ENCRYPTED}:
            from distill.encryption import load_cipher

            try:
                cipher = cipher or load_cipher()
                row = parse_line(path, number, cipher.open(row[ENCRYPTED]))
            except PipelineError as error:
                raise PipelineError(f"{path}:{number} is encrypted: {error}") from None
        yield number, row


def parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    """Raises PipelineError unless the line is one JSON object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{path}:{number} is not JSON ({describe_fault(error)}): mend or delete the line") from None
    if "\\ud" in line.lower() and not is_unicode(row):
        raise PipelineError(f"{path}:{number} holds half of a character (a lone \\ud... escape): mend or delete the line")
    if not isinstance(row, dict):
        raise PipelineError(f"{path}:{number} is {type(row).__name__}, not a JSON object: mend or delete the line")
    return row


def is_unicode(value: Any) -> bool:
    """Whether a JSON value can be written as UTF-8; an escape for half of an emoji cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class JsonlAppender:
    """Appends rows that must survive a kill: each is flushed and fsynced before `append` returns.

    Opening cuts off a torn last line, so that the file is always whole lines, and makes the file private to the user. With
    `encrypt` it also encrypts the rows that stand there in plain, and raises PipelineError when the key did not write the rest.
    """

    def __init__(self, path: Path, encrypt: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        self._cipher = prepare_cipher(path) if encrypt else None
        if path.exists():
            make_private(path)
        else:
            create_private(path)
        self._file = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed by close()

    def append(self, row: dict[str, Any]) -> None:
        """Write one row; on return it is on disk."""
        line = to_line(row)
        self._file.write(self._cipher.seal(line) if self._cipher else line)
        flush_to_disk(self._file)

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._file.close()

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare_cipher(path: Path) -> Cipher:
    """The key to append with, once all that stands in the file is encrypted with it."""
    from distill.encryption import encrypt_existing, require_cipher

    encrypt_existing(path)
    return require_cipher(path)


def cut_torn_line(path: Path) -> None:
    """Shorten a file that ends in the middle of a line to its last whole line."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)


# -----------------------------------------------------------------------------
# Identity and privacy


def hold_lock(folder: Path) -> FileLock:
    """One run at a time in a stage's folder: held as long as the result is kept, released when the process ends.

    The lock file lies beside the folder, which a stage may delete; where the folder is a link, beside the real one, so that
    its other paths meet the same lock. Raises PipelineError while another run holds it, and where it cannot be made.
    """
    real = folder.resolve()
    path = real.parent / f".{real.name}.lock"
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=0)
    except Timeout:
        raise PipelineError(f"another run is at work on {folder}: wait until it ends") from None
    except OSError as error:
        raise PipelineError(f"{path} cannot be made ({error.strerror}): put {folder} where you may write beside it") from None
    return lock


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex digest of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def create_private(path: Path) -> None:
    """An empty file that nobody else could ever open: it is made with its rights, in place of what a killed run left."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    make_private(path)


def make_private(path: Path) -> None:
    """Let only the user read a file or enter a folder: mode 0600 or 0700, on Windows an access list with one entry.

    A disk that knows no such rights, such as a USB stick, gives a warning, once for each folder.
    """
    folder = path.is_dir()
    try:
        if sys.platform == "win32":
            user = f"{os.environ.get('USERDOMAIN', '.')}\\{os.environ.get('USERNAME', '')}"
            rights = f"{user}:(OI)(CI)F" if folder else f"{user}:F"  # what is made in the folder inherits its rights
            command = ["icacls", str(path), "/inheritance:r", "/grant:r", rights]
            private = subprocess.run(command, capture_output=True, check=False).returncode == 0
        else:
            os.chmod(path, 0o700 if folder else 0o600)
            private = not path.stat().st_mode & 0o077  # some file systems accept a mode and keep their own
    except OSError:
        private = False
    if not private:
        warn_open(path if folder else path.parent)


@functools.cache
def warn_open(folder: Path) -> None:
    """Say once that others may read what lies in a folder."""
    print(f"[WARN] {folder} holds document text and could not be made private to you: others on this machine may read it")
