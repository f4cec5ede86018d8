"""The one form that every set of questions has: held-out rows, the user's cases, general questions, the memorisation probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.prompts import Message
from distill.records import Answer

SetName = Literal["heldout", "own", "golden", "general", "memory"]
Scores = dict[str, float | None]  # by metric name; None where a metric does not apply


@dataclass(frozen=True)
class Source:
    """One passage that stands in a question's prompt; `name` is the indexed path."""

    name: str
    text: str


@dataclass(frozen=True)
class Question:
    """What is asked, word for word the same of every model.

    `opening` is what the answer has begun with already: the model goes on from there. `max_tokens` None: evaluate.max_tokens.
    `group` names what questions share (a document): they succeed and fail together. `text`, `reference` and `sources` are
    for a reader: the bare question, the answer to compare with, the passages in the prompt.
    """

    set: SetName
    id: str
    messages: tuple[Message, ...]
    category: str = ""
    group: str = ""
    opening: str = ""
    max_tokens: int | None = None
    text: str = ""
    reference: str = ""
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Measure:
    """What a score means. `decides` is whether a verdict may rest on it: nothing that length alone can raise."""

    definition: str
    decides: bool = False
    higher_is_better: bool = True


@dataclass(frozen=True)
class CaseSet:
    """Questions with what scores them.

    `score` takes the answers of one model in the order of `questions`, and gives each one's scores: every name of `measures`,
    from 0 to 1; all None for a failed call. `primary` is the measure that speaks for the set. `notes` are facts for the report.
    """

    name: SetName
    title: str
    questions: Sequence[Question]
    measures: Mapping[str, Measure]
    primary: str
    score: Callable[[Sequence[Answer]], list[Scores]]
    notes: Mapping[str, Any] = field(default_factory=dict)
