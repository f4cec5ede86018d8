from __future__ import annotations

import json
from typing import Any

import pytest

from distill.rows.replies import (
    Grade,
    ImprovedAnswer,
    ReasonedAnswer,
    ReasonedImprovement,
    ReasonedQuestions,
    Shape,
    WrittenQuestions,
    find_problem,
    read_reply,
    to_schema,
)

SHAPES = (Grade, ImprovedAnswer, ReasonedAnswer, ReasonedImprovement, ReasonedQuestions, WrittenQuestions)


def list_objects(schema: Any) -> list[dict[str, Any]]:
    """Every object schema in a schema."""
    inner = list(schema.values()) if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    own = [schema] if isinstance(schema, dict) and schema.get("type") == "object" else []
    return own + [found for part in inner for found in list_objects(part)]


@pytest.mark.parametrize("shape", SHAPES)
def test_schemas_are_strict_and_use_nothing_that_servers_disagree_about(shape: type[Shape]) -> None:
    schema = to_schema(shape)
    for each in list_objects(schema):
        assert each["additionalProperties"] is False and each["required"] == list(each["properties"])
    for word in ("$ref", "$defs", "title", "description", "enum", "minimum"):
        assert f'"{word}"' not in json.dumps(schema)


def test_steps_come_before_the_answer_that_they_lead_to() -> None:
    for shape in (ReasonedAnswer, ReasonedImprovement):
        fields = list(to_schema(shape)["properties"])
        assert fields.index("reasoning") < fields.index("answer")
    item = to_schema(ReasonedQuestions)["properties"]["questions"]["items"]
    assert list(item["properties"]) == ["question", "reasoning", "answer", "difficulty"]


@pytest.mark.parametrize(("text", "problem"), [
    ('{"reason": "Right.", "score": 4}', None),
    ('```json\n{"reason": "Right.", "score": 4}\n```', None),
    ('{"reason": "Right.", "score": 0}', "score: Value error, must be 1 to 5"),
    ('{"reason": "Right."}', "score: Field required"),
    ('{"reason": "Right.", "score": "high"}', "score: "),
    ("Four of five.", "the reply is not JSON"),
    ("[4]", "the reply: "),
])
def test_a_reply_is_read_or_its_problem_named(text: str, problem: str | None) -> None:
    found = find_problem(Grade, text)
    if problem is None:
        assert found is None and read_reply(Grade, text).score == 4
    else:
        assert found.startswith(problem)
