from __future__ import annotations

import asyncio
import email.utils
import re
import socket
import time
from collections.abc import Callable

import pytest

from distill.config import TeacherSection
from distill.errors import PipelineError
from distill.teacher import chat
from distill.teacher.chat import Outcome, Pace, Request, ask_all, read_retry_after
from tests.servers import TeacherServer, answer_plainly

KEY = "sk-test-7f3a9c2e"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing pauses, but from 10 ms on."""
    monkeypatch.setattr(chat, "FIRST_WAIT_SECONDS", 0.01)


def section(server: TeacherServer | None = None, **changes: object) -> TeacherSection:
    """A teacher section for a server in a test."""
    url = server.url if server else "http://127.0.0.1:9/v1"
    base = {"base_url": url, "model": "teacher-1", "requests_per_minute": 60_000, "max_attempts": 3, "temperature": 0.2}
    return TeacherSection.model_validate({**base, **changes})


def make_requests(count: int) -> list[Request]:
    """Requests whose ids are their questions."""
    return [Request(f"q{number}", [{"role": "user", "content": f"Question: q{number}"}]) for number in range(count)]


def ask(teacher: TeacherSection, count: int = 1, key: str = KEY) -> dict[str, Outcome]:
    """The outcome of each request by id; each is reported once."""
    outcomes: dict[str, Outcome] = {}

    def report(request: Request, outcome: Outcome) -> None:
        assert request.id not in outcomes
        outcomes[request.id] = outcome

    ask_all(teacher, key, make_requests(count), report)
    return outcomes


def first(fault: str, times: int = 1) -> Callable[[int, str], str | None]:
    """The first requests fail in this way, the later ones are answered."""
    return lambda number, question: fault if number < times else None


def test_sends_the_request_as_configured_and_returns_the_text() -> None:
    with TeacherServer() as server:
        outcome = ask(section(server))["q0"]
        sent = server.requests[0]
    assert outcome == Outcome(text=answer_plainly(sent["body"]))
    assert sent["body"] == {
        "model": "teacher-1", "messages": [{"role": "user", "content": "Question: q0"}], "temperature": 0.2, "max_tokens": 1024,
    }
    assert sent["headers"]["authorization"] == f"Bearer {KEY}"


def test_identity_from_the_environment_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "somebody-else")
    with TeacherServer() as server:
        ask(section(server), key="")
        assert "somebody-else" not in str(server.requests[0]["headers"])


@pytest.mark.parametrize("fault", [
    "408", "409", "429", "500", "503", "error-200", "null-choices", "no-choices", "empty", "html", "drop",
])
def test_what_may_pass_is_tried_again(fault: str) -> None:
    with TeacherServer(fault=first(fault)) as server:
        assert ask(section(server))["q0"].text
        assert len(server.requests) == 2


@pytest.mark.parametrize(("fault", "reason"), [
    ("500", r"status 500: internal error \(3 attempts\)"),
    ("429", r"status 429: slow down \(3 attempts\)"),
    ("error-200", r"status 502: provider returned error \(3 attempts\)"),
    ("null-choices", r"without choices \(3 attempts\)"),
    ("empty", r"an empty answer \(3 attempts\)"),
    ("html", r"not a completion.* \(3 attempts\)"),
])
def test_what_does_not_pass_is_a_failure_after_max_attempts(fault: str, reason: str) -> None:
    with TeacherServer(fault=first(fault, 99)) as server:
        outcome = ask(section(server))["q0"]
        assert len(server.requests) == 3
    assert not outcome.text
    assert re.search(reason, outcome.failure)


@pytest.mark.parametrize(("fault", "reason"), [
    ("length", "cut off at max_tokens 1024: raise generate.teacher.max_tokens"),
    ("filtered", "stopped by the teacher: content_filter"),
    ("400", "refused with 400: bad request"),
])
def test_what_cannot_pass_is_a_failure_at_once(fault: str, reason: str) -> None:
    with TeacherServer(fault=first(fault, 99)) as server:
        assert ask(section(server))["q0"] == Outcome(failure=reason)
        assert len(server.requests) == 1


@pytest.mark.parametrize(("fault", "message"), [
    ("401", r"127\.0\.0\.1 refuses the key \(401\): set OPENROUTER_API_KEY, or run  python .* --set-key"),
    ("402", r"wants payment \(402\): top up"),
    ("error-200-402", r"wants payment \(402\): top up"),
    ("404", r"has no model teacher-1 .*404: no such model.* mend generate\.teacher\.model"),
])
def test_what_no_row_can_pass_stops_the_run(fault: str, message: str) -> None:
    with TeacherServer(fault=first(fault, 99)) as server:
        with pytest.raises(PipelineError, match=message):
            ask(section(server, concurrency=1), count=5)
        assert len(server.requests) == 1


def test_answers_before_the_stop_were_reported() -> None:
    seen: list[str] = []

    def report(request: Request, outcome: Outcome) -> None:
        seen.append(request.id)

    fault = lambda number, question: "402" if question == "q3" else None  # noqa: E731
    with TeacherServer(fault=fault) as server, pytest.raises(PipelineError, match="402"):
        ask_all(section(server, concurrency=1), KEY, make_requests(6), report)
    assert seen == ["q0", "q1", "q2"]


def test_retry_after_is_honoured() -> None:
    with TeacherServer(fault=first("429"), retry_after="1") as server:
        ask(section(server))
        times = [request["time"] for request in server.requests]
    assert len(times) == 2 and times[1] - times[0] >= 0.9


def test_one_rows_retry_after_holds_the_others_too() -> None:
    async def measure() -> float:
        pace = Pace(60_000)
        pace.hold(0.3)
        begun = time.monotonic()
        await asyncio.gather(pace.wait(), pace.wait())
        return time.monotonic() - begun

    assert asyncio.run(measure()) >= 0.29


def test_a_retry_after_of_hours_stops_the_run() -> None:
    with TeacherServer(fault=first("429", 9), retry_after="7200") as server, pytest.raises(PipelineError, match="wait 7200 s"):
        ask(section(server))


@pytest.mark.parametrize(("header", "seconds"), [
    ("3", 3), ("0.5", 0.5), ("-4", 0), ("", None), ("soon", None), ("Mon, 23 Nov 2015 10:00:00 GMT", 0),
])
def test_retry_after_may_be_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert read_retry_after({"retry-after": header}) == seconds


def test_retry_after_may_be_a_date_to_come() -> None:
    header = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert read_retry_after({"retry-after": header}) == pytest.approx(100, abs=5)


def test_waits_grow_with_jitter() -> None:
    class State:
        outcome = None

        def __init__(self, attempt: int) -> None:
            self.attempt_number = attempt

    waits = [[chat.choose_wait(State(attempt)) for _ in range(50)] for attempt in (1, 2, 3, 40)]  # type: ignore[arg-type]
    for expected, some in zip((0.01, 0.02, 0.04, 60), waits):
        assert expected / 2 <= min(some) < max(some) <= expected * 1.5


def test_more_than_half_failing_stops_the_run() -> None:
    failing = {f"q{number}" for number in range(10, 100)}
    with TeacherServer(fault=lambda number, question: "400" if question in failing else None) as server:
        with pytest.raises(PipelineError, match=r"26 of the last 36 calls to the teacher failed.*failures\.jsonl"):
            ask(section(server, concurrency=1), count=100)
        assert len(server.requests) == 36


def test_half_failing_does_not_stop_the_run() -> None:
    with TeacherServer(fault=lambda number, question: "400" if int(question[1:]) % 2 else None) as server:
        outcomes = ask(section(server, concurrency=1), count=80)
    assert sum(bool(outcome.failure) for outcome in outcomes.values()) == 40


def test_a_server_that_is_not_there_stops_the_run() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    with pytest.raises(PipelineError, match=f"the teacher at {url} cannot be reached"):
        ask(section(base_url=url), count=4)


def test_slow_answers_are_timeouts() -> None:
    with TeacherServer(fault=first("slow")) as server:
        assert ask(section(server, timeout_seconds=1))["q0"].text
        assert len(server.requests) >= 2


@pytest.mark.parametrize(("concurrency", "fewest", "most"), [(1, 1, 1), (6, 2, 6)])
def test_concurrency_is_used_and_kept(concurrency: int, fewest: int, most: int) -> None:
    with TeacherServer(delay_seconds=0.2) as server:
        ask(section(server, concurrency=concurrency), count=7)
    assert fewest <= server.most_at_once <= most


def test_requests_per_minute_spaces_the_calls() -> None:
    with TeacherServer() as server:
        ask(section(server, concurrency=4, requests_per_minute=600), count=6)
        times = [request["time"] for request in server.requests]
    assert times[-1] - times[0] >= 0.45, "six starts, 0.1 s apart"


def test_the_key_is_taken_out_of_what_a_server_says() -> None:
    with TeacherServer(fault=first("echo-key")) as server:
        failure = ask(section(server))["q0"].failure
    assert KEY not in failure and "Bearer [key]" in failure


def test_half_an_emoji_in_an_answer_or_an_error_can_be_written() -> None:
    with TeacherServer() as server:
        server.text = lambda body: "It is hot. \ud83d"
        assert ask(section(server))["q0"] == Outcome(text="It is hot. ?")
    error = chat.Teacher(section(), KEY)._judge(400, {"message": "bad \udc00"}, None)
    assert str(error) == "refused with 400: bad ?"


def test_another_host_without_tls_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"http://teacher\.invalid/v1 would send key and documents in clear: use https://"):
        ask(section(base_url="http://teacher.invalid/v1"))


def test_loopback_ignores_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with TeacherServer() as server:
        assert ask(section(server))["q0"].text


@pytest.mark.parametrize("name", ["HYBRIDRAG_OFFLINE", "HYBRIDRAG_NETWORK_KILL_SWITCH"])
def test_the_offline_switches_forbid_another_host(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(PipelineError, match=f"{name} is set"):
        ask(section(base_url="https://openrouter.ai/api/v1"))


def test_an_error_in_our_own_code_keeps_its_type() -> None:
    def report(request: Request, outcome: Outcome) -> None:
        raise ZeroDivisionError

    with TeacherServer() as server, pytest.raises(ZeroDivisionError):
        ask_all(section(server), KEY, make_requests(3), report)
