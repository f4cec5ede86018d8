from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import PipelineError
from distill.teacher import chat
from distill.teacher.budget import Budget
from distill.teacher.ledger import Outcome, Spending, load_spending
from distill.teacher.prices import Prices, find_prices
from tests.asking import ask_all, make_config, make_request, make_requests, read_log
from tests.servers import TeacherServer

PRICES = Prices(1e-6, 2e-6)
# A request for q0 is 44 bytes and marks and 64 tokens at most: at a dollar a token, at most 108 dollars.
DOLLAR_A_TOKEN = {"prompt_usd_per_million": 1e6, "answer_usd_per_million": 1e6}
MOST = 108


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing pauses, but from 10 ms on."""
    monkeypatch.setattr(chat, "FIRST_WAIT_SECONDS", 0.01)


def usage(dollars: int) -> Any:
    """A server's figures for a call that costs so many dollars."""
    return lambda body: {"prompt_tokens": 1, "completion_tokens": dollars - 1}


def test_the_next_call_that_could_pass_the_budget_stops_the_run(tmp_path: Path) -> None:
    with TeacherServer(usage=usage(50)) as server:
        config = make_config(tmp_path, server.url, concurrency=1, budget_usd=300, **DOLLAR_A_TOKEN)
        with pytest.raises(PipelineError, match=r"budget_usd 300 is reached: \$200\.00 spent, .* may cost \$108\.00;"):
            ask_all(config, make_requests(9))
        assert len(server.requests) == 4, "after 200 of 300 dollars, 108 no longer fit"


def test_the_budget_holds_over_all_runs(tmp_path: Path) -> None:
    with TeacherServer(usage=usage(50)) as server:
        config = make_config(tmp_path, server.url, concurrency=1, budget_usd=300, **DOLLAR_A_TOKEN)
        for _ in range(3):
            with pytest.raises(PipelineError, match="budget_usd 300"):
                ask_all(config, make_requests(9))
        assert len(server.requests) == 4
        raised = make_config(tmp_path, server.url, concurrency=1, budget_usd=1000, **DOLLAR_A_TOKEN)
        assert len(ask_all(raised, make_requests(9))) == 9 and len(server.requests) == 9


def test_with_little_left_fewer_calls_go_out_at_once_and_none_is_given_up(tmp_path: Path) -> None:
    with TeacherServer(usage=usage(2), delay_seconds=0.05) as server:
        config = make_config(tmp_path, server.url, concurrency=8, budget_usd=250, **DOLLAR_A_TOKEN)
        got = ask_all(config, make_requests(20))
    assert len(got) == 20 and server.most_at_once == 2, "two times 108 fit into 250"


def test_a_call_that_may_have_been_paid_counts_at_its_maximum(tmp_path: Path) -> None:
    with TeacherServer(usage=usage(2), fault=lambda number, question: "drop" if number == 0 else None) as server:
        config = make_config(tmp_path, server.url, concurrency=1, budget_usd=200, **DOLLAR_A_TOKEN)
        with pytest.raises(PipelineError, match=r"\$0\.00 and possibly \$108\.00 spent"):
            ask_all(config, [make_request("q0")])
        assert len(server.requests) == 1
    spending = load_spending(config.training_dir, find_prices(config.generate.teacher))
    assert (spending.unsettled, spending.possible_usd) == (1, MOST)


def test_failed_calls_that_cost_nothing_leave_the_budget_alone(tmp_path: Path) -> None:
    with TeacherServer(usage=usage(2), fault=lambda number, question: "429" if number < 2 else None) as server:
        config = make_config(tmp_path, server.url, budget_usd=MOST, **DOLLAR_A_TOKEN)
        assert len(ask_all(config, [make_request("q0")])) == 1
        assert len(server.requests) == 3


def test_the_providers_own_figure_counts_where_it_gives_one(tmp_path: Path) -> None:
    with TeacherServer(usage=lambda body: {"prompt_tokens": 5, "completion_tokens": 5, "cost": 0.125}) as server:
        config = make_config(tmp_path, server.url, **DOLLAR_A_TOKEN)
        ask_all(config, make_requests(2))
    assert load_spending(config.training_dir, None).known_usd == 0.25


def test_an_answer_without_usage_counts_at_its_maximum(tmp_path: Path) -> None:
    with TeacherServer(usage=lambda body: None) as server:
        config = make_config(tmp_path, server.url, **DOLLAR_A_TOKEN)
        ask_all(config, [make_request("q0")])
    assert load_spending(config.training_dir, None).possible_usd == MOST


def test_a_teacher_on_this_machine_is_free_whatever_the_budget(tmp_path: Path) -> None:
    with TeacherServer(fault=lambda number, question: "drop" if number == 0 else None) as server:
        config = make_config(tmp_path, server.url, budget_usd=0.01)
        assert len(ask_all(config, make_requests(3))) == 3
    assert load_spending(config.training_dir, None).unsettled == 0
    assert all(not row.get("cost_usd") for row in read_log(config, "ledger"))


def test_a_budget_without_a_price_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path, "https://teacher.invalid/v1", budget_usd=5)
    with pytest.raises(PipelineError, match=r"the price of teacher-1 is not known: set .*prompt_usd_per_million"):
        ask_all(config, [make_request("q0")])


FIGURES = {"prompt_tokens": 44, "completion_tokens": 64}  # the maximum, 108 dollars


@pytest.mark.parametrize("figures", [
    {"total_tokens": 108}, {"prompt_tokens": None, "completion_tokens": None}, {"input_tokens": 44, "output_tokens": 64},
    {"prompt_tokens": 44}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 44, "completion_tokens": 0},
    {"prompt_tokens": -44, "completion_tokens": -64}, {"prompt_tokens": True, "completion_tokens": True},
    {"prompt_tokens": "44", "completion_tokens": "64"}, {"prompt_tokens": float("inf"), "completion_tokens": 64},
    {"prompt_tokens": 10**400, "completion_tokens": 64}, {**FIGURES, "cost": 0}, {**FIGURES, "cost": False},
    {**FIGURES, "cost": -50}, {**FIGURES, "cost": float("nan")}, {**FIGURES, "cost": float("inf")}, {**FIGURES, "cost": "108"},
    {**FIGURES, "cost": 10**400}, {**FIGURES, "cost": 0, "is_byok": True},
    {**FIGURES, "cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": -1}},
], ids=str)
def test_figures_that_cannot_be_true_count_at_the_maximum(tmp_path: Path, figures: dict[str, Any]) -> None:
    with TeacherServer(usage=lambda body: figures) as server:
        config = make_config(tmp_path, server.url, concurrency=1, budget_usd=2.5 * MOST, **DOLLAR_A_TOKEN)
        for _ in range(2):
            with pytest.raises(PipelineError, match=r"possibly \$216\.00 spent"):
                ask_all(config, make_requests(9))
        assert len(server.requests) == 2


def test_an_own_key_may_cost_nothing_at_the_provider(tmp_path: Path) -> None:
    figures = {**FIGURES, "cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.5}}
    with TeacherServer(usage=lambda body: figures) as server:
        config = make_config(tmp_path, server.url, budget_usd=MOST + 2, **DOLLAR_A_TOKEN)
        assert len(ask_all(config, make_requests(4))) == 4
    assert load_spending(config.training_dir, None).most_usd == 2


def make_error(code: int, **changes: Any) -> dict[str, Any]:
    """An error inside a 200."""
    return {"status": 200, "body": {"error": {"code": code, "message": "no"}, **changes}}


HALF = [{"index": 0, "finish_reason": "error", "message": {"role": "assistant", "content": "The limit is"}}]


@pytest.mark.parametrize(("reply", "possible"), [
    (make_error(429), 0), (make_error(400), 0), (make_error(422, usage={"prompt_tokens": 0, "completion_tokens": 0}), 0),
    (make_error(408), MOST), (make_error(499), MOST), (make_error(502), MOST), (make_error(504), MOST), (make_error(7), MOST),
    (make_error(429, choices=HALF), MOST), ({"status": 200, "body": {"choices": HALF}}, MOST),
    *(({"status": status, "body": {"error": {"message": "no"}}}, 0) for status in (400, 403, 409, 422, 425, 429)),
    *(({"status": status, "body": "no"}, MOST) for status in (408, 499, 500, 502, 503, 504, 520, 522, 524)),
], ids=str)
def test_a_failure_costs_nothing_only_if_it_is_a_refusal(tmp_path: Path, reply: dict[str, Any], possible: float) -> None:
    with TeacherServer(fault=lambda number, question: reply) as server:
        config = make_config(tmp_path, server.url, max_attempts=1, **DOLLAR_A_TOKEN)
        ask_all(config, [make_request("q0")])
    spending = load_spending(config.training_dir, None)
    assert (spending.known_usd, spending.possible_usd) == (0, possible)


def test_a_server_that_bills_more_than_it_can_is_named_once_and_asked_one_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TeacherServer(usage=usage(200), delay_seconds=0.05) as server:
        server.fault = lambda number, question: "slow" if number == 0 else None
        config = make_config(tmp_path, server.url, concurrency=2, budget_usd=1000, **DOLLAR_A_TOKEN)
        server.delay_seconds = 0.1
        with pytest.raises(PipelineError, match="budget_usd 1000 is reached"):
            ask_all(config, make_requests(12))
        assert len(server.requests) == 5
    times = [request["time"] for request in server.requests]
    assert times[2] - times[0] > 2.5, "once a call was billed 200 of 108 dollars, each waits for the one before"
    assert capsys.readouterr().out.count("[WARN] a request that may cost $108.00 at most was billed $200.00") == 1


def test_without_a_budget_a_higher_bill_slows_nothing_down(tmp_path: Path) -> None:
    with TeacherServer(usage=usage(200), delay_seconds=0.1) as server:
        ask_all(make_config(tmp_path, server.url, concurrency=4, **DOLLAR_A_TOKEN), make_requests(12))
        assert server.most_at_once == 4


CALLS = st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1), st.booleans(), st.booleans()), max_size=30)


@settings(max_examples=60, deadline=None)
@given(CALLS, st.floats(0.1, 5))
def test_no_order_of_calls_and_outcomes_passes_the_limit(calls: list[tuple[float, float, bool, bool]], limit: float) -> None:
    async def spend() -> float:
        budget, spent = Budget(limit, PRICES, Spending()), 0.0

        async def call(most: float, share: float, unknown: bool, slow: bool) -> None:
            nonlocal spent
            await budget.reserve(most)
            spent += most if unknown else most * share
            assert spent <= limit + 1e-6
            await asyncio.sleep(0.001 if slow else 0)
            cost = None if unknown else most * share
            await budget.settle(most, Outcome("200", None if unknown else 1, None if unknown else 1, cost))

        await asyncio.gather(*(call(*each) for each in calls), return_exceptions=True)
        return spent

    assert asyncio.run(spend()) <= limit + 1e-6


@pytest.mark.parametrize(("prices", "earlier", "limit", "line"), [
    (None, Spending(), None, "0 requests, 0 tokens"),
    (Prices(0, 0), Spending(), 5, "0 requests, 0 tokens"),
    (PRICES, Spending(known_usd=0.5), None, "$0.50, 0 requests"),
    (PRICES, Spending(known_usd=0.5, possible_usd=0.25), 5, "$0.50 (possibly $0.75) of $5.00, 0 requests"),
])
def test_the_progress_bars_words(prices: Prices | None, earlier: Spending, limit: float | None, line: str) -> None:
    assert Budget(limit, prices, earlier).describe() == line
