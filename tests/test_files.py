"""Reading and writing: whole or not at all, UTF-8 whatever PowerShell made of it, private."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import files
from distill.errors import PipelineError
from distill.files import (
    JsonlAppender,
    create_private,
    hold_lock,
    make_private,
    read_json,
    read_jsonl,
    read_text,
    replace_file,
    sha256_file,
    write_json_atomic,
    write_jsonl_atomic,
    write_text_atomic,
)

JSON_ROWS = st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=5)


@given(rows=JSON_ROWS)
def test_rows_come_back_as_they_went(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl_atomic(path, rows)
    assert [row for _, row in read_jsonl(path)] == rows


def test_text_is_written_with_lf_and_without_mark(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a.txt", "one\ntwo\u00e9\n")
    assert (tmp_path / "a.txt").read_bytes() == b"one\ntwo\xc3\xa9\n"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl_atomic(path, [{"a": 1}])
    with pytest.raises(TypeError):
        write_jsonl_atomic(path, [{"a": object()}])
    assert read_text(path) == '{"a": 1}\n'
    assert os.listdir(tmp_path) == ["a.jsonl"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xff\xfe{\x00}\x00", "is UTF-16, as PowerShell"),
        (b'{"a": 1}\n\xe9\n', r"x\.jsonl:2 is not UTF-8"),
        (b'{"a": 1}\n{"a": \n', r"x\.jsonl:2 is not JSON .*mend or delete the line"),
        (b'{"a": 1}\n' + b"[" * 100_000 + b"\n", r"x\.jsonl:2 is not JSON \(it is nested too deep\)"),
        (b'{"a": ' + b"1" * 10_000 + b"}\n", r"x\.jsonl:1 is not JSON \(a number has too many digits\)"),
        (b'{"a": "\\ud83d"}\n', r"x\.jsonl:1 holds half of a character"),
        (b"[1]\n", r"x\.jsonl:1 is list, not a JSON object"),
    ],
)
def test_broken_jsonl_names_the_line(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(data)
    with pytest.raises(PipelineError, match=expected):
        list(read_jsonl(tmp_path / "x.jsonl"))


def test_whole_escaped_character_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"a": "\\ud83d\\ude00"}\n')
    assert [row for _, row in read_jsonl(tmp_path / "x.jsonl")] == [{"a": "\U0001f600"}]


def test_missing_and_broken_json(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"x\.json is missing"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{\n"a": }\n')
    with pytest.raises(PipelineError, match=r"x\.json:2 is not JSON"):
        read_json(tmp_path / "x.json")


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [(1, {"a": 1}), (3, {"a": 2})]


def test_line_separators_inside_a_text_do_not_cut_it(tmp_path: Path) -> None:
    write_jsonl_atomic(tmp_path / "x.jsonl", [{"a": "one\u2028two\x85three"}])
    assert [row for _, row in read_jsonl(tmp_path / "x.jsonl")] == [{"a": "one\u2028two\x85three"}]


def test_torn_last_line_is_ignored_on_reading_and_cut_on_appending(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": ')
    assert [row for _, row in read_jsonl(path, torn_end=True)] == [{"a": 1}]
    with JsonlAppender(path) as appender:
        appender.append({"a": 2})
    assert [row for _, row in read_jsonl(path)] == [{"a": 1}, {"a": 2}]


def test_appended_row_is_on_disk_at_once(tmp_path: Path) -> None:
    appender = JsonlAppender(tmp_path / "x.jsonl")
    appender.append({"a": 1})
    assert (tmp_path / "x.jsonl").read_bytes() == b'{"a": 1}\n'
    appender.close()


posix = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")


def read_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@posix
def test_private_files_are_readable_by_the_user_alone(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("")
    (tmp_path / "c.jsonl").chmod(0o644)  # from before it was private
    write_json_atomic(tmp_path / "a.json", {}, private=True)
    for name in ("b.jsonl", "c.jsonl"):
        JsonlAppender(tmp_path / name).close()
    assert {read_mode(tmp_path / name) for name in ("a.json", "b.jsonl", "c.jsonl")} == {0o600}


@posix
def test_a_private_file_is_private_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a file before its rights are set can read what is written later: even without chmod it must be private."""
    monkeypatch.setattr(files, "make_private", lambda path: None)
    old = os.umask(0)
    try:
        create_private(tmp_path / "a")
        write_text_atomic(tmp_path / "b", "text", private=True)
        JsonlAppender(tmp_path / "c.jsonl").close()
    finally:
        os.umask(old)
    assert {read_mode(path) for path in tmp_path.iterdir()} == {0o600}


@posix
def test_a_leftover_in_the_way_is_not_written_into(tmp_path: Path) -> None:
    """A link that somebody put where the temporary file goes does not lead the text elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("old")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to(elsewhere)
    write_text_atomic(tmp_path / "a", "private", private=True)
    assert elsewhere.read_text() == "old" and (tmp_path / "a").read_text() == "private" and not (tmp_path / "a").is_symlink()


@posix
def test_a_private_folder_is_the_user_s_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    make_private(tmp_path / "a")
    assert read_mode(tmp_path / "a") == 0o700


@posix
@pytest.mark.parametrize("error", [None, PermissionError(1, "Operation not permitted")])
def test_a_disk_without_rights_gives_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError | None
) -> None:
    """A USB stick keeps its own modes, with an error or without: here an os.chmod that changes nothing."""

    def keep(path: Path, mode: int) -> None:
        if error:
            raise error

    monkeypatch.setattr(files.os, "chmod", keep)
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("")
        (tmp_path / name).touch(0o644)
        with JsonlAppender(tmp_path / name) as appender:
            appender.append({"a": 1})
    printed = capsys.readouterr().out
    assert printed.count("[WARN]") == 1 and f"{tmp_path} holds document text" in printed


def test_a_full_disk_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_jsonl_atomic(tmp_path / "a.jsonl", [{"a": 1}])
    monkeypatch.setattr(files, "flush_to_disk", fail)
    with pytest.raises(OSError, match="No space left"):
        write_jsonl_atomic(tmp_path / "a.jsonl", [{"a": 2}], private=True)
    assert os.listdir(tmp_path) == ["a.jsonl"] and read_text(tmp_path / "a.jsonl") == '{"a": 1}\n'


def test_replace_waits_for_a_scanner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a scanner that holds the file makes os.replace fail for a moment; here an os.replace that fails at first."""
    (tmp_path / "a").write_text("new")
    released, real = threading.Event(), os.replace
    threading.Timer(0.3, released.set).start()

    def held(source: Path, target: Path) -> None:
        if not released.is_set():
            raise PermissionError
        real(source, target)

    monkeypatch.setattr(files.os, "replace", held)
    replace_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"


def test_replace_gives_up_with_a_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(source: Path, target: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(files.os, "replace", held)
    monkeypatch.setattr(files, "REPLACE_SECONDS", 0.2)
    with pytest.raises(PipelineError, match="held by another program"):
        replace_file(tmp_path / "a", tmp_path / "b")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(("data", "reason"), [(b"[" * 100_000, "it is nested too deep"), (b"1" * 10_000, "too many digits")])
def test_json_that_python_will_not_read_is_one_line(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(PipelineError, match=rf"x\.json:1 is not JSON: .*{reason}"):
        read_json(tmp_path / "x.json")


# -----------------------------------------------------------------------------
# Locks


def test_one_run_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "a"), pytest.raises(PipelineError, match="another run is at work on"):
        hold_lock(tmp_path / "a")
    hold_lock(tmp_path / "a").release()


def test_a_folder_has_one_lock_by_all_its_paths(tmp_path: Path) -> None:
    (tmp_path / "disk" / "data").mkdir(parents=True)
    try:
        (tmp_path / "link").symlink_to(tmp_path / "disk" / "data", target_is_directory=True)
        (tmp_path / "far").symlink_to(tmp_path / "disk", target_is_directory=True)
    except OSError:
        pytest.skip("this Windows user may make no links")
    for first, second in (("link", "disk/data"), ("far/data", "link"), ("disk/data", "disk/../link"), ("far/new", "disk/new")):
        with hold_lock(tmp_path / first), pytest.raises(PipelineError, match="another run is at work on"):
            hold_lock(tmp_path / second)


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match=r"\.a\.lock cannot be made \(.*\): put .* where you may write"):
        hold_lock(tmp_path / "file" / "a")
