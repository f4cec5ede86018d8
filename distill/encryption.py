"""
Encryption at rest: JSON lines sealed one by one with AES-256-GCM, under a key that stands in no file of ours.

    python -m distill.encryption show training_data/train.jsonl         # print an encrypted file as JSON lines
    python -m distill.encryption decrypt training_data/answers.jsonl    # make it plain, to use it under another key or none
    python -m distill.encryption encrypt training_data/mine.jsonl       # encrypt a file that no stage writes

A sealed line is {"aes256gcm": base64 of nonce (12 bytes), ciphertext and tag (16 bytes)}. Each has a random nonce of its own,
which for one key is safe up to 2^32 lines (NIST SP 800-38D, section 8.3). docs/SECURITY.md says where the key is and how it
travels to another machine.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import PipelineError, run
from distill.files import ENCRYPTED, hold_lock, read_jsonl, read_text, to_line, write_jsonl_atomic

VARIABLE = "HYBRIDRAG_DISTILL_KEY"
SERVICE, USER = "hybridrag-distill", "encryption-key"
ENTRY = f"the keyring's entry {SERVICE} / {USER}"
SET_KEY = f"python -m keyring set {SERVICE} {USER}"
NONCE_BYTES = 12
SEALED = f'{{"{ENCRYPTED}":'  # how a sealed line begins
WITHOUT_TEXT = ("ledger.jsonl", "audit.jsonl")  # hashes and figures: they stay as they are


@dataclass(frozen=True, repr=False)
class Cipher:
    """A 32-byte key, and in words where it was found. It has no repr, so that no traceback or log can show it."""

    key: bytes
    place: str

    def seal(self, line: str) -> str:
        """A line of JSON, with its line feed, as a sealed line."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = load_aes()(self.key).encrypt(nonce, line.removesuffix("\n").encode("utf-8"), None)
        return to_line({ENCRYPTED: base64.b64encode(nonce + sealed).decode("ascii")})

    def open(self, sealed: Any) -> str:
        """What was sealed, without line feed. Raises PipelineError for a changed or damaged line and for another key."""
        aes = load_aes()(self.key)
        from cryptography.exceptions import InvalidTag

        try:
            data = base64.b64decode(sealed, validate=True)
            return aes.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], None).decode("utf-8")
        except (InvalidTag, ValueError, TypeError):
            raise PipelineError(
                f"it was changed since, or written with another key than the one in {self.place}: "
                "put the key there that wrote it, or delete the line"
            ) from None


def load_aes() -> Any:
    """cryptography's AES-GCM. Raises PipelineError when it is not installed."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise PipelineError("encryption needs a package that is not installed: run  pip install cryptography") from None
    return AESGCM


# -----------------------------------------------------------------------------
# The key


def load_cipher() -> Cipher:
    """The key to read with. Raises PipelineError when there is none."""
    load_aes()
    if not (cipher := find_key()):
        raise PipelineError(
            f"this machine has no key for it: put the key that wrote it into the keyring,  {SET_KEY}  "
            f"(or into the environment variable {VARIABLE})"
        )
    return cipher


def require_cipher(path: Path) -> Cipher:
    """The key to write `path` with, made if there is none. Raises PipelineError when encrypted files show that one is lost."""
    load_aes()
    return find_key() or make_key(path.parent)


def find_key() -> Cipher | None:
    """The key in the environment variable, else the one in the keyring."""
    if text := os.environ.get(VARIABLE, "").strip():
        return decode_key(text, f"the environment variable {VARIABLE}")
    keyring = load_keyring()
    try:
        stored = keyring.get_password(SERVICE, USER)
    except keyring.errors.KeyringError as error:
        raise explain_keyring(type(error).__name__) from None
    return decode_key(stored.strip(), ENTRY) if stored else None


def decode_key(text: str, place: str) -> Cipher:
    """Raises PipelineError, without showing the text, when it is not a key."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise PipelineError(f"{place} holds no encryption key, which is 32 bytes in base64: set it again")
    return Cipher(key, place)


def make_key(folder: Path) -> Cipher:
    """A new key in the keyring. Raises PipelineError when a file in `folder` shows that there was one before."""
    if lost := find_encrypted(folder):
        raise PipelineError(
            f"{lost} is encrypted but this machine has no key for it: put the key that wrote it into the keyring,  {SET_KEY}  "
            f"(or into {VARIABLE}), or delete the encrypted files"
        )
    keyring, text = load_keyring(), base64.b64encode(secrets.token_bytes(32)).decode("ascii")
    try:
        keyring.set_password(SERVICE, USER, text)
        kept = keyring.get_password(SERVICE, USER)  # what stands there counts, should another run have made one as well
    except keyring.errors.KeyringError as error:
        raise explain_keyring(type(error).__name__) from None
    if not kept:
        raise explain_keyring("it keeps nothing")
    print(f"[OK] A new encryption key is in the keyring (service {SERVICE}, user {USER})")
    print(f"[WARN] Without it the encrypted files are lost. To keep a copy elsewhere:  python -m keyring get {SERVICE} {USER}")
    print(f"       On another machine:  {SET_KEY}  (docs/SECURITY.md)")
    return decode_key(kept, ENTRY)


def load_keyring() -> Any:
    """The keyring package. Raises PipelineError when it is not installed."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise explain_keyring("keyring is not installed") from None
    return keyring


def explain_keyring(why: str) -> PipelineError:
    """Not installed, locked, refused, or (on a server without a desktop) not there at all."""
    return PipelineError(
        f"the system's keyring cannot be used for the encryption key ({why}): set the environment variable {VARIABLE} to "
        "32 random bytes in base64 (docs/SECURITY.md), or encrypt: false in config.yaml"
    )


# -----------------------------------------------------------------------------
# Files


def is_sealed(line: str) -> bool:
    """Whether a line of a JSON lines file is one of ours."""
    return line.startswith(SEALED)


def find_encrypted(folder: Path) -> Path | None:
    """A file in the folder with a sealed line, if there is one."""
    mark = SEALED.encode("ascii")  # inside a plain row its quotes would be escaped
    return next((path for path in sorted(folder.glob("*.jsonl")) if mark in path.read_bytes()), None)


def seal_lines(path: Path, lines: Sequence[str]) -> list[str]:
    """Lines of JSON as sealed lines; one that stands in the file at `path` already, under the same key, is kept as it is."""
    cipher = require_cipher(path)
    known = open_lines(path, cipher)
    return [known.get(line) or cipher.seal(line) for line in lines]


def open_lines(path: Path, cipher: Cipher) -> dict[str, str]:
    """The sealed lines of a file by what they hold, as far as this key opens them."""
    known = {}
    for line in read_text(path, whole_lines=True).split("\n") if path.exists() else ():
        if is_sealed(line):
            try:
                known[cipher.open(json.loads(line)[ENCRYPTED]) + "\n"] = line + "\n"
            except (PipelineError, ValueError):
                continue  # the file is about to be written anew
    return known


def encrypt_existing(path: Path) -> None:
    """Encrypt the rows that stand in plain in a JSON lines file, if there is one.

    A last line that broke off is dropped. Raises PipelineError, and changes nothing, when a line is no row or the key did not
    write it.
    """
    if not path.exists():
        return
    rows = [row for _, row in read_jsonl(path, torn_end=is_torn(path))]
    if holds_plain(path):
        write_jsonl_atomic(path, rows, private=True, encrypt=True)


def holds_plain(path: Path) -> bool:
    """Whether anything in a file is not a sealed line. Reads bytes: a torn end may break off within a character."""
    mark = SEALED.encode("ascii")
    return any(line.strip() and not line.startswith(mark) for line in path.read_bytes().split(b"\n"))


def is_torn(path: Path) -> bool:
    """Whether the last line broke off as it was written, and is no row; one from an editor only lacks its line feed."""
    last = path.read_bytes().rpartition(b"\n")[2] if path.is_file() else b""
    try:
        return bool(last.strip()) and not isinstance(json.loads(last), dict)
    except (ValueError, RecursionError):
        return True


def clear_plain(folder: Path, keep: Collection[Path] = ()) -> None:
    """Encrypt what an earlier run left in plain in a folder that the caller has locked, and delete what a killed one left.

    The files in `keep`, inputs of this run, stay as they are, with a warning. Raises PipelineError for a file with a line that
    is no row, and for one that a recorder writes now.
    """
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
    kept = {path.resolve() for path in keep}
    for path in sorted(folder.glob("*.jsonl")):
        if path.name in WITHOUT_TEXT or not holds_plain(path):
            continue
        if path.resolve() in kept:
            print(f"[WARN] {path} is read by this run and stays in plain: python -m distill.encryption encrypt {path}")
            continue
        with hold_lock(path):
            encrypt_existing(path)
            print(f"[OK] encrypted {path.name}, which an earlier run had left in plain")


# -----------------------------------------------------------------------------
# The command


def main() -> None:
    """Print encrypted files, which then stay as they are, make them plain, or encrypt plain ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["show", "decrypt", "encrypt"])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JSON lines, encrypted or not")
    args = parser.parse_args()
    for path in args.files:
        rows = [row for _, row in read_jsonl(path, torn_end=is_torn(path))]
        if args.command == "show":
            print("".join(map(to_line, rows)), end="")
        elif args.command == "encrypt":
            with hold_lock(path):
                encrypt_existing(path)
            print(f"[OK] {path} is encrypted now")
        else:
            write_jsonl_atomic(path, rows, private=True)
            print(f"[OK] {path} is in plain now")


if __name__ == "__main__":
    run(main)
