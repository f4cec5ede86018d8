"""
Packs a finished gguf/ into a bundle: NAME.zip, or a folder NAME-parts/ with NAME.zip.001 and so on and what installs them.

Nothing is compressed: a quantised model does not get smaller. The bundle is written once, under another name, checked by the
verify_bundle.py that travels in it, and only then gets its own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from distill.bundle import verify_bundle
from distill.bundle.contents import INSTALLERS, SUMS, Entry, collect_entries, find_moment, make_entry, render_sums
from distill.config import Config
from distill.errors import PipelineError
from distill.files import create_private, flush_to_disk, make_private, replace_file, sha256_file
from distill.gguf.outputs import format_bytes, require_disk_space
from distill.progress import show_progress

BLOCK = 1 << 20
ASSET_LIMIT = 2 << 30  # a release's asset must be smaller: docs.github.com, "About releases"
MOST_PARTS = 999
ENTRY_BYTES = 1_000  # what a zip adds to a file at most: two headers with ZIP64 fields, two names
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def parse_size(text: str) -> int:
    """Bytes of "1.9GB", "1900 MB", "1.5GiB" or "2000000". Raises PipelineError for what no part of a release can be."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b)?\s*", text.lower())
    unit = UNITS.get((match.group(2) or "") if match else "?")
    if match is None or unit is None:
        raise PipelineError(f"--part-size {text} is no size: write it as 1.9GB, 1900MB or a number of bytes")
    size = int(float(match.group(1)) * unit)
    if not 0 < size < ASSET_LIMIT:
        raise PipelineError(f"--part-size {text} must be under 2 GiB, which release assets must be, and over 0: try 1.9GB")
    return size


def make_bundle(config: Config, *, target: Path, part_bytes: int | None, with_base: bool = False) -> list[Path]:
    """
    Pack the finished gguf/ and return the files made: `target` (NAME.zip), or with `part_bytes` those in NAME-parts/ beside it.

    The base model doubles the size and answers nobody's questions; it goes along only with `with_base`, for an evaluation over
    there. A bundle of the same name is replaced once the new one is whole. The caller holds the lock of gguf/.
    Raises PipelineError for an unfinished or changed stage, a name that travels badly, a full disk.
    """
    require_name(target)
    name = target.stem
    entries = collect_entries(config, name, with_base)
    place = find_place(target, part_bytes)
    unfinished = place.with_name(f".{place.name}.unfinished")
    remove(unfinished)
    require_disk_space(target.parent, sum(entry.bytes + ENTRY_BYTES for entry in entries))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with explain_limit(place):
            first = write_bundle(unfinished, target.name, entries, find_moment(config), part_bytes)
        require_whole(first, place)
        put_in_place(unfinished, place)
    finally:
        remove(unfinished)
    return announce(place)


def require_name(target: Path) -> None:
    """A name that survives every file system and a release's list of assets."""
    if target.suffix != ".zip" or not SAFE_NAME.fullmatch(target.name):
        raise PipelineError(f"--bundle {target.name}: call it NAME.zip, of letters, digits, dots, dashes and underscores")


def find_place(target: Path, part_bytes: int | None) -> Path:
    """Where the whole bundle will stand. Raises PipelineError where that is something else."""
    place = target if part_bytes is None else target.with_name(f"{target.stem}-parts")
    if part_bytes is None and place.is_dir():
        raise PipelineError(f"{place} is a folder: choose another name for the bundle")
    if part_bytes is not None and place.exists():
        require_own_folder(place, target.name)
    return place


def require_own_folder(place: Path, zip_name: str) -> None:
    """Raises PipelineError for a folder with anything that no bundle puts there: it is about to be replaced."""
    own = re.compile("|".join([re.escape(zip_name) + r"\.\d{3}", *map(re.escape, (*INSTALLERS, SUMS))]))
    foreign = [path.name for path in place.iterdir() if not own.fullmatch(path.name)] if place.is_dir() else [place.name]
    if foreign:
        raise PipelineError(f"{place} would be replaced, but {foreign[0]} is not of a bundle: move it away")


# -----------------------------------------------------------------------------
# Writing


def write_bundle(unfinished: Path, zip_name: str, entries: Sequence[Entry], moment: datetime, part_bytes: int | None) -> Path:
    """Write the zip, or the folder of parts; returns the file to check."""
    if part_bytes is None:
        create_private(unfinished)
        with open(unfinished, "wb") as file:
            write_zip(file, zip_name, entries, moment)
            flush_to_disk(file)
        return unfinished
    unfinished.mkdir()
    make_private(unfinished)
    with PartWriter(unfinished / zip_name, part_bytes) as parts:
        write_zip(parts, zip_name, entries, moment)  # type: ignore[arg-type]
    beside = [entry for entry in entries if entry.name in INSTALLERS]
    sums = [*beside, *(Entry(path.name, path, sha256_file(path), path.stat().st_size) for path in parts.list_paths())]
    for entry in (*beside, make_entry(SUMS, render_sums(sums))):
        create_private(unfinished / entry.name)
        with open(unfinished / entry.name, "wb") as file:
            file.write(entry.source)  # type: ignore[arg-type]
            flush_to_disk(file)
    return parts.list_paths()[0]


def write_zip(file: BinaryIO, zip_name: str, entries: Sequence[Entry], moment: datetime) -> None:
    """Every entry in one folder, stored; ZIP64 where it must be."""
    blocks = sum(-(-entry.bytes // BLOCK) for entry in entries)
    with (
        show_progress(blocks, zip_name, "MiB") as progress,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive,
    ):
        for entry in entries:
            info = zipfile.ZipInfo(f"{zip_name.removesuffix('.zip')}/{entry.name}", moment.timetuple()[:6])
            info.create_system = 3  # Unix, so that the same export makes the same bundle on Windows
            info.external_attr = (0o100755 if entry.name.endswith(".sh") else 0o100644) << 16
            info.file_size = entry.bytes  # tells zipfile whether it needs ZIP64
            with archive.open(info, "w") as stored:
                copy_entry(entry, stored, progress.advance)


def copy_entry(entry: Entry, stored: Any, advance: Callable[[], None]) -> None:
    """Copy block by block. Raises PipelineError when the bytes are not those that were recorded."""
    digest = hashlib.sha256()
    with BytesIO(entry.source) if isinstance(entry.source, bytes) else open(entry.source, "rb") as source:
        while block := source.read(BLOCK):
            digest.update(block)
            stored.write(block)
            advance()
    if digest.hexdigest() != entry.sha256:
        raise PipelineError(f"{entry.name} changed while it was bundled: run again when nothing else writes to it")


class PartWriter:
    """A file that can be written and sought in, kept in parts NAME.001, NAME.002... One of them is open at a time."""

    def __init__(self, path: Path, part_bytes: int) -> None:
        self._path, self._part_bytes = path, part_bytes
        self._position, self._number, self._count = 0, 0, 0
        self._file: BinaryIO | None = None

    def list_paths(self) -> list[Path]:
        """The parts in order."""
        return [self._name(number) for number in range(1, self._count + 1)]

    def write(self, data: Any) -> int:
        """Write at the position, into as many parts as it takes."""
        left = memoryview(data)
        while left:
            index, offset = divmod(self._position, self._part_bytes)
            file = self._open(index + 1)
            file.seek(offset)
            written = file.write(left[: self._part_bytes - offset])
            self._position += written
            left = left[written:]
        return len(data)

    def tell(self) -> int:
        """Bytes from the start of the first part."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """zipfile goes back to an entry's header once it knows the CRC: from the start is all that it asks for."""
        if whence != os.SEEK_SET:
            raise ValueError("only from the start")
        self._position = offset
        return offset

    def flush(self) -> None:
        """Nothing waits here; each part is flushed to the disk when it is closed."""

    def close(self) -> None:
        """Flush the open part to the disk and close it."""
        if self._file is not None:
            flush_to_disk(self._file)
            self._file.close()
            self._file = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, number: int) -> BinaryIO:
        if self._file is None or number != self._number:
            self.close()
            if number > MOST_PARTS:
                raise PipelineError(f"--part-size {self._part_bytes}: more than {MOST_PARTS} parts: give a larger one")
            if number > self._count:
                create_private(self._name(number))
            self._file = open(self._name(number), "r+b")  # noqa: SIM115 - see close
            self._number, self._count = number, max(self._count, number)
        return self._file

    def _name(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number:03}")


@contextmanager
def explain_limit(place: Path) -> Iterator[None]:
    """Say what to do about a disk that takes no large file, as USB sticks do; Windows calls it full then."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EFBIG, errno.ENOSPC):
            raise
        raise PipelineError(
            f"{place.parent}: {error.strerror}: make room, or if it takes no file over 4 GiB (FAT32) add  --part-size 1.9GB"
        ) from None


# -----------------------------------------------------------------------------
# Finishing


def require_whole(first: Path, place: Path) -> None:
    """Read the bundle back as its receiver will. Raises PipelineError for the first thing that is wrong."""
    for tag, text in verify_bundle.check(first):
        if tag == "FAIL":
            raise PipelineError(f"{place.name} does not pass its own check, so it was not kept: {text}")


def put_in_place(unfinished: Path, place: Path) -> None:
    """Give the bundle its name; a folder cannot be replaced by another, so the old one steps aside first."""
    old = place.with_name(f".{place.name}.old")
    remove(old)
    if place.is_dir():
        replace_file(place, old)
    replace_file(unfinished, place)
    remove(old)


def remove(path: Path) -> None:
    """Delete a file or a folder of ours, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def announce(place: Path) -> list[Path]:
    """Print what was made, with the sums that the receiver can ask for; returns the files."""
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    total = sum(path.stat().st_size for path in files)
    proof = place / SUMS if place.is_dir() else place
    print(f"[OK] {place}: {format_bytes(total)} in {len(files)} file{'s' if len(files) > 1 else ''}")
    print(f"[OK] {proof.name} has sha256 {sha256_file(proof)}: tell the receiver by another way than the bundle's")
    return files
