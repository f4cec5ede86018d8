"""The shapes of the teacher's structured replies: sent along as JSON schemas, and what comes back is validated by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from distill.teacher.requests import parse_json_reply

AnyItem = TypeVar("AnyItem")


def between(low: int, high: int) -> AfterValidator:
    """A whole number within bounds, which stay out of the schema: some providers refuse bounds, others enumerations."""

    def check(number: int) -> int:
        if not low <= number <= high:
            raise ValueError(f"must be {low} to {high}")
        return number

    return AfterValidator(check)


def require_one(items: list[AnyItem]) -> list[AnyItem]:
    """A list that holds something; the bound stays out of the schema like the others."""
    if not items:
        raise ValueError("must not be empty")
    return items


class Shape(BaseModel):
    """Every field is required and no other is allowed, as strict JSON schemas want it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ReasonedAnswer(Shape):
    """An answer with the steps before it, in the order in which they are thought."""

    reasoning: str
    answer: str


class ImprovedAnswer(Shape):
    """A critique of the first answer, then the better one."""

    critique: str
    answer: str


class ReasonedImprovement(Shape):
    """The same with steps."""

    critique: str
    reasoning: str
    answer: str


class Grade(Shape):
    """What the teacher as judge says of an answer."""

    reason: str
    score: Annotated[int, between(1, 5)]


class WrittenQuestion(Shape):
    """A question that the teacher wrote for a set of chunks, and its answer."""

    question: str
    answer: str
    difficulty: Annotated[int, between(1, 3)]


class ReasonedQuestion(Shape):
    """The same with steps."""

    question: str
    reasoning: str
    answer: str
    difficulty: Annotated[int, between(1, 3)]


class WrittenQuestions(Shape):
    """The reply to a set's one request."""

    questions: Annotated[list[WrittenQuestion], AfterValidator(require_one)]


class ReasonedQuestions(Shape):
    """The same with steps."""

    questions: Annotated[list[ReasonedQuestion], AfterValidator(require_one)]


AnyShape = TypeVar("AnyShape", bound=Shape)


def to_schema(shape: type[Shape]) -> dict[str, Any]:
    """The JSON schema of a shape, without references, titles and descriptions: the fewer features, the more servers take it."""
    schema = shape.model_json_schema()
    return simplify(schema, schema.pop("$defs", {}))


def simplify(value: Any, definitions: Mapping[str, Any]) -> Any:
    """A part of a schema with each reference replaced by what it stands for."""
    if isinstance(value, list):
        return [simplify(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return simplify(definitions[value["$ref"].rpartition("/")[2]], definitions)
    texts = ("title", "description")
    return {key: simplify(item, definitions) for key, item in value.items() if key not in texts or isinstance(item, dict)}


def read_reply(shape: type[AnyShape], text: str) -> AnyShape:
    """A reply as its shape. Raises ValueError."""
    return shape.model_validate(parse_json_reply(text))


def find_problem(shape: type[Shape], text: str) -> str | None:
    """Why a reply has not its shape, or None."""
    try:
        read_reply(shape, text)
    except ValidationError as error:
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc'])) or 'the reply'}: {problem['msg']}"
    except ValueError:
        return "the reply is not JSON"
    return None
