from __future__ import annotations

import hashlib
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from distill.errors import PipelineError
from distill.files import hold_lock
from distill.teacher import chat
from distill.teacher.audit import FILE_NAME, open_audit
from distill.teacher.preflight import check_teacher
from tests.asking import KEY, ask_all, make_config, make_request, make_requests, read_log
from tests.servers import TeacherServer


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing pauses, but from 10 ms on."""
    monkeypatch.setattr(chat, "FIRST_WAIT_SECONDS", 0.01)


def sizes_and_digests(bodies: list[bytes]) -> list[tuple[int, str]]:
    """Of what came in at a server."""
    return [(len(body), hashlib.sha256(body).hexdigest()) for body in bodies]


def test_the_very_bytes_are_on_record_before_they_are_sent(tmp_path: Path) -> None:
    lines_by_then: list[int] = []

    def look(number: int, question: str) -> Any:
        lines_by_then.append((tmp_path / "training_data" / FILE_NAME).read_bytes().count(b"\n"))
        return None

    with TeacherServer(fault=look) as server:
        config = make_config(tmp_path, server.url, concurrency=1)
        ask_all(config, [make_request("q\u00b0\u03a9"), make_request("q1", row_ids=("r1", "r2"))])
    lines = read_log(config, "audit")
    assert [(line["bytes"], line["sha256"]) for line in lines] == sizes_and_digests(server.bodies)
    assert lines_by_then == [1, 2]
    assert [line["rows"] for line in lines] == [["q\u00b0\u03a9"], ["r1", "r2"]]
    assert {(line["host"], line["path"], line["model"], line["method"]) for line in lines} == {
        ("127.0.0.1", "/v1/chat/completions", "teacher-1", "POST"),
    }


def test_every_attempt_of_every_row_is_on_record(tmp_path: Path) -> None:
    with TeacherServer(fault=lambda number, question: "500" if number in (0, 3) else None) as server:
        config = make_config(tmp_path, server.url, concurrency=3)
        ask_all(config, make_requests(6))
    lines = read_log(config, "audit")
    assert len(lines) == 8
    assert sorted((line["bytes"], line["sha256"]) for line in lines) == sorted(sizes_and_digests(server.bodies))
    assert sorted({line["rows"][0] for line in lines}) == [f"q{number}" for number in range(6)]


def test_the_preflight_is_on_record_and_the_key_is_not(tmp_path: Path) -> None:
    with TeacherServer() as server:
        config = make_config(tmp_path, server.url)
        check_teacher(config, KEY)
    (line,) = read_log(config, "audit")
    assert (line["method"], line["path"], line["bytes"], line["rows"]) == ("GET", "/v1/models", 0, [])
    assert KEY not in (config.training_dir / FILE_NAME).read_text(encoding="utf-8")


@pytest.mark.parametrize("at_work", [True, False])
def test_a_look_at_the_teacher_cuts_no_line_that_another_run_is_writing(tmp_path: Path, at_work: bool) -> None:
    with TeacherServer() as server:
        config = make_config(tmp_path, server.url)
        with hold_lock(config.training_dir) if at_work else nullcontext():
            config.training_dir.mkdir()
            log = config.training_dir / FILE_NAME
            log.write_bytes(b'{"half": ')
            check_teacher(config, KEY)
            text = log.read_bytes()
    assert text.startswith(b'{"half": ') == at_work and text.count(b"\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists")
def test_a_log_that_a_guest_makes_is_private(tmp_path: Path) -> None:
    with hold_lock(tmp_path), open_audit(tmp_path, "teacher-1") as audit:
        audit.append({"time": "now"})
        open_audit(tmp_path, "teacher-1").close()
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0
    assert (tmp_path / FILE_NAME).read_bytes() == b'{"time": "now"}\n'


def test_what_is_never_sent_leaves_no_line(tmp_path: Path) -> None:
    config = make_config(tmp_path, "https://teacher.invalid/v1", budget_usd=1)
    with pytest.raises(PipelineError):
        ask_all(config, make_requests(1))
    assert read_log(config, "audit") == []
