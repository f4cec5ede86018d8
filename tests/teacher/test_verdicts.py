from __future__ import annotations

import email.utils
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from distill.config import TeacherSection
from distill.errors import PipelineError
from distill.teacher import chat
from distill.teacher.requests import Reply
from distill.teacher.verdicts import Judge, read_retry_after
from tests.asking import PRICED, ask_all, make_config, make_request, read_log
from tests.servers import TeacherServer

FOLDER = Path(__file__).parent / "replies"
RECORDED = sorted(FOLDER.glob("*/*.json"))
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"], "additionalProperties": False}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing pauses, but from 10 ms on."""
    monkeypatch.setattr(chat, "FIRST_WAIT_SECONDS", 0.01)


def read_recorded(path: Path) -> dict[str, Any]:
    """A recorded reply: what must happen, status, headers, body."""
    return json.loads(path.read_text(encoding="utf-8"))


def require_end(expect: dict[str, Any], got: Reply | str, requests: int) -> None:
    """The row ended as the recording says, after as many requests as that takes."""
    assert requests == (2 if expect["end"] == "retry" else 1)
    if expect["end"] == "row":
        assert isinstance(got, str) and re.search(expect["match"], got)
        return
    assert isinstance(got, Reply)
    for key in ("text", "model", "finish_reason"):
        assert getattr(got, key) == expect.get(key, getattr(got, key))


def test_every_provider_has_recordings() -> None:
    assert {path.parent.name for path in RECORDED} == {"openrouter", "openai", "ollama", "llamacpp"}
    assert len(RECORDED) >= 40


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recorded_reply_does_what_it_must(tmp_path: Path, path: Path) -> None:
    recorded = read_recorded(path)
    expect = recorded["expect"]
    request = make_request("q0", schema=SCHEMA if expect.get("schema") else None)
    with TeacherServer(fault=lambda number, question: recorded if number == 0 else None) as server:
        config = make_config(tmp_path, server.url, **PRICED)
        if expect["end"] == "stop":
            with pytest.raises(PipelineError, match=expect["match"]):
                ask_all(config, [request])
            assert len(server.requests) == 1
        else:
            require_end(expect, ask_all(config, [request])["q0"], len(server.requests))
    outcome = next(row for row in read_log(config, "ledger") if row["event"] == "outcome")
    if "cost_usd" in expect:
        expected = expect["cost_usd"]
        assert outcome["cost_usd"] == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("path", [path for path in RECORDED if read_recorded(path)["expect"]["end"] == "retry"],
                         ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_may_pass_and_does_not_is_a_row_without_a_reply(tmp_path: Path, path: Path) -> None:
    recorded = read_recorded(path)
    with TeacherServer(fault=lambda number, question: recorded) as server:
        got = ask_all(make_config(tmp_path, server.url), [make_request("q0")])["q0"]
        assert len(server.requests) == 3
    assert isinstance(got, str) and re.search(f"{recorded['expect']['match']}.*\\(3 attempts\\)$", got)


@pytest.mark.parametrize(("header", "seconds"), [
    ({"retry-after": "3"}, 3), ({"retry-after": "0.5"}, 0.5), ({"retry-after": "-4"}, 0), ({}, None),
    ({"retry-after": "soon"}, None), ({"retry-after": "Mon, 23 Nov 2015 10:00:00 GMT"}, 0),
    ({"retry-after-ms": "250", "retry-after": "1"}, 0.25), ({"retry-after-ms": "soon", "retry-after": "2"}, 2),
])
def test_retry_after_may_be_seconds_milliseconds_or_a_date(header: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(header) == seconds


def test_retry_after_may_be_a_date_to_come() -> None:
    header = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert read_retry_after({"retry-after": header}) == pytest.approx(100, abs=5)


def test_a_servers_words_can_be_written_and_hold_no_key() -> None:
    judge = Judge(TeacherSection(), "sk-secret", None)
    assert str(judge.explain_status(400, {"message": "bad \udc00 sk-secret"}, None)) == "refused with 400: bad ? [key]"
    assert len(judge.clean("x" * 5000)) == 200


@pytest.mark.parametrize("body", [None, "", {}, [], "words", {"detail": "no such route"}, {"error": {"error": {}}}])
def test_an_error_of_any_shape_is_one_line(body: Any) -> None:
    assert str(Judge(TeacherSection(), "", None).explain_status(418, body, None)).startswith("refused with 418: ")
