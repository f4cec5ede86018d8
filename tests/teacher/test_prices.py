from __future__ import annotations

from typing import Any

import pytest

from distill.config import Config, TeacherSection
from distill.errors import PipelineError
from distill.teacher.prices import (
    Prices,
    describe_seconds,
    describe_usd,
    estimate,
    find_prices,
    most_prompt_tokens,
    require_prices,
)
from tests.asking import make_request, make_requests

LOCAL = {"base_url": "http://127.0.0.1:8080/v1"}
HOSTED = {"base_url": "https://teacher.invalid/v1"}
LISTED = {"prompt": "0.0000005", "completion": "0.0000015", "request": "0", "image": "0"}


def make_section(**changes: Any) -> TeacherSection:
    """A hosted teacher."""
    return TeacherSection.model_validate({**HOSTED, **changes})


@pytest.mark.parametrize(("changes", "listed", "expected"), [
    ({}, None, None),
    ({}, LISTED, Prices(0.5e-6, 1.5e-6, 0.0, "the provider's list")),
    ({}, {**LISTED, "request": "0.01"}, Prices(0.5e-6, 1.5e-6, 0.01, "the provider's list")),
    ({"prompt_usd_per_million": 2, "answer_usd_per_million": 4}, LISTED, Prices(2e-6, 4e-6)),
    ({"prompt_usd_per_million": 2, "answer_usd_per_million": 4}, {**LISTED, "request": "0.01"}, Prices(2e-6, 4e-6, 0.01)),
    ({"prompt_usd_per_million": 2}, LISTED, Prices(2e-6, 1.5e-6, 0.0, "the provider's list")),
    ({"prompt_usd_per_million": 2}, None, None),
    ({}, {"prompt": "-1", "completion": "-1"}, None),
    ({}, {"prompt": "free", "completion": None}, None),
    ({}, {"prompt": "0", "completion": "0"}, Prices(0, 0, 0, "the provider's list")),
    (LOCAL, None, Prices(0, 0, 0, "this machine")),
    ({**LOCAL, "prompt_usd_per_million": 2, "answer_usd_per_million": 4}, None, Prices(2e-6, 4e-6)),
])
def test_config_comes_first_then_the_providers_list_then_this_machine(
    changes: dict[str, Any], listed: dict[str, Any] | None, expected: Prices | None
) -> None:
    found = find_prices(make_section(**changes), listed)
    if expected is None or found is None:
        assert found == expected
    else:
        assert (found.prompt_usd, found.answer_usd, found.request_usd) == (
            pytest.approx(expected.prompt_usd), pytest.approx(expected.answer_usd), expected.request_usd,
        )
        assert found.source == expected.source


def test_a_budget_needs_a_price() -> None:
    require_prices(make_section(), None)
    require_prices(make_section(budget_usd=5), Prices(1, 1))
    with pytest.raises(PipelineError, match=r"budget_usd is set, but the price of .* is not known"):
        require_prices(make_section(budget_usd=5), None)


def test_a_model_that_searches_the_web_keeps_no_budget() -> None:
    require_prices(make_section(model="a/b:online"), Prices(1, 1))
    require_prices(make_section(model="a:online", budget_usd=5, **LOCAL), Prices(0, 0))
    with pytest.raises(PipelineError, match="cannot be kept with a/b:online, whose web searches cost extra"):
        require_prices(make_section(model="a/b:online", budget_usd=5), Prices(1, 1))


@pytest.mark.parametrize("text", ["plain words", "\u00b0\u03a9\u4e2d\u6587", "\U0001f680" * 10, "half \ud83d", ""])
def test_no_request_has_more_tokens_than_bytes(text: str) -> None:
    request = make_request("q0", messages=[{"role": "user", "content": text}])
    assert most_prompt_tokens(request) >= len(text.encode("utf-8", "replace")) + 8


def test_a_schema_counts_too() -> None:
    plain, with_schema = make_request("q0"), make_request("q0", schema={"type": "object", "description": "x" * 500})
    assert most_prompt_tokens(with_schema) > most_prompt_tokens(plain) + 500


def make_config(generate: dict[str, Any] | None = None, **teacher: Any) -> Config:
    """A config with a hosted teacher."""
    return Config.model_validate({"generate": {"teacher": {**HOSTED, **teacher}, **(generate or {})}})


def make_long(count: int, **changes: Any) -> list[Any]:
    """Requests of 4,000 characters, 1,000 tokens."""
    message = [{"role": "user", "content": "word " * 800}]
    return make_requests(count, messages=message, max_tokens=1024, **changes)


def test_an_estimate_is_likely_and_at_most() -> None:
    found = estimate(make_config(), make_long(10), Prices(1e-6, 2e-6))
    assert (found.requests, found.answer_tokens) == (10, 3500)
    assert found.prompt_tokens == pytest.approx(10_000, rel=0.01)
    assert found.cost_usd == pytest.approx(0.017, rel=0.01)
    assert found.most_usd == pytest.approx(10 * (4032e-6 + 1024 * 2e-6))


def test_the_price_of_a_request_counts_for_each() -> None:
    assert estimate(make_config(), make_long(10), Prices(0, 0, 0.01)).cost_usd == pytest.approx(0.1)


@pytest.mark.parametrize(("teacher", "checks", "requests"), [
    ({}, {}, 10), ({"two_pass": True}, {}, 20), ({}, {"judge": True}, 20), ({"two_pass": True}, {"judge": True}, 30),
])
def test_what_follows_from_a_reply_is_counted(teacher: dict[str, Any], checks: dict[str, Any], requests: int) -> None:
    config = make_config({"checks": checks}, **teacher)
    plain, found = estimate(make_config(), make_long(10), None), estimate(config, make_long(10), None)
    assert found.requests == requests and found.prompt_tokens >= plain.prompt_tokens * requests / 10


def test_a_set_of_questions_is_followed_by_one_call_per_question() -> None:
    settings = {"documents": {"sets": 2, "questions_per_set": 3}, "context": {"golden_less_share": 0}}
    config = make_config({**settings, "checks": {"judge": True}})
    assert estimate(config, make_long(2, purpose="questions"), None).requests == 8


@pytest.mark.parametrize(("share", "requests"), [(0.0, 80), (0.1, 94), (0.5, 200), (0.9, 200)])
def test_rows_without_the_golden_chunks_that_follow_from_sets_are_counted(share: float, requests: int) -> None:
    settings = {"documents": {"sets": 20, "questions_per_set": 3}, "context": {"golden_less_share": share}}
    config = make_config({**settings, "checks": {"judge": True}})
    assert estimate(config, make_long(20, purpose="questions"), None).requests == requests


@pytest.mark.parametrize(("teacher", "seconds", "limit"), [
    ({"requests_per_minute": 60, "concurrency": 100}, 100, "60 requests a minute"),
    ({"requests_per_minute": 6000, "concurrency": 4}, 200, "4 at once, 50 tokens/s each"),
    ({"requests_per_minute": 6000, "concurrency": 100, "tokens_per_minute": 13_500}, 600, "13,500 tokens a minute"),
])
def test_the_time_is_that_of_the_limit_that_decides(teacher: dict[str, Any], seconds: float, limit: str) -> None:
    found = estimate(make_config(**teacher), make_long(100), None)
    assert found.seconds == pytest.approx(seconds, rel=0.01) and found.limit == limit


def test_an_estimate_says_what_it_assumes_and_what_it_does_not_know() -> None:
    known = estimate(make_config(), make_long(10), Prices(1e-6, 2e-6)).describe()
    assert known[0].startswith("[OK] to send: about 10 requests, 10,010 tokens; to receive: about 3,500 tokens")
    assert known[0].endswith("about 20 s (4 at once, 50 tokens/s each)")
    assert known[1] == "[OK] cost: about $0.0170, at most $0.0608 if nothing is repeated"
    assert "[WARN] the cost is not known" in estimate(make_config(), make_long(1), None).describe()[1]


def test_an_estimate_of_nothing_is_nothing() -> None:
    found = estimate(make_config(), [], Prices(1e-6, 2e-6, 0.01))
    assert (found.requests, found.cost_usd, found.most_usd, found.seconds) == (0, 0, 0, 0)


@pytest.mark.parametrize(("amount", "text"), [(0, "$0.00"), (0.00012, "$0.0001"), (0.1, "$0.10"), (1234.5, "$1,234.50")])
def test_money_for_a_person(amount: float, text: str) -> None:
    assert describe_usd(amount) == text


@pytest.mark.parametrize(("seconds", "text"), [(40, "about 40 s"), (720, "about 12 min"), (12_600, "about 3.5 h")])
def test_time_for_a_person(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text
