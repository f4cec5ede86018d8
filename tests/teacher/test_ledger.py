from __future__ import annotations

import secrets
import threading
from pathlib import Path

import pytest

from distill.errors import PipelineError
from distill.teacher.ledger import FILE_NAME, Ledger, Outcome, Spending, load_spending
from distill.teacher.prices import Prices

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
    assert "1 of them without a known price" in Spending(2, 0, 0.5, 2, 1).describe()[-1]
