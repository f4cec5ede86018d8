"""
Check a bundle of export_gguf.py: that it is whole, and that its model is the one that was trained and verified.

    python verify_bundle.py FOLDER            # the unpacked bundle
    python verify_bundle.py NAME.zip
    python verify_bundle.py NAME.zip.001      # the first of several parts; the others lie beside it. Or their folder

Prints a line a check and exits with 1 when one failed. Unpacks and changes nothing. Needs Python 3.9 or newer, nothing else.
Sums that lie beside the files tell damage, not forgery: against that, compare the sha256 of the zip with the sender's.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 20
SUMS, VERIFICATION = "SHA256SUMS", "verification.json"
STAGES = {"training_data": "generate_training_data.py", "adapters": "finetune.py", "gguf": "export_gguf.py"}
MANIFESTS = {stage: f"manifests/{stage}.json" for stage in STAGES}
GGUF_VERSIONS = (2, 3)
PART = re.compile(r"(.+)\.001")
SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class Damage(Exception):
    """What is wrong, in one line."""


# -----------------------------------------------------------------------------
# The three forms of a bundle


class Folder:
    """An unpacked bundle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def list_names(self) -> list[str]:
        """Every file, with forward slashes."""
        return sorted(path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file())

    def open(self, name: str) -> BinaryIO:
        """A file's bytes."""
        return open(self.path / name, "rb")

    def size(self, name: str) -> int:
        """A file's bytes, counted."""
        return (self.path / name).stat().st_size


class Archive:
    """A zip, all of whose files lie in one folder."""

    def __init__(self, file: BinaryIO) -> None:
        self.zip = zipfile.ZipFile(file)
        inside = [name for name in self.zip.namelist() if not name.endswith("/")]
        tops = {name.split("/")[0] for name in inside}
        unsafe = [name for name in inside if ".." in name.split("/") or "\\" in name or ":" in name or name.startswith("/")]
        if len(tops) != 1 or unsafe or len(set(inside)) != len(inside):
            raise Damage("the zip is not laid out as a bundle: one folder that holds each file once")
        self.top = tops.pop() + "/"

    def list_names(self) -> list[str]:
        """Every file, without the folder's name."""
        return sorted(name[len(self.top) :] for name in self.zip.namelist() if not name.endswith("/"))

    def open(self, name: str) -> BinaryIO:
        """A file's bytes; reading them to the end checks their CRC."""
        return self.zip.open(self.top + name)  # type: ignore[return-value]

    def size(self, name: str) -> int:
        """A file's bytes, counted."""
        return self.zip.getinfo(self.top + name).file_size


class JoinedParts(io.RawIOBase):
    """Several files read as one."""

    def __init__(self, paths: list[Path]) -> None:
        self.files = [open(path, "rb") for path in paths]  # noqa: SIM115 - closed by close()
        self.sizes = [path.stat().st_size for path in paths]
        self.position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes from the start of the first part."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As in any file."""
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: sum(self.sizes)}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Bytes of the part that holds the position; 0 at the end."""
        start = 0
        for file, size in zip(self.files, self.sizes):
            if start <= self.position < start + size:
                file.seek(self.position - start)
                count = file.readinto(buffer)
                self.position += count
                return count
            start += size
        return 0

    def close(self) -> None:
        """Close every part."""
        for file in getattr(self, "files", ()):
            file.close()
        super().close()


class Bundle:
    """A bundle in any form; what was read and hashed once is remembered."""

    def __init__(self, files: Folder | Archive) -> None:
        self.files, self.names = files, files.list_names()
        self.digests: dict[str, str] = {}

    def list_models(self) -> list[str]:
        """The names of its GGUF files."""
        return [name for name in self.names if name.endswith(".gguf")]

    def read(self, name: str) -> bytes:
        """A small file."""
        if name not in self.names:
            raise Damage(f"{name} is missing")
        with self.files.open(name) as file:
            return file.read()

    def read_json(self, name: str) -> Any:
        """A small file's value."""
        try:
            return json.loads(self.read(name).decode("utf-8"))
        except ValueError:
            raise Damage(f"{name} is not JSON") from None

    def hash(self, name: str) -> str:
        """A file's sha256."""
        if name not in self.digests:
            with self.files.open(name) as file:
                self.digests[name] = hash_stream(file)
        return self.digests[name]


def hash_stream(file: BinaryIO) -> str:
    """The sha256 of what is left to read."""
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def find_parts(first: Path) -> tuple[list[Path], dict[str, str]]:
    """The parts in order and their sums, as SHA256SUMS beside them says."""
    match = PART.fullmatch(first.name)
    if match is None:
        raise Damage("give the first part, which ends in .001")
    sums_file = first.with_name(SUMS)
    if not sums_file.is_file():
        raise Damage(f"{SUMS} is missing beside the parts")
    sums = read_sums(sums_file.read_bytes())
    names = sorted(name for name in sums if re.fullmatch(re.escape(match.group(1)) + r"\.\d{3}", name))
    if first.name not in names:
        raise Damage(f"{SUMS} does not list {first.name}")
    missing = [name for name in names if not first.with_name(name).is_file()]
    if missing:
        raise Damage(f"{', '.join(missing)} missing beside {first.name}")
    return [first.with_name(name) for name in names], sums


def read_sums(data: bytes) -> dict[str, str]:
    """The sha256 by file name of a SHA256SUMS."""
    lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    matches = [SUM_LINE.fullmatch(line) for line in lines]
    if not lines or None in matches:
        raise Damage(f"{SUMS} is empty, or a line of it is no sha256 and file name")
    return {match.group(2): match.group(1) for match in matches if match}


# -----------------------------------------------------------------------------
# Checks: each returns what it found right, or raises Damage


def check_sums(bundle: Bundle) -> str:
    """Every file that SHA256SUMS lists is there and as it was; what a bundle cannot lack is listed."""
    sums = read_sums(bundle.read(SUMS))
    needed = [*MANIFESTS.values(), VERIFICATION, "Modelfile", *bundle.list_models()]
    unlisted = [name for name in needed if name not in sums]
    missing = [name for name in sums if name not in bundle.names]
    if unlisted or missing:
        raise Damage(f"missing: {', '.join(missing)}" if missing else f"{SUMS} does not list {', '.join(unlisted)}")
    changed = [name for name, wanted in sums.items() if bundle.hash(name) != wanted]
    if changed:
        raise Damage(f"damaged or changed: {', '.join(changed)}: copy the bundle again")
    return f"{len(sums)} files have the sha256 that {SUMS} lists"


def check_chain(bundle: Bundle) -> str:
    """Each manifest names the hash of the one before, and what one stage read is what the other wrote."""
    manifests = {stage: bundle.read_json(name) for stage, name in MANIFESTS.items()}
    for stage, made_by in STAGES.items():
        if manifests[stage]["made_by"] != made_by:
            raise Damage(f"{MANIFESTS[stage]} was made by {manifests[stage]['made_by']}, not {made_by}")
    for earlier, later in (("training_data", "adapters"), ("adapters", "gguf")):
        recorded = manifests[later]["manifests"].get(f"{earlier}/manifest.json")
        if recorded != bundle.hash(MANIFESTS[earlier]):
            raise Damage(f"{MANIFESTS[later]} was made from another manifest than {MANIFESTS[earlier]}")
        require_same_files(manifests[earlier], manifests[later], later)
    return "training data, adapter and GGUF: each manifest names the sha256 of the one before"


def require_same_files(earlier: Any, later: Any, stage: str) -> None:
    """What a stage read is what the stage before wrote, and no setting that was fixed has changed."""
    written = {file["path"]: file["sha256"] for file in earlier["outputs"]}
    for file in later["inputs"]:
        if written.get(file["path"], file["sha256"]) != file["sha256"]:
            raise Damage(f"{MANIFESTS[stage]} read another {file['path']} than was written")
    for key, value in earlier["fixed"].items():
        if later["fixed"].get(key) != value:
            raise Damage(f"{MANIFESTS[stage]} has another {key} than the stage before")


def check_models(bundle: Bundle) -> str:
    """GGUF files, Modelfiles and verification.json are the ones that the export wrote down."""
    models = bundle.list_models()
    written = {file["path"].split("/")[-1]: file for file in bundle.read_json(MANIFESTS["gguf"])["outputs"]}
    modelfiles = [name for name in bundle.names if name.startswith("Modelfile")]
    if not models:
        raise Damage("no GGUF file is in the bundle")
    for name in [*models, *modelfiles, VERIFICATION]:
        if name not in written or bundle.hash(name) != written[name]["sha256"]:
            raise Damage(f"{name} is not the file that {MANIFESTS['gguf']} lists")
    for name in models:
        require_gguf(bundle, name, written[name]["bytes"])
    for name in modelfiles:
        require_source(bundle, name)
    return f"{', '.join(models)}: the size and sha256 that the export wrote down"


def require_gguf(bundle: Bundle, name: str, size: int) -> None:
    """Magic, version, a sensible count of tensors, and the size."""
    if bundle.files.size(name) != size:
        raise Damage(f"{name} has {bundle.files.size(name)} bytes, not {size}")
    with bundle.files.open(name) as file:
        head = file.read(24)
    if len(head) < 24 or head[:4] != b"GGUF":
        raise Damage(f"{name} is no GGUF file")
    version, tensors, _ = struct.unpack("<IQQ", head[4:])
    if version not in GGUF_VERSIONS or not tensors:
        raise Damage(f"{name} has GGUF version {version} and {tensors} tensors")


def require_source(bundle: Bundle, name: str) -> None:
    """A Modelfile's FROM names a GGUF of the bundle."""
    found = re.search(r"^FROM (?:\./)?(.+?)\s*$", bundle.read(name).decode("utf-8", "replace"), re.MULTILINE)
    if found is None or found.group(1) not in bundle.list_models():
        raise Damage(f"{name} is FROM {found.group(1) if found else 'nothing'}, which is not in the bundle")


def check_verification(bundle: Bundle) -> str:
    """Each GGUF passed its verification: the entry is about these very bytes, and nothing in it failed."""
    entries = bundle.read_json(VERIFICATION)
    kinds: set[str] = set()
    for name in bundle.list_models():
        entry = entries.get(name)
        if not entry or entry.get("sha256") != bundle.hash(name):
            raise Damage(f"{VERIFICATION} is not about this {name}")
        if not entry.get("structure"):
            raise Damage(f"{VERIFICATION}: the structure of {name} was not checked")
        if failed := list(find_failed(entry)):
            raise Damage(f"{VERIFICATION}: {name} failed {', '.join(failed)}")
        kinds |= {key for key, value in entry.items() if isinstance(value, dict) and key not in ("types", "seconds")}
    return f"{VERIFICATION} is about these files: {', '.join(sorted(kinds))}"


def find_failed(value: Any, place: str = "") -> Iterator[str]:
    """Where a verification says that it did not pass."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        here = f"{place}.{key}".lstrip(".")
        if key == "passed" and each is not True:
            yield here
        yield from find_failed(each, here)


# -----------------------------------------------------------------------------
# What is worth knowing, though nothing is wrong


def list_warnings(bundle: Bundle) -> Iterator[str]:
    """Files that nobody listed, a smoke run, a file that was compared with nothing."""
    unlisted = sorted(set(bundle.names) - set(read_sums(bundle.read(SUMS))) - {SUMS})
    if unlisted:
        yield f"not of the bundle: {', '.join(unlisted)}"
    manifest = bundle.read_json(MANIFESTS["gguf"])
    if manifest["details"].get("smoke_run"):
        yield "made by a smoke run (--limit): for trying out only"
    if manifest.get("config", {}).get("export", {}).get("verify") in (False, "none"):
        yield "export.verify was off: nothing but the structure was verified"


# -----------------------------------------------------------------------------
# The whole


def check(path: Path) -> list[tuple[str, str]]:
    """Every finding about a bundle, as its tag (OK, WARN or FAIL) and its text."""
    opened: list[Any] = []
    findings: list[tuple[str, str]] = []
    try:
        bundle = open_bundle(path, opened, findings)
        findings += [attempt(each, bundle) for each in (check_sums, check_chain, check_models, check_verification)]
        if not any(tag == "FAIL" for tag, _ in findings):
            findings += [("WARN", text) for text in list_warnings(bundle)]
    except Damage as error:
        findings.append(("FAIL", str(error)))
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        findings.append(("FAIL", f"{path.name} cannot be read: {error}"))
    finally:
        for file in opened:
            file.close()
    return findings


def open_bundle(path: Path, opened: list[Any], findings: list[tuple[str, str]]) -> Bundle:
    """The bundle at a path, once the parts' sums are right; files that must be closed go into `opened`."""
    if path.is_dir():
        firsts = sorted(path.glob("*.zip.001"))
        if not firsts or (path / VERIFICATION).is_file():
            return Bundle(Folder(path))
        path = firsts[0]
    file: BinaryIO
    if re.search(r"\.\d{3}$", path.name):
        parts, sums = find_parts(path)
        damaged = [part.name for part in parts if hash_file(part) != sums[part.name]]
        if damaged:
            raise Damage(f"damaged: {', '.join(damaged)}: copy it again")
        findings.append(("OK", f"{len(parts)} parts have the sha256 that {SUMS} lists"))
        file = io.BufferedReader(JoinedParts(parts), BLOCK)  # type: ignore[assignment]
    else:
        file = open(path, "rb")  # noqa: SIM115 - closed by the caller
    opened.append(file)
    return Bundle(Archive(file))


def hash_file(path: Path) -> str:
    """A file's sha256."""
    with open(path, "rb") as file:
        return hash_stream(file)


def attempt(run: Callable[[Bundle], str], bundle: Bundle) -> tuple[str, str]:
    """One check's finding; a manifest that lacks a key is damaged too."""
    try:
        return "OK", run(bundle)
    except Damage as error:
        return "FAIL", str(error)
    except (KeyError, TypeError, AttributeError, IndexError):
        return "FAIL", f"{run.__name__}: a manifest or {VERIFICATION} lacks what export_gguf.py writes"
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        return "FAIL", f"{run.__name__}: {error}"


def main() -> int:
    """Print the findings; 1 when one of them is a failure, 2 when no bundle was named."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    findings = check(Path(sys.argv[1]))
    for tag, text in findings:
        print(f"[{tag}] {text}".encode("ascii", "replace").decode("ascii"))
    failed = any(tag == "FAIL" for tag, _ in findings)
    print(f"{sys.argv[1]}: {'not to be used' if failed else 'whole, and traced back to its training data'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
