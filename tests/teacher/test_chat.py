from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from distill.errors import PipelineError
from distill.teacher import chat
from distill.teacher.audit import Audit
from distill.teacher.chat import run_jobs
from distill.teacher.journal import Journal
from distill.teacher.ledger import Ledger, load_spending
from distill.teacher.prices import find_prices
from distill.teacher.requests import Ask, Reply
from tests.asking import KEY, PRICED, ask_all, make_config, make_request, make_requests, read_log
from tests.servers import TeacherServer, answer_plainly, question_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing pauses, but from 10 ms on."""
    monkeypatch.setattr(chat, "FIRST_WAIT_SECONDS", 0.01)


def first(fault: str, times: int = 1) -> Callable[[int, str], str | None]:
    """The first requests fail in this way, the later ones are answered."""
    return lambda number, question: fault if number < times else None


def text_of(got: Reply | str) -> str:
    """The text of a reply; fails the test when there is none."""
    assert isinstance(got, Reply), got
    return got.text


# -----------------------------------------------------------------------------
# What is sent, what comes back


def test_sends_the_request_as_configured_and_returns_the_reply(tmp_path: Path) -> None:
    with TeacherServer() as server:
        got = ask_all(make_config(tmp_path, server.url), [make_request("q0")])["q0"]
        sent = server.requests[0]
    assert text_of(got) == answer_plainly(sent["body"])
    assert (got.finish_reason, got.model, got.prompt_tokens, got.answer_tokens, got.cost_usd) == ("stop", "teacher-1", 1, 1, 0)
    assert sent["body"] == {
        "model": "teacher-1", "messages": [{"role": "user", "content": "Question: q0"}], "temperature": 0.2, "max_tokens": 64,
    }
    assert sent["headers"]["authorization"] == f"Bearer {KEY}"


def test_identity_from_the_environment_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "somebody-else")
    with TeacherServer() as server:
        ask_all(make_config(tmp_path, server.url), [make_request("q0")], key="")
        assert "somebody-else" not in str(server.requests[0]["headers"])


@pytest.mark.parametrize("fault", [
    "408", "409", "429", "500", "503", "error-200", "null-choices", "no-choices", "empty", "html", "drop",
])
def test_what_may_pass_is_tried_again(tmp_path: Path, fault: str) -> None:
    with TeacherServer(fault=first(fault)) as server:
        assert text_of(ask_all(make_config(tmp_path, server.url), [make_request("q0")])["q0"])
        assert len(server.requests) == 2


@pytest.mark.parametrize(("fault", "reason"), [
    ("500", r"status 500: internal error \(3 attempts\)"),
    ("429", r"status 429: slow down \(3 attempts\)"),
    ("error-200", r"status 502: provider returned error \(3 attempts\)"),
    ("null-choices", r"without choices \(3 attempts\)"),
    ("empty", r"an empty answer \(3 attempts\)"),
    ("html", r"not a completion.* \(3 attempts\)"),
])
def test_what_does_not_pass_is_a_failure_after_max_attempts(tmp_path: Path, fault: str, reason: str) -> None:
    with TeacherServer(fault=first(fault, 99)) as server:
        got = ask_all(make_config(tmp_path, server.url), [make_request("q0")])["q0"]
        assert len(server.requests) == 3
    assert isinstance(got, str) and re.search(reason, got)


@pytest.mark.parametrize(("fault", "reason"), [
    ("filtered", "stopped by the teacher: content_filter"),
    ("400", "refused with 400: bad request"),
])
def test_what_cannot_pass_is_a_failure_at_once(tmp_path: Path, fault: str, reason: str) -> None:
    with TeacherServer(fault=first(fault, 99)) as server:
        assert ask_all(make_config(tmp_path, server.url), [make_request("q0")]) == {"q0": reason}
        assert len(server.requests) == 1


def test_a_reply_that_was_cut_off_is_kept_and_says_so(tmp_path: Path) -> None:
    with TeacherServer(fault=first("length")) as server:
        config = make_config(tmp_path, server.url)
        got = ask_all(config, [make_request("q0")])["q0"]
        assert ask_all(config, [make_request("q0")])["q0"] == got
        assert len(server.requests) == 1
    assert isinstance(got, Reply) and got.finish_reason == "length"


def test_slow_answers_are_timeouts(tmp_path: Path) -> None:
    with TeacherServer(fault=first("slow")) as server:
        config = make_config(tmp_path, server.url, timeout_seconds=1, **PRICED)
        assert text_of(ask_all(config, [make_request("q0")])["q0"])
        assert len(server.requests) == 2
    assert load_spending(config.training_dir, None).unsettled == 1, "the first may have been paid"


def test_half_an_emoji_in_an_answer_can_be_written(tmp_path: Path) -> None:
    with TeacherServer(text=lambda body: "It is hot. \ud83d") as server:
        assert text_of(ask_all(make_config(tmp_path, server.url), [make_request("q0")])["q0"]) == "It is hot. ?"


# -----------------------------------------------------------------------------
# Structured replies


def find_wrong_key(text: str) -> str | None:
    """The check of a caller: JSON with the one key."""
    try:
        return None if json.loads(text).keys() == {"answer"} else "other keys"
    except ValueError:
        return "no JSON"


SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"], "additionalProperties": False}


def test_a_schema_is_sent_and_a_reply_that_breaks_it_is_asked_for_again(tmp_path: Path) -> None:
    texts = iter(["I would rather not", '{"reply": "80 C"}', '{"answer": "80 C"}'])
    with TeacherServer(text=lambda body: next(texts)) as server:
        config = make_config(tmp_path, server.url)
        got = ask_all(config, [make_request("q0", schema=SCHEMA, check=find_wrong_key, purpose="judge")])["q0"]
        sent = [request["body"]["response_format"] for request in server.requests]
    assert text_of(got) == '{"answer": "80 C"}' and len(sent) == 3
    assert sent[0] == {"type": "json_schema", "json_schema": {"name": "judge", "strict": True, "schema": SCHEMA}}
    assert len(read_log(config, "answers")) == 1, "what broke the schema is not kept"
    assert sum(row["event"] == "outcome" for row in read_log(config, "ledger")) == 3, "but it is in the account"


def test_a_reply_that_never_keeps_the_schema_is_a_row_without_one(tmp_path: Path) -> None:
    with TeacherServer(text=lambda body: "no") as server:
        request = make_request("q0", schema=SCHEMA, check=find_wrong_key)
        config = make_config(tmp_path, server.url)
        got = ask_all(config, [request])["q0"]
    assert got == "a reply that is not as asked: no JSON (3 attempts)"
    assert load_spending(config.training_dir, None).lost == 0, "it was never kept, so it is not missed"


def test_a_kept_reply_that_a_stricter_check_refuses_is_asked_for_again(tmp_path: Path) -> None:
    with TeacherServer() as server:
        config = make_config(tmp_path, server.url)
        ask_all(config, [make_request("q0")])
        server.text = lambda body: "A better one."
        request = make_request("q0", check=lambda text: None if "better" in text else "not better")
        assert text_of(ask_all(config, [request])["q0"]) == "A better one."


# -----------------------------------------------------------------------------
# What stops the run


@pytest.mark.parametrize(("fault", "message"), [
    ("401", r"127\.0\.0\.1 refuses the key \(401\): set OPENROUTER_API_KEY, or run  python .* --set-key"),
    ("402", r"wants payment \(402: no credit\): top up"),
    ("error-200-402", r"wants payment \(402: no credit\): top up"),
    ("404", r"has no model teacher-1 .*404: no such model.* mend generate\.teacher\.model"),
])
def test_what_no_row_can_pass_stops_the_run(tmp_path: Path, fault: str, message: str) -> None:
    with TeacherServer(fault=first(fault, 99)) as server:
        with pytest.raises(PipelineError, match=message):
            ask_all(make_config(tmp_path, server.url, concurrency=1), make_requests(5))
        assert len(server.requests) == 1


def test_replies_before_the_stop_are_kept(tmp_path: Path) -> None:
    fault = lambda number, question: "402" if question == "q3" else None  # noqa: E731
    with TeacherServer(fault=fault) as server:
        config = make_config(tmp_path, server.url, concurrency=1)
        with pytest.raises(PipelineError, match="402"):
            ask_all(config, make_requests(6))
    assert [row["rows"] for row in read_log(config, "answers")] == [["q0"], ["q1"], ["q2"]]


def test_calls_in_flight_when_the_run_stops_are_waited_for_and_kept(tmp_path: Path) -> None:
    def refuse_late(number: int, question: str) -> str:
        """q0 ends the run once the others are on their way."""
        if question != "q0":
            return "slow"
        wait_for(lambda: len(server.requests) == 3)
        return "402"

    with TeacherServer(fault=refuse_late) as server:
        config = make_config(tmp_path, server.url, concurrency=3, **PRICED)
        with pytest.raises(PipelineError, match="402"):
            ask_all(config, make_requests(3))
        kept = {row["rows"][0] for row in read_log(config, "answers")}
        assert kept == {"q1", "q2"} and load_spending(config.training_dir, None).unsettled == 0
        server.fault = lambda number, question: None
        asked = len(server.requests)
        assert len(ask_all(config, make_requests(3))) == 3
        assert len(server.requests) == asked + 1, "only q0 is asked again"


def test_a_retry_after_of_hours_stops_the_run(tmp_path: Path) -> None:
    with TeacherServer(fault=first("429", 9), retry_after="7200") as server, pytest.raises(PipelineError, match="wait 7200 s"):
        ask_all(make_config(tmp_path, server.url), [make_request("q0")])


def test_more_than_half_failing_stops_the_run(tmp_path: Path) -> None:
    failing = {f"q{number}" for number in range(10, 100)}
    with TeacherServer(fault=lambda number, question: "400" if question in failing else None) as server:
        with pytest.raises(PipelineError, match=r"40 of the last 50 calls .*: refused with 400: .*failures\.jsonl"):
            ask_all(make_config(tmp_path, server.url, concurrency=1), make_requests(100))
        assert len(server.requests) == 50


def test_calls_count_and_not_requests_when_more_than_half_fail(tmp_path: Path) -> None:
    with TeacherServer(fault=lambda number, question: "500" if number % 3 else None) as server:
        with pytest.raises(PipelineError, match=r"3[34] of the last 50 calls .*status 500: internal error"):
            ask_all(make_config(tmp_path, server.url, concurrency=1, max_attempts=5), make_requests(100))
        # A slot is free again before the failure is on disk, so that one more call may be under way.
        assert 50 <= len(server.requests) <= 51 and read_log(make_config(tmp_path, server.url), "answers")


def test_a_teacher_that_fails_from_the_start_is_given_up_early(tmp_path: Path) -> None:
    with TeacherServer(fault=first("500", 999)) as server:
        with pytest.raises(PipelineError, match=r"(2\d) of the last \1 calls to the teacher failed"):
            ask_all(make_config(tmp_path, server.url, concurrency=1, max_attempts=8), make_requests(10))
        # A slot is free again before the failure is on disk, so that one more call may be under way.
        assert 20 <= len(server.requests) <= 22


def test_being_asked_to_wait_is_no_failed_call(tmp_path: Path) -> None:
    with TeacherServer(fault=lambda number, question: "429" if number % 4 else None, retry_after="0") as server:
        got = ask_all(make_config(tmp_path, server.url, concurrency=1, max_attempts=99), make_requests(25))
        assert len(server.requests) > 90
    assert all(isinstance(reply, Reply) for reply in got.values())


def test_a_server_that_turns_every_call_away_is_given_up(tmp_path: Path) -> None:
    with TeacherServer(fault=first("429", 999), retry_after="0") as server:
        with pytest.raises(PipelineError, match=r"(2\d) of the last \1 calls .*status 429: slow down"):
            ask_all(make_config(tmp_path, server.url, concurrency=1, max_attempts=1), make_requests(60))
        assert 20 <= len(server.requests) <= 22


def test_half_failing_does_not_stop_the_run(tmp_path: Path) -> None:
    with TeacherServer(fault=lambda number, question: "400" if int(question[1:]) % 2 else None) as server:
        got = ask_all(make_config(tmp_path, server.url, concurrency=1), make_requests(80))
    assert sum(isinstance(reply, str) for reply in got.values()) == 40


@pytest.mark.parametrize("max_attempts", [3, 30])
def test_a_server_that_is_not_there_stops_the_run_and_costs_nothing(tmp_path: Path, max_attempts: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    config = make_config(tmp_path, url, max_attempts=max_attempts, **PRICED)
    with pytest.raises(PipelineError, match=f"the teacher at {url} cannot be reached"):
        ask_all(config, make_requests(4))
    assert load_spending(config.training_dir, find_prices(config.generate.teacher)).most_usd == 0


def test_an_error_in_our_own_code_keeps_its_type(tmp_path: Path) -> None:
    async def fail(ask: Ask) -> None:
        await ask(make_request("q0"))
        raise ZeroDivisionError

    with TeacherServer() as server:
        config = make_config(tmp_path, server.url)
        with Journal(config.training_dir, config.generate.teacher) as journal, Ledger(config.training_dir) as ledger, \
                pytest.raises(ZeroDivisionError):
            run_jobs(config.generate.teacher, KEY, [fail] * 3, journal, ledger, None)


def test_a_full_disk_is_no_broken_connection(tmp_path: Path) -> None:
    broken = openai.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1/v1"))
    broken.__cause__ = OSError(28, "No space left on device")
    config = make_config(tmp_path, "http://127.0.0.1:9/v1")
    section = config.generate.teacher
    with Journal(tmp_path, section) as journal, Ledger(tmp_path) as ledger, Audit(tmp_path, "teacher-1") as audit, \
            pytest.raises(OSError, match="No space left"):
        chat.Teacher(section, KEY, journal, ledger, audit)._judge_connection(broken)


def test_on_a_full_disk_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "ROOM_BYTES", 2**70)
    with TeacherServer() as server:
        with pytest.raises(PipelineError, match="training_data is full, so nothing is sent: make room"):
            ask_all(make_config(tmp_path, server.url), make_requests(3))
        assert not server.requests


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("depth", [400, 900, 100_000])
def test_an_answer_that_is_nested_too_deeply_is_tried_again(tmp_path: Path, status: int, depth: int) -> None:
    body = '{"error": ' + "[" * depth + "7" + "]" * depth + "}"
    deep = {"status": status, "headers": {"Content-Type": "application/json"}, "body": body}
    with TeacherServer(fault=lambda number, question: deep if question == "q0" else None) as server:
        got = ask_all(make_config(tmp_path, server.url, concurrency=1), make_requests(2))
        assert len(server.requests) == 4
    assert isinstance(got["q0"], str) and got["q0"].endswith("(3 attempts)") and text_of(got["q1"])


def test_an_answer_in_parts_is_joined(tmp_path: Path) -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "It is "},
             {"type": "text", "text": "80 C."}]
    with TeacherServer(text=lambda body: parts) as server:  # type: ignore[arg-type,return-value]
        assert text_of(ask_all(make_config(tmp_path, server.url), [make_request("q0")])["q0"]) == "It is 80 C."


@pytest.mark.parametrize("content", [7, {"text": "x"}, [{"type": "text"}]], ids=str)
def test_an_answer_that_is_no_text_is_tried_again(tmp_path: Path, content: Any) -> None:
    texts = iter([content, "It is 80 C."])
    with TeacherServer(text=lambda body: next(texts)) as server:
        assert text_of(ask_all(make_config(tmp_path, server.url), [make_request("q0")])["q0"]) == "It is 80 C."


# -----------------------------------------------------------------------------
# Pace


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    with TeacherServer(fault=first("429"), retry_after="1") as server:
        ask_all(make_config(tmp_path, server.url), [make_request("q0")])
        times = [request["time"] for request in server.requests]
    assert len(times) == 2 and times[1] - times[0] >= 0.9


def test_one_refusal_holds_its_own_row_alone(tmp_path: Path) -> None:
    with TeacherServer(fault=first("429"), retry_after="2") as server:
        ask_all(make_config(tmp_path, server.url, concurrency=1), make_requests(6))
        times = {question_of(request["body"]): request["time"] for request in server.requests}
    assert times["q5"] - times["q1"] < 1 < times["q0"] - times["q1"], "the others went on meanwhile, in its slot"


def test_many_refusals_hold_every_row(tmp_path: Path) -> None:
    with TeacherServer(fault=first("429", 5), retry_after="1") as server:
        ask_all(make_config(tmp_path, server.url, concurrency=5, max_attempts=5), make_requests(40))
        times = [request["time"] for request in server.requests]
    assert times[10] - times[4] > 0.7, "after the fifth refusal nobody calls for a second"


def test_waits_grow_with_jitter() -> None:
    class State:
        outcome = None

        def __init__(self, attempt: int) -> None:
            self.attempt_number = attempt

    waits = [[chat.choose_wait(State(attempt)) for _ in range(50)] for attempt in (1, 2, 3, 40)]  # type: ignore[arg-type]
    for expected, some in zip((0.01, 0.02, 0.04, 60), waits):
        assert expected / 2 <= min(some) < max(some) <= expected * 1.5


@pytest.mark.parametrize(("concurrency", "fewest", "most"), [(1, 1, 1), (6, 2, 6)])
def test_concurrency_is_used_and_kept(tmp_path: Path, concurrency: int, fewest: int, most: int) -> None:
    with TeacherServer(delay_seconds=0.2) as server:
        ask_all(make_config(tmp_path, server.url, concurrency=concurrency), make_requests(7))
    assert fewest <= server.most_at_once <= most


def test_requests_per_minute_spaces_the_calls(tmp_path: Path) -> None:
    with TeacherServer() as server:
        ask_all(make_config(tmp_path, server.url, requests_per_minute=600), make_requests(6))
        times = [request["time"] for request in server.requests]
    assert times[-1] - times[0] >= 0.45, "six starts, 0.1 s apart"


def test_tokens_per_minute_spaces_the_calls_and_heeds_what_the_server_counts(tmp_path: Path) -> None:
    heavy = {"prompt_tokens": 400, "completion_tokens": 100}
    with TeacherServer(usage=lambda body: heavy) as server:
        config = make_config(tmp_path, server.url, concurrency=1, tokens_per_minute=60_000)
        ask_all(config, make_requests(4))
        times = [request["time"] for request in server.requests]
    assert times[-1] - times[0] >= 1.4, "500 tokens counted at 1,000 a second: three times 0.5 s, though 69 were guessed"


def test_several_questions_of_one_job_are_asked_in_order(tmp_path: Path) -> None:
    texts: list[str] = []

    async def converse(ask: Ask) -> None:
        for name in ("a", "b", "c"):
            texts.append((await ask(make_request(name))).text)

    with TeacherServer(text=lambda body: question_of(body)) as server:
        config = make_config(tmp_path, server.url)
        with Journal(config.training_dir, config.generate.teacher) as journal, Ledger(config.training_dir) as ledger:
            run_jobs(config.generate.teacher, KEY, [converse], journal, ledger, None)
    assert texts == ["a", "b", "c"]


# -----------------------------------------------------------------------------
# Journal and ledger


def test_a_reply_on_disk_is_not_asked_for_again(tmp_path: Path) -> None:
    with TeacherServer() as server:
        config = make_config(tmp_path, server.url)
        before = ask_all(config, make_requests(3))
        assert ask_all(config, make_requests(3)) == before and len(server.requests) == 3


@pytest.mark.parametrize("change", [
    {"model": "teacher-2"}, {"temperature": 0.9},
])
def test_a_changed_setting_is_a_new_request(tmp_path: Path, change: dict[str, Any]) -> None:
    with TeacherServer() as server:
        ask_all(make_config(tmp_path, server.url), [make_request("q0")])
        ask_all(make_config(tmp_path, server.url, **change), [make_request("q0")])
        assert len(server.requests) == 2


def test_one_question_asked_by_two_rows_is_paid_once(tmp_path: Path) -> None:
    with TeacherServer(delay_seconds=0.1) as server:
        twins = [make_request("same"), make_request("same", row_ids=("other",))]
        got = ask_all(make_config(tmp_path, server.url), twins)
        assert len(server.requests) == 1
    assert got["same"] == got["other"]


def test_every_attempt_has_an_intent_and_an_outcome(tmp_path: Path) -> None:
    faults = {0: "500", 1: "429", 2: "drop"}
    with TeacherServer(fault=lambda number, question: faults.get(number)) as server:
        config = make_config(tmp_path, server.url, max_attempts=5, **PRICED)
        ask_all(config, [make_request("q0")])
    rows = read_log(config, "ledger")
    assert [row["event"] for row in rows] == ["intent", "outcome"] * 4
    assert [row["status"] for row in rows[1::2]] == ["500", "429", "no answer", "200"]
    assert [row["cost_usd"] for row in rows[1::2]] == [None, 0, None, pytest.approx(3e-6)]
    assert len({row["request"] for row in rows}) == 1 and len({row["call"] for row in rows}) == 4


def test_note_hears_what_was_spent(tmp_path: Path) -> None:
    heard: list[str] = []
    with TeacherServer(usage=lambda body: {"prompt_tokens": 50_000, "completion_tokens": 25_000}) as server:
        ask_all(make_config(tmp_path, server.url, budget_usd=5, **PRICED), make_requests(3), note=heard.append)
    assert heard == ["$0.10 of $5.00, 1 requests", "$0.20 of $5.00, 2 requests", "$0.30 of $5.00, 3 requests"]


CHILD = """
import sys
from pathlib import Path
from tests.asking import PRICED, ask_all, make_config, make_requests
ask_all(make_config(Path(sys.argv[1]), sys.argv[2], concurrency=4, **PRICED), make_requests(60))
"""


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.01)


def test_after_a_kill_only_the_calls_in_flight_are_repeated_and_count_as_possibly_paid(tmp_path: Path) -> None:
    with TeacherServer(delay_seconds=0.05) as server:
        config = make_config(tmp_path, server.url, concurrency=4, **PRICED)
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), server.url], cwd=ROOT)
        wait_for(lambda: len(server.requests) >= 20)
        child.kill()
        child.wait()
        spending = load_spending(config.training_dir, find_prices(config.generate.teacher))
        assert 1 <= spending.unsettled <= 4 and spending.possible_usd > 0
        assert "possibly paid" in spending.describe()[1] and len(spending.describe()) == 2 + spending.unsettled
        assert len(ask_all(config, make_requests(60))) == 60
        asked = Counter(question_of(request["body"]) for request in server.requests)
    assert len(asked) == 60 and sum(asked.values()) - 60 <= 4
    assert load_spending(config.training_dir, None).unsettled == spending.unsettled, "the account forgets nothing"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one child")
def test_ctrl_c_stops_at_once_and_leaves_whole_files(tmp_path: Path) -> None:
    with TeacherServer(delay_seconds=5) as server:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), server.url], cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(server.requests) == 4)
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        child.wait(timeout=30)
        assert time.monotonic() - begun < 4, "calls in flight are not waited for"
    config = make_config(tmp_path, server.url)
    outcomes = [row["status"] for row in read_log(config, "ledger") if row["event"] == "outcome"]
    assert outcomes == ["no answer"] * 4


# -----------------------------------------------------------------------------
# What must not leak


def test_the_key_is_taken_out_of_what_a_server_says_and_stands_in_no_file(tmp_path: Path) -> None:
    with TeacherServer(fault=first("echo-key")) as server:
        failure = ask_all(make_config(tmp_path, server.url), make_requests(2))["q0"]
    assert isinstance(failure, str) and KEY not in failure and "Bearer [key]" in failure
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_key_that_comes_back_as_the_models_name_is_taken_out(tmp_path: Path) -> None:
    with TeacherServer() as server:
        body = {"model": f"m {KEY}\n", "choices": [{"finish_reason": "stop", "message": {"content": "It is 80 C."}}]}
        server.fault = lambda number, question: {"status": 200, "body": body}
        got = ask_all(make_config(tmp_path, server.url), [make_request("q0")])["q0"]
    assert isinstance(got, Reply) and got.model == "m [key]"
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_another_host_without_tls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"http://teacher\.invalid/v1 would send key and documents in clear: use https://"):
        ask_all(make_config(tmp_path, "http://teacher.invalid/v1"), [make_request("q0")])


def test_loopback_ignores_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with TeacherServer() as server:
        assert text_of(ask_all(make_config(tmp_path, server.url), [make_request("q0")])["q0"])


@pytest.mark.parametrize("name", ["HYBRIDRAG_OFFLINE", "HYBRIDRAG_NETWORK_KILL_SWITCH"])
def test_the_offline_switches_forbid_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(PipelineError, match=f"{name} is set"):
        ask_all(make_config(tmp_path, "https://openrouter.ai/api/v1"), [make_request("q0")])


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with TeacherServer() as elsewhere:
        moved = {"status": 307, "headers": {"Location": f"{elsewhere.url}/chat/completions"}, "body": {}}
        with TeacherServer(fault=lambda number, question: moved) as server:
            got = ask_all(make_config(tmp_path, server.url), [make_request("q0")])["q0"]
        assert isinstance(got, str) and "307" in got and not elsewhere.requests


def test_jobs_that_need_no_call_need_no_server(tmp_path: Path) -> None:
    async def rest(ask: Ask) -> None:
        await asyncio.sleep(0)

    config = make_config(tmp_path, "http://127.0.0.1:9/v1")
    with Journal(config.training_dir, config.generate.teacher) as journal, Ledger(config.training_dir) as ledger:
        run_jobs(config.generate.teacher, KEY, [rest] * 50, journal, ledger, None)
