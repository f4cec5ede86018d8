from __future__ import annotations

from typing import Any

import pytest

from distill.config import Config
from distill.curation.rejections import Rejections
from distill.records import Rows, TrainingExample
from distill.rows.overlaps import drop_overlaps


def make_row(question: str, origin: str = "question", **fields: Any) -> TrainingExample:
    """A row that asks this."""
    fields = {"instruction": f"Sources. Question: {question}", "output": "text", "question": question, **fields}
    return TrainingExample(id=question[:16], origin=origin, **fields)


def drop(train: list[TrainingExample], heldout: list[TrainingExample]) -> tuple[list[str], list[str], dict[str, int]]:
    """Which questions stay on each side, and what was rejected."""
    rejections = Rejections()
    rows: Rows = {"train": train, "heldout": heldout}
    kept = drop_overlaps(Config(), rows, rejections)
    return [row.question for row in kept["train"]], [row.question for row in kept["heldout"]], rejections.counts()


@pytest.mark.parametrize(("asked", "stays"), [
    ("What is the thermal limit of the cooling pump?", False),
    ("what is the Thermal limit of the cooling pump", False),
    ("How is the antenna mast grounded on the roof?", True),
])
@pytest.mark.parametrize("origin", ["question", "document", "recording"])
def test_a_training_question_that_overlaps_with_a_heldout_one_is_left_out(asked: str, stays: bool, origin: str) -> None:
    heldout = make_row("What is the thermal limit of the cooling pump?")
    train, kept, rejected = drop([make_row(asked, origin)], [heldout])
    assert train == ([asked] if stays else []) and kept == [heldout.question] and len(rejected) == (0 if stays else 1)


def test_a_curated_row_without_a_question_is_compared_by_its_instruction() -> None:
    heldout = make_row("What is the thermal limit of the cooling pump?")
    curated = TrainingExample(
        id="c", instruction="What is the thermal limit of the cooling pump?", output="80", origin="curated"
    )
    assert drop([curated], [heldout])[0] == []


def test_a_document_question_that_repeats_another_is_left_out_wherever_that_stands() -> None:
    asked = "What is the thermal limit of the cooling pump?"
    again = make_row("what is the thermal limit of the cooling pump", "document")
    assert drop([again, make_row(asked)], [])[:2] == ([asked], [])
    assert drop([again, make_row(asked, "document")], [])[0] == [again.question], "the first of two"
    assert drop([again, make_row(asked, "curated")], [])[2] == {"near-duplicate question": 1}


def test_word_for_word_repeats_are_left_out_too() -> None:
    asked = "What is the thermal limit of the cooling pump?"
    twice = [make_row(asked, "document", answerable=True), make_row(asked, "document", answerable=True)]
    assert drop(twice, []) == ([asked], [], {"near-duplicate question": 1})
    assert drop(twice, [make_row(asked, "document", answerable=True)])[:2] == ([], [asked])
    assert drop([*twice, make_row(asked)], [])[2] == {"near-duplicate question": 2}


def test_of_two_sides_the_heldout_one_keeps_a_document_question() -> None:
    asked = "What is the thermal limit of the cooling pump?"
    again = make_row("what is the thermal limit of the cooling pump", "document")
    assert drop([make_row(asked, "document")], [again]) == ([], [again.question], {"near-duplicate question": 1})


def test_both_rows_of_a_question_stay_or_go_together() -> None:
    asked = "What is the thermal limit of the cooling pump?"
    pair = [make_row(asked, "document", answerable=True), make_row(asked, "document", answerable=False)]
    assert drop(pair, [])[0] == [asked, asked]
    assert drop([*pair, make_row("what is the thermal limit of the cooling pump")], [])[2] == {"near-duplicate question": 2}


def test_questions_of_the_file_are_never_dropped_for_one_another() -> None:
    asked = ["What is the thermal limit of the cooling pump?", "what is the thermal limit of the cooling pump"]
    assert drop([make_row(text) for text in asked], [])[0] == asked
    assert drop([make_row(text, origin) for text, origin in zip(asked, ("question", "curated"))], [])[0] == asked


def test_no_rows_are_no_rows() -> None:
    assert drop([], []) == ([], [], {})
