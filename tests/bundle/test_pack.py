from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.bundle.pack import ASSET_LIMIT, PartWriter, make_bundle, parse_size
from distill.bundle.verify_bundle import JoinedParts, check
from distill.config import Config
from distill.errors import PipelineError
from distill.files import sha256_file
from tests.bundle.finished import write_gguf

ROOT = Path(__file__).parents[2]
PACK = """
import sys
from pathlib import Path
from distill.bundle.pack import make_bundle
from distill.config import load_config
from distill.errors import run
{before}
size = int(sys.argv[3]) or None
run(lambda: make_bundle(load_config(Path(sys.argv[1])), target=Path(sys.argv[2]), part_bytes=size))
"""


def start(config: Config, target: Path, size: int, before: str = "") -> subprocess.Popen[str]:
    """make_bundle as a process of its own."""
    code, file = PACK.format(before=before), config.work_dir.parent / "config.yaml"
    command = [sys.executable, "-c", code, str(file), str(target), str(size)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def is_whole(path: Path) -> bool:
    """Whether verify_bundle finds nothing wrong."""
    return all(tag != "FAIL" for tag, _ in check(path))


# -----------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize(("text", "size"), [
    ("1.9GB", 1_900_000_000), ("1900MB", 1_900_000_000), ("1900 mb", 1_900_000_000), ("1.5GiB", 3 << 29), ("700MiB", 700 << 20),
    ("500kB", 500_000), ("2000000", 2_000_000), ("2000000B", 2_000_000), (str(ASSET_LIMIT - 1), ASSET_LIMIT - 1),
])  # fmt: skip
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


BAD_SIZES = ("2GiB", "2.2GB", str(ASSET_LIMIT), "0", "0.1", "0GB", "-1GB", "", "GB", "1.9 G", "1,9GB", "1e9", "9TB")


@pytest.mark.parametrize("text", BAD_SIZES)
def test_a_size_that_no_release_takes_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(PipelineError, match="--part-size") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value) and "1.9GB" in str(caught.value)


# -----------------------------------------------------------------------------
# One zip


def test_the_zip_is_stored_and_whole_and_any_program_can_unpack_it(config: Config, tmp_path: Path) -> None:
    target = tmp_path / "new" / "student.zip"
    assert make_bundle(config, target=target, part_bytes=None) == [target]
    assert list(target.parent.iterdir()) == [target] and is_whole(target)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED and info.filename.startswith("student/")
            assert not info.flag_bits & 8  # the sizes stand in front, as readers of a stream need them
        assert archive.getinfo("student/install.sh").external_attr >> 16 & 0o111
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-tq", str(target)], check=True, capture_output=True)


def test_the_same_export_makes_the_same_bytes(config: Config, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_bundle(config, target=tmp_path / name / "student.zip", part_bytes=None)
    assert sha256_file(tmp_path / "a" / "student.zip") == sha256_file(tmp_path / "b" / "student.zip")


def test_a_file_beyond_the_limit_of_plain_zip_is_written_as_zip64(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1_000)
    make_bundle(config, target=tmp_path / "student.zip", part_bytes=None)
    monkeypatch.undo()
    data = (tmp_path / "student.zip").read_bytes()
    assert b"PK\x06\x06" in data and is_whole(tmp_path / "student.zip")
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-tq", str(tmp_path / "student.zip")], check=True, capture_output=True)


def test_a_repeated_run_replaces_the_bundle(config: Config, tmp_path: Path) -> None:
    target = tmp_path / "student.zip"
    target.write_bytes(b"an older one")
    (tmp_path / ".student.zip.unfinished").write_bytes(b"left by a killed run")
    make_bundle(config, target=target, part_bytes=None)
    assert is_whole(target) and not (tmp_path / ".student.zip.unfinished").exists()


def test_the_console_tells_size_and_sha256(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_bundle(config, target=tmp_path / "student.zip", part_bytes=None)
    output = capsys.readouterr().out
    assert output.isascii() and " MB in 1 file\n" in output
    assert f"student.zip has sha256 {sha256_file(tmp_path / 'student.zip')}" in output


# -----------------------------------------------------------------------------
# Parts


def test_parts_join_to_the_very_zip_and_bring_what_installs_them(config: Config, tmp_path: Path) -> None:
    make_bundle(config, target=tmp_path / "student.zip", part_bytes=None)
    made = make_bundle(config, target=tmp_path / "student.zip", part_bytes=20_000)
    folder = tmp_path / "student-parts"
    parts = sorted(folder.glob("student.zip.*"))
    assert sorted(made) == sorted(folder.iterdir()) and len(parts) > 2
    assert {path.name for path in made} - {path.name for path in parts} == {
        "README.txt", "SHA256SUMS", "install.ps1", "install.sh", "verify_bundle.py",
    }  # fmt: skip
    assert [path.name for path in parts] == [f"student.zip.{number:03}" for number in range(1, len(parts) + 1)]
    assert all(path.stat().st_size == 20_000 for path in parts[:-1]) and 0 < parts[-1].stat().st_size <= 20_000
    assert b"".join(path.read_bytes() for path in parts) == (tmp_path / "student.zip").read_bytes()
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: sha256_file(path) for path in made if path.name != "SHA256SUMS"}


def test_fewer_parts_replace_more(config: Config, tmp_path: Path) -> None:
    for size in (10_000, 40_000):
        made = make_bundle(config, target=tmp_path / "student.zip", part_bytes=size)
    assert sorted(made) == sorted((tmp_path / "student-parts").iterdir()) and is_whole(tmp_path / "student-parts")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_with_something_of_the_users_is_not_replaced(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "student-parts"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(PipelineError, match=re.escape("notes.txt is not of a bundle")):
        make_bundle(config, target=tmp_path / "student.zip", part_bytes=20_000)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_more_parts_than_three_digits_count_are_refused_and_nothing_is_left(config: Config, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="more than 999 parts"):
        make_bundle(config, target=tmp_path / "out" / "student.zip", part_bytes=10)
    assert list((tmp_path / "out").iterdir()) == []


@settings(deadline=None)  # it waits for the disk
@given(st.integers(1, 50), st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=120)), max_size=12))
def test_parts_behave_like_one_file(tmp_path_factory: Any, size: int, writes: list[tuple[int, bytes]]) -> None:
    folder, whole = tmp_path_factory.mktemp("parts"), bytearray()
    with PartWriter(folder / "x", size) as parts:
        for place, data in writes:
            place = min(place, len(whole))  # a zip never leaves a gap
            parts.seek(place)
            parts.write(data)
            whole[place : place + len(data)] = data
            assert parts.tell() == place + len(data)
    assert b"".join(path.read_bytes() for path in parts.list_paths()) == bytes(whole)
    assert parts.list_paths() == sorted(folder.iterdir())
    with JoinedParts(parts.list_paths()) as joined:
        for place in (0, *(place for place, _ in writes)):
            joined.seek(place)
            assert joined.readall() == bytes(whole[place:])


# -----------------------------------------------------------------------------
# What goes wrong


@pytest.mark.parametrize("name", ["student", "student.tar", "my student.zip", "a'b.zip", ".zip", "-x.zip", "st\u00fcck.zip"])
def test_a_name_that_travels_badly_is_refused(config: Config, tmp_path: Path, name: str) -> None:
    with pytest.raises(PipelineError, match=r"--bundle .*: call it"):
        make_bundle(config, target=tmp_path / name, part_bytes=None)


def test_a_folder_in_the_place_of_the_zip_is_said(config: Config, tmp_path: Path) -> None:
    (tmp_path / "student.zip").mkdir()
    with pytest.raises(PipelineError, match="is a folder"):
        make_bundle(config, target=tmp_path / "student.zip", part_bytes=None)


def test_a_full_disk_stops_before_the_first_byte(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(PipelineError, match="make room"):
        make_bundle(config, target=tmp_path / "out" / "student.zip", part_bytes=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a process's file size")
def test_a_disk_that_takes_no_large_file_names_part_size_and_leaves_nothing(config: Config, tmp_path: Path) -> None:
    write_gguf(config, padding=3_000_000)
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))"
    process = start(config, tmp_path / "out" / "student.zip", 0, before)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "--part-size 1.9GB" in output and output.count("[FAIL]") == 1
    assert list((tmp_path / "out").iterdir()) == []
    process = start(config, tmp_path / "out" / "student.zip", 1_500_000, before)
    assert process.wait(60) == 0 and is_whole(tmp_path / "out" / "student-parts")


@pytest.mark.parametrize("size", [0, 8_000_000])
def test_a_killed_run_leaves_the_old_bundle_or_the_new_one(config: Config, tmp_path: Path, size: int) -> None:
    target = tmp_path / "out" / "student.zip"
    place = target if not size else target.with_name("student-parts")
    make_bundle(config, target=target, part_bytes=size or None)
    old = sha256_file(place if not size else place / "SHA256SUMS")
    write_gguf(config, padding=40_000_000)
    process = start(config, target, size)
    unfinished = place.with_name(f".{place.name}.unfinished")
    deadline = time.monotonic() + 60
    while not unfinished.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert unfinished.exists()
    process.kill()
    process.communicate()
    assert is_whole(place) and sha256_file(place if not size else place / "SHA256SUMS") == old
    assert {path.name for path in place.parent.iterdir()} == {place.name, unfinished.name}
    again = start(config, target, size)
    assert again.wait(120) == 0 and is_whole(place)
    assert {path.name for path in place.parent.iterdir()} == {place.name}


def test_a_model_that_changes_while_it_is_packed_is_noticed(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between the check of the manifest and the copy.
    from distill.bundle import pack

    def change(folder: Path, needed: int) -> None:
        path = config.gguf_dir / "student-q4_k_m.gguf"
        path.write_bytes(path.read_bytes()[:-1] + b"!")

    monkeypatch.setattr(pack, "require_disk_space", change)
    with pytest.raises(PipelineError, match=re.escape("student-q4_k_m.gguf changed while it was bundled")):
        make_bundle(config, target=tmp_path / "out" / "student.zip", part_bytes=None)
    assert not os.path.exists(tmp_path / "out" / "student.zip") and list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="modes are Unix's")
@pytest.mark.parametrize("size", [None, 20_000])
def test_a_bundle_is_for_the_user_alone(config: Config, tmp_path: Path, size: int | None) -> None:
    made = make_bundle(config, target=tmp_path / "student.zip", part_bytes=size)
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    assert size is None or (tmp_path / "student-parts").stat().st_mode & 0o777 == 0o700
