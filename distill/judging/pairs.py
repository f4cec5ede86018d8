"""One pair of answers before the judge: what is asked in both orders, and which winner its replies name."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
TIES = (
    "tie", "tied", "a tie", "draw", "equal", "neither", "both", "none", "same", "no winner", "no clear winner", "no difference",
)
MARKS = " \t\n.*_`\"'[]()"
THOUGHTS = re.compile(r".*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
# What a broken reply still says: wherever it may name a winner, and the one that it ends with.
ANY_MENTION = re.compile(r"winner\W{0,8}((?:answer\W+)?[ab]\b|(?:a )?tie|draw|equal|neither|both|no\w*)?", re.IGNORECASE)
LAST_MENTION = re.compile(
    r"(?:[\"']winner[\"']\s*:\s*\"([^\"{}]*)\"\s*\}[\s}`]*|^[\s*_#>-]*winner[\s*_]*[:=]([^\n{}]*))\Z",
    re.IGNORECASE | re.MULTILINE,
)
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
    """The winner's mark. Raises UnreadableError for a reply that names none, or may name either."""
    cut = reply.finish_reason == "length"
    text = THOUGHTS.sub("", reply.text)
    named = [to_mark(value) for value in find_winners(text)] or ([] if cut else [to_mark(read_broken(text))])
    if named and named[0] and len(set(named)) == 1:
        return named[0]
    raise UnreadableError("cut off before it named a winner: raise evaluate.judge.max_tokens" if cut else "names no winner")


def to_mark(value: object) -> Mark | None:
    """What a value names: **A**, "Answer B", "no difference"; None where it is none of these."""
    named = re.sub(r"^(?:answer|response)\W*", "", value.lower().strip(MARKS)) if isinstance(value, str) else ""
    if named in ("a", "b"):
        return "A" if named == "a" else "B"
    return "tie" if named in TIES else None


def find_winners(text: str) -> list[object]:
    """The winner of each JSON object in a text. Judges put words around one, or a fence.

    None behind a bracket that begins no JSON: what follows may be a quotation in a broken reason.
    """
    decoder, found, start = json.JSONDecoder(strict=False, object_pairs_hook=refuse_repeated), [], text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return []
        found += list_winners(value)
        start = text.find("{", end)
    return found


def refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with its keys in lower case. Raises ValueError where one stands twice."""
    keys = [key.lower() for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError("a key stands twice")
    return dict(zip(keys, (value for _, value in pairs)))


def list_winners(value: Any) -> Iterator[object]:
    """An object's winner, or those of the objects in it."""
    if isinstance(value, dict) and "winner" in value:
        yield value["winner"]
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from list_winners(part)


def read_broken(text: str) -> str:
    """What a reply that is no JSON names at its very end, unless something else in it may name another winner; else ""."""
    last = LAST_MENTION.search(text.rstrip())
    mentions = {(match[1] or "").lower().split(" ")[-1] for match in ANY_MENTION.finditer(text)}
    # An object without its end may have broken off in a reason that quotes another.
    whole = text.count("{") == text.count("}")
    return (last[1] or last[2] or "") if last and whole and len(mentions) == 1 else ""
