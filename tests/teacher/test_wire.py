from __future__ import annotations

from typing import Any

import pytest

from distill.config import TeacherSection
from distill.teacher.prices import Prices
from distill.teacher.wire import is_openrouter, make_body, make_routing
from tests.asking import make_request


def make_section(**changes: Any) -> TeacherSection:
    """OpenRouter, with its settings."""
    return TeacherSection.model_validate({"base_url": "https://openrouter.ai/api/v1", **changes})


@pytest.mark.parametrize(("url", "expected"), [
    ("https://openrouter.ai/api/v1", True), ("https://eu.openrouter.ai/api/v1", True), ("https://OPENROUTER.AI/api/v1", True),
    ("https://notopenrouter.ai/v1", False), ("https://openrouter.ai.invalid/v1", False), ("https://api.openai.com/v1", False),
    ("http://127.0.0.1:8080/openrouter.ai", False),
])
def test_openrouter_is_known_by_its_host(url: str, expected: bool) -> None:
    assert is_openrouter(url) is expected


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, {"zdr": True, "data_collection": "deny", "enforce_distillable_text": True}),
    ({"zdr": None, "data_collection": "allow"}, {"data_collection": "allow", "enforce_distillable_text": True}),
    ({"zdr": None, "data_collection": None, "enforce_distillable_text": None}, {}),
    ({"zdr": False}, {"zdr": False, "data_collection": "deny", "enforce_distillable_text": True}),
])
def test_routing_is_sent_as_configured_without_its_nulls(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert make_body(make_section(openrouter=settings), make_request("q0"), None)["provider"] == expected


def test_a_schema_goes_to_providers_alone_that_heed_it() -> None:
    assert make_routing(make_section(), None, schema=True)["require_parameters"] is True


def test_with_a_budget_dearer_providers_are_kept_out() -> None:
    prices = Prices(0.5e-6, 1.5e-6)
    assert "max_price" not in make_routing(make_section(), prices, schema=False)
    assert make_routing(make_section(budget_usd=5), prices, schema=False)["max_price"] == {"prompt": 0.5, "completion": 1.5}


def test_other_hosts_get_no_routing() -> None:
    body = make_body(make_section(base_url="https://api.openai.com/v1"), make_request("q0", max_tokens=7), None)
    assert set(body) == {"model", "messages", "temperature", "max_tokens"} and body["max_tokens"] == 7
