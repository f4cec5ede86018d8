from __future__ import annotations

from typing import Any

import pytest

from distill.config import TeacherSection
from distill.teacher.requests import identify, parse_json_reply
from tests.asking import make_request

SECTION = TeacherSection(model="teacher-1", temperature=0.2)


def test_an_identity_is_the_same_in_every_process() -> None:
    assert identify(SECTION, make_request("q0")) == "03b02f9c43c28fec"


@pytest.mark.parametrize("changes", [
    {"messages": [{"role": "user", "content": "Question: q1"}]}, {"messages": [{"role": "system", "content": "Question: q0"}]},
    {"max_tokens": 65}, {"schema": {"type": "object"}},
])
def test_what_changes_the_reply_changes_the_identity(changes: dict[str, Any]) -> None:
    assert identify(SECTION, make_request("q0", **changes)) != identify(SECTION, make_request("q0"))


@pytest.mark.parametrize("changes", [{"model": "teacher-2"}, {"temperature": 0.3}])
def test_another_model_or_temperature_is_another_request(changes: dict[str, Any]) -> None:
    assert identify(SECTION.model_copy(update=changes), make_request("q0")) != identify(SECTION, make_request("q0"))


@pytest.mark.parametrize("changes", [{"concurrency": 9}, {"budget_usd": 5.0}, {"base_url": "http://127.0.0.1:1/v1"}])
def test_what_does_not_change_the_reply_costs_nothing(changes: dict[str, Any]) -> None:
    assert identify(SECTION.model_copy(update=changes), make_request("q0")) == identify(SECTION, make_request("q0"))


def test_rows_purpose_and_check_do_not_change_the_reply() -> None:
    other = make_request("q0", row_ids=("x", "y"), purpose="judge", check=lambda text: None)
    assert identify(SECTION, other) == identify(SECTION, make_request("q0"))


def test_half_an_emoji_in_a_prompt_has_an_identity() -> None:
    assert identify(SECTION, make_request("half \ud83d"))


@pytest.mark.parametrize("text", ['{"a": 1}', ' \n{"a": 1}\n', '```json\n{"a": 1}\n```', '```\n{"a": 1}\n```'])
def test_json_may_stand_in_a_fence(text: str) -> None:
    assert parse_json_reply(text) == {"a": 1}


@pytest.mark.parametrize("text", ["", "no", "```json\nno\n```", '{"a": 1} and more', "```"])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json_reply(text)
