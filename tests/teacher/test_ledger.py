from __future__ import annotations

import re
import secrets
import threading
from pathlib import Path

import pytest

from distill.config import TeacherSection
from distill.errors import PipelineError
from distill.teacher.journal import Journal, set_aside
from distill.teacher.ledger import FILE_NAME, Ledger, Outcome, Spending, load_spending
from distill.teacher.prices import Prices
from distill.teacher.requests import Reply, identify
from tests.asking import make_requests

PRICES = Prices(1e-6, 2e-6)


def open_call(ledger: Ledger, most_usd: float | None = 0.5) -> str:
    """A call of at most 1,000 tokens in and 500 out; the result names it."""
    call = secrets.token_hex(8)
    ledger.open(call, "ab12", "answer", "teacher-1", "teacher.invalid", 1000, 500, most_usd)
    return call


def test_an_intent_counts_at_its_maximum_until_it_is_settled(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        call = open_call(ledger)
        assert load_spending(tmp_path, None) == Spending(1, 0.0, 0.5, 1, 0)
        ledger.settle(call, "ab12", Outcome("200", 900, 100, 0.125), 1.5)
        assert load_spending(tmp_path, None) == ledger.measure(None) == Spending(1, 0.125, 0.0, 0, 0)


def test_runs_add_up(tmp_path: Path) -> None:
    for _ in range(3):
        with Ledger(tmp_path) as ledger:
            ledger.settle(open_call(ledger), "ab12", Outcome("200", 900, 100, 0.25), 1.5)
    assert load_spending(tmp_path, None).known_usd == 0.75


@pytest.mark.parametrize(("outcome", "prices", "expected"), [
    (Outcome("500", cost_usd=0.0), None, Spending(1, 0, 0, 0, 0)),
    (Outcome("no answer"), None, Spending(1, 0, 0, 1, 1)),
    (Outcome("no answer"), PRICES, Spending(1, 0, 0.002, 1, 0)),
    (Outcome("200", 900, 50), None, Spending(1, 0, 0, 0, 0)),
    (Outcome("200", 900, 50), PRICES, Spending(1, 0.001, 0, 0, 0)),
])
def test_what_had_no_price_then_is_counted_with_the_price_of_now(
    tmp_path: Path, outcome: Outcome, prices: Prices | None, expected: Spending
) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.settle(open_call(ledger, None), "ab12", outcome, 1.5)
    found = load_spending(tmp_path, prices)
    assert (found.calls, found.unsettled, found.unpriced) == (expected.calls, expected.unsettled, expected.unpriced)
    assert (found.known_usd, found.possible_usd) == (pytest.approx(expected.known_usd), pytest.approx(expected.possible_usd))


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -50.0, True])
def test_a_cost_that_cannot_be_true_counts_at_the_maximum(tmp_path: Path, cost: float) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.settle(open_call(ledger), "ab12", Outcome("200", 900, 50, cost), 1.5)
    assert load_spending(tmp_path, PRICES) == Spending(1, 0, 0.5, 1, 0)


@pytest.mark.parametrize(("model", "expected"), [("teacher-1", Spending(1, 0.001)), ("teacher-2", Spending(1, 0, 0, 1, 1))])
def test_what_another_model_did_without_a_price_is_possibly_paid(tmp_path: Path, model: str, expected: Spending) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.settle(open_call(ledger, None), "ab12", Outcome("200", 900, 50), 1.5)
    found = load_spending(tmp_path, Prices(1e-6, 2e-6, model=model))
    assert (found.known_usd, found.unsettled, found.unpriced) == (
        pytest.approx(expected.known_usd), expected.unsettled, expected.unpriced,
    )


def test_the_calls_that_were_possibly_paid_are_listed_up_to_ten(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for _ in range(3):
            open_call(ledger)
        lines = ledger.measure(None).describe()
        assert len(lines) == 5 and re.fullmatch(r"  20\S+ answer, request ab12, at most \$0\.50", lines[2])
        for _ in range(9):
            open_call(ledger, None)
    lines = load_spending(tmp_path, None).describe()
    assert len(lines) == 13 and lines[-1] == "  and 2 more" and lines[-2].endswith("request ab12, no known price")


def test_replies_that_are_no_longer_on_disk_are_missed(tmp_path: Path) -> None:
    reply, requests = Reply("It is 80 C.", "stop", "teacher-1", 9, 5, 0.25, "2026-01-01T00:00:00+00:00"), make_requests(3)
    section = TeacherSection()
    with Ledger(tmp_path) as ledger, Journal(tmp_path, section) as journal:
        for request in requests:
            journal.add(request, reply)
            ledger.settle(open_call(ledger), identify(section, request), Outcome("200", 9, 5, 0.25), 1.5)
        ledger.settle(open_call(ledger), "fa17", Outcome("500"), 1.5)
    assert load_spending(tmp_path, None).lost == 0
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "answers.jsonl").write_text(lines[0], encoding="utf-8")
    found = load_spending(tmp_path, None)
    assert found.lost == 2 and found.describe()[-1].startswith("[WARN] 2 replies that were paid for are not in answers.jsonl")
    (tmp_path / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    set_aside(tmp_path)
    assert load_spending(tmp_path, None).lost == 0, "what --overwrite sets aside is not lost"


def test_a_torn_last_line_is_forgotten_and_the_call_counts_as_possibly_paid(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        open_call(ledger)
    with open(tmp_path / FILE_NAME, "ab") as file:
        file.write(b'{"event": "outcome", "call": "')
    assert load_spending(tmp_path, None).unsettled == 1
    with Ledger(tmp_path) as ledger:
        assert ledger.measure(None).unsettled == 1


@pytest.mark.parametrize("line", ['{"event": "paid", "call": "77"}', '{"event": "intent"}', "{}"])
def test_a_line_that_is_none_of_a_ledger_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / FILE_NAME).write_text(line + "\n", encoding="utf-8")
    with pytest.raises(PipelineError, match=r"ledger\.jsonl:1 is no line of a ledger"):
        load_spending(tmp_path, None)


def test_lines_from_many_threads_stay_whole(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        def spend() -> None:
            for _ in range(25):
                ledger.settle(open_call(ledger), "ab" * 5000, Outcome("200", 1, 1, 0.5), 0.1)

        threads = [threading.Thread(target=spend) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert load_spending(tmp_path, None) == Spending(200, 100.0, 0.0, 0, 0)


@pytest.mark.parametrize(("spending", "lines"), [
    (Spending(), []),
    (Spending(3, 0.25), ["[OK] so far: 3 calls, $0.25"]),
    (Spending(3, 0.25, 0.5, 2), [
        "[OK] so far: 3 calls, $0.25",
        "[WARN] 2 calls were cut off and possibly paid, $0.50 at most: a budget counts them in full",
    ]),
])
def test_earlier_runs_are_described(spending: Spending, lines: list[str]) -> None:
    assert spending.describe() == lines


def test_calls_without_a_price_are_named() -> None:
    line = Spending(2, 0, 0.5, 2, 1).describe()[-1]
    assert line.endswith("1 of them without a known price: a budget counts the others in full")
