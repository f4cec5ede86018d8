"""The figures of the training rows, as they stand in stage 1's manifest and in the dataset card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from distill.config import PromptSection
from distill.curation.lengths import TokenCounter
from distill.prompts import is_refusal
from distill.records import SIDES, Rows

ANSWERABLE = {True: "answerable", False: "unanswerable", None: "unknown"}


def count_rows(prompt: PromptSection, rows: Rows, counter: TokenCounter | None = None) -> dict[str, Any]:
    """Rows by side, category, teacher, origin, difficulty and whether they can be answered; refusals; lengths in tokens.

    Without `counter`, lengths are estimated; "tokens_are_exact" says so.
    """
    counter = counter or TokenCounter()
    every = [row for side in SIDES for row in rows[side]]
    return {
        "rows": len(every), **{side: len(rows[side]) for side in SIDES},
        "refusals": sum(is_refusal(prompt, row.output) for row in every),
        "per_category": count(row.category for row in every),
        "per_teacher": count(row.teacher_model for row in every),
        "per_origin": count(row.origin or "curated" for row in every),
        "per_difficulty": count(str(row.difficulty) for row in every if row.difficulty),
        **{name: sum(row.answerable is value for row in every) for value, name in ANSWERABLE.items()},
        "documents": {side: len({span.source for row in rows[side] for span in row.context}) for side in SIDES},
        "answer_tokens": describe_lengths([counter.count(row.output) for row in every]),
        "prompt_tokens": describe_lengths([counter.count(row.instruction) for row in every]),
        "tokens_are_exact": counter.exact,
    }


def count(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, by value."""
    return dict(sorted(Counter(values).items()))


def describe_lengths(lengths: Sequence[int]) -> dict[str, float]:
    """Mean, median, 95th percentile (the least that 95% do not exceed) and maximum; empty without rows."""
    ordered = sorted(lengths)
    if not ordered:
        return {}
    mean = round(sum(ordered) / len(ordered), 1)
    return {"mean": mean, "median": pick(ordered, 50), "p95": pick(ordered, 95), "max": ordered[-1]}


def pick(ordered: Sequence[int], percent: int) -> int:
    """The smallest of the ascending values that `percent` of them do not exceed (nearest rank)."""
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
