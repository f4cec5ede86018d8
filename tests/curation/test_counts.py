from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import PromptSection
from distill.curation.counts import count_rows, describe_lengths, pick
from distill.curation.lengths import TokenCounter
from distill.records import ContextSpan, Rows, TrainingExample

PROMPT = PromptSection()


def make_row(number: int, **fields: object) -> TrainingExample:
    """A row of 8 characters of instruction and 4 of answer."""
    return TrainingExample(**{"id": str(number), "instruction": "12345678", "output": "1234", "category": "RF", **fields})


def make_rows() -> Rows:
    """Five rows of every kind."""
    span = ContextSpan(chunk_id="1", source="a.md", score=1, start=0, end=1)
    other = span.model_copy(update={"source": "b.md"})
    return {
        "train": [
            make_row(1, origin="question", answerable=True, teacher_model="t", context=(span, span), difficulty=3),
            make_row(2, origin="question", answerable=False, teacher_model="t", output=PROMPT.refusal, context=(other,)),
            make_row(3, origin="document", answerable=True, teacher_model="t", category="Documents", difficulty=3),
            make_row(4, origin="", teacher_model="curated"),
        ],
        "heldout": [make_row(5, origin="recording", teacher_model="t", output="x" * 40)],
    }


def test_every_figure_of_the_manifest() -> None:
    counts = count_rows(PROMPT, make_rows())
    lengths = {key: counts.pop(key) for key in ("answer_tokens", "prompt_tokens")}
    assert counts == {
        "rows": 5, "train": 4, "heldout": 1, "refusals": 1,
        "per_category": {"Documents": 1, "RF": 4}, "per_teacher": {"curated": 1, "t": 4},
        "per_origin": {"curated": 1, "document": 1, "question": 2, "recording": 1}, "per_difficulty": {"3": 2},
        "answerable": 2, "unanswerable": 1, "unknown": 2, "documents": {"train": 2, "heldout": 0}, "tokens_are_exact": False,
    }
    assert lengths["prompt_tokens"] == {"mean": 2.0, "median": 2, "p95": 2, "max": 2}
    assert lengths["answer_tokens"] == {"mean": 5.2, "median": 1, "p95": 13, "max": 13}


def test_lengths_are_those_of_the_given_counter() -> None:
    counts = count_rows(PROMPT, make_rows(), TokenCounter(len))
    assert counts["prompt_tokens"]["max"] == 8 and counts["tokens_are_exact"]


def test_without_rows_there_are_no_lengths() -> None:
    counts = count_rows(PROMPT, {"train": [], "heldout": []})
    assert counts["rows"] == 0 and counts["answer_tokens"] == {} and counts["per_category"] == {}


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[int], percent: int) -> None:
    found = pick(sorted(values), percent)
    assert found in values
    assert sum(value <= found for value in values) >= math.ceil(percent * len(values) / 100)
    assert sum(value < found for value in values) < percent * len(values) / 100
    assert describe_lengths(values)["mean"] == pytest.approx(sum(values) / len(values), abs=0.051)
