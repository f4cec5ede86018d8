"""Reading and writing: whole or not at all, UTF-8 whatever PowerShell made of it, private."""

from __future__ import annotations

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


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_private_files_are_readable_by_the_user_alone(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", {}, private=True)
    JsonlAppender(tmp_path / "b.jsonl").close()
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.json", "b.jsonl")] == [0o600, 0o600]


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
