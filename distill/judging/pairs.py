"""One pair of answers before the judge: what is asked in both orders, and which winner its replies name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.config import JudgeSection
from distill.prompts import to_compare_messages
from distill.records import ModelSide
from distill.teacher.requests import Ask, Reply, Request, RowError

ORDERS: tuple[tuple[ModelSide, ModelSide], ...] = (("base", "tuned"), ("tuned", "base"))  # as A and B
SCHEMA = {
    "type": "object", "properties": {"reason": {"type": "string"}, "winner": {"type": "string"}},
    "required": ["reason", "winner"], "additionalProperties": False,
}
TIES = ("tie", "draw", "equal", "neither", "both")
# Ollama's OpenAI-compatible address cuts a prompt to its context without a word, and then counts exactly that many tokens.
CONTEXT_SIZES = frozenset(2**power for power in range(11, 19))

Winner = Literal["base", "tuned", "tie"]
Mark = Literal["A", "B", "tie"]


class UnreadableError(Exception):
    """A reply from which no winner can be read."""


@dataclass(frozen=True)
class Pair:
    """Both models' answers to one question, as the judge gets them."""

    id: str
    group: str
    instruction: str
    answers: Mapping[ModelSide, str]

    @property
    def alike(self) -> bool:
        """Whether there is nothing to compare."""
        return self.answers["base"] == self.answers["tuned"]


@dataclass
class Opinions:
    """What the judge said so far, by question id; `places` counts which of the two places won, ties left out."""

    winners: dict[str, Winner] = field(default_factory=dict)
    disagreed: set[str] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    places: Counter[str] = field(default_factory=Counter)


# -----------------------------------------------------------------------------
# Asking


def make_requests(section: JudgeSection, pair: Pair, schema: bool) -> list[Request]:
    """The same comparison in both orders; `schema` is whether the model takes a JSON schema."""
    return [
        Request(
            to_compare_messages(section.rubric, pair.instruction, pair.answers[first], pair.answers[second]), (pair.id,),
            "judge", section.max_tokens, SCHEMA if schema else None,
        )
        for first, second in ORDERS
    ]


async def judge_pair(
    requests: Sequence[Request], pair: Pair, opinions: Opinions, advance: Callable[[int], None], ask: Ask
) -> None:
    """The job of a pair. A reply is kept as it is, readable or not: a judge without randomness would say the same again."""
    marks: list[Mark] = []
    try:
        for request in requests:
            reply = await ask(request)
            if reply.prompt_tokens in CONTEXT_SIZES:
                opinions.cut.add(pair.id)
                raise UnreadableError(f"its server cut the prompt to {reply.prompt_tokens} tokens")
            marks.append(read_winner(reply))
    except (RowError, UnreadableError) as error:
        opinions.unreadable[pair.id] = str(error)
    else:
        settle(pair, marks, opinions)
    advance(1)


def settle(pair: Pair, marks: Sequence[Mark], opinions: Opinions) -> None:
    """Keep the judgement of both orders: where they disagree, nobody won."""
    winners = {{"A": order[0], "B": order[1]}.get(mark, "tie") for mark, order in zip(marks, ORDERS)}
    opinions.winners[pair.id] = winners.pop() if len(winners) == 1 else "tie"
    opinions.places.update(marks)
    if winners:
        opinions.disagreed.add(pair.id)


def read_winner(reply: Reply) -> Mark:
    """The winner's mark. Raises UnreadableError for a reply that names none."""
    named = str(find_object(reply.text).get("winner", "")).strip().strip('."').lower().removeprefix("answer").strip()
    if named in ("a", "b"):
        return "A" if named == "a" else "B"
    if named in TIES:
        return "tie"
    cut = reply.finish_reason == "length"
    raise UnreadableError("cut off before it named a winner: raise evaluate.judge.max_tokens" if cut else "names no winner")


def find_object(text: str) -> dict[str, Any]:
    """The last JSON object in a text that holds a winner; {} where there is none. Judges put words around it, or a fence."""
    decoder, found, start = json.JSONDecoder(strict=False), {}, text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, end = {}, start + 1
        found = value if "winner" in value else found
        start = text.find("{", end)
    return found
