from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from distill.config import Config
from distill.curation.rejections import Rejections
from distill.records import Rows, Side, TrainingExample
from distill.rows.overlaps import drop_overlaps, drop_planned_overlaps
from distill.rows.planner import PlannedRow, make_id
from distill.rows.planner import make_row as plan_any_row
from distill.rows.questions import Question


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


# -----------------------------------------------------------------------------
# Before the teacher is paid


def plan_row(question: str, side: Side) -> PlannedRow:
    """A planned row that asks this."""
    return plan_any_row(Config(), Question(question, "Units", 1), side, "question", (), (), None, {})


def test_planned_training_questions_that_overlap_are_left_out_before_they_are_paid() -> None:
    asked, other = "What is the thermal limit of the cooling pump?", "How is the antenna mast grounded on the roof?"
    planned = [plan_row(asked, "train"), plan_row(other, "train"), plan_row(asked.upper(), "heldout")]
    curated: Rows = {"train": [make_row(asked, "curated")], "heldout": [make_row(other, "curated")]}
    rejections = Rejections()
    assert drop_planned_overlaps(Config(), planned, {"train": [], "heldout": []}, rejections) == planned[1:]
    assert drop_planned_overlaps(Config(), planned, curated, Rejections()) == planned[2:]
    assert rejections.counts() == {"overlap with held-out": 1}
    assert drop_planned_overlaps(Config(), planned[:2], {"train": [], "heldout": []}, rejections) == planned[:2]


# -----------------------------------------------------------------------------
# Refusals


REFUSAL = Config().prompt.refusal


def count_refusals(rows: Sequence[TrainingExample]) -> Counter[str]:
    """How many rows of each origin refuse."""
    return Counter(row.origin for row in rows if row.output == REFUSAL)


def drop_from(train: list[TrainingExample], share: float = 0.2, heldout: Sequence[TrainingExample] = ()) -> Rows:
    """What stays, of rows whose questions do not overlap."""
    config = Config.model_validate({"generate": {"checks": {"refusal_share": share}}})
    return drop_overlaps(config, {"train": train, "heldout": [*heldout]}, Rejections())


def list_questions(count: int, start: int = 0) -> list[str]:
    """Questions that share no word."""
    return [f"q{number} a{number} b{number} c{number}?" for number in range(start, start + count)]


@pytest.mark.parametrize(("answers", "refusals", "share", "kept"), [
    (8, 2, 0.2, 2), (8, 3, 0.2, 2), (9, 3, 0.2, 2), (12, 9, 0.2, 3), (0, 5, 0.2, 0), (4, 5, 0, 0), (4, 5, 1, 5), (5, 5, 0.5, 5),
])
def test_refusals_beyond_their_share_of_a_side_are_left_out(answers: int, refusals: int, share: float, kept: int) -> None:
    asked = list_questions(answers + refusals)
    rows = [make_row(text) for text in asked[:answers]] + [make_row(text, output=REFUSAL) for text in asked[answers:]]
    train = drop_from(rows, share)["train"]
    assert len(train) == answers + kept and count_refusals(train).total() == kept
    turned = drop_from(rows[::-1], share)["train"]
    assert {row.id for row in train} == {row.id for row in turned}, "whatever the order"


def test_each_side_has_its_own_share_of_refusals() -> None:
    asked = list_questions(10)
    sides = drop_from([make_row(text) for text in asked[:8]], heldout=[make_row(text, output=REFUSAL) for text in asked[8:]])
    assert [len(rows) for rows in sides.values()] == [8, 0]


def test_refusals_that_were_planned_stay_before_those_to_plain_questions_and_a_users_own_always() -> None:
    asked = list_questions(24)
    rows = [make_row(text) for text in asked[:8]]
    rows += [make_row(text, output=REFUSAL) for text in asked[8:13]]
    for text in asked[13:15]:
        row = make_row(text, output=REFUSAL, answerable=False)
        rows.append(row.model_copy(update={"id": make_id(Config(), row.instruction, "question", False)}))
    kept = [row.question for row in drop_from(rows)["train"] if row.output == REFUSAL]
    assert kept == asked[13:15]
    own = [make_row(text, "curated", output=REFUSAL) for text in asked[15:19]]
    assert count_refusals(drop_from([*rows, *own])["train"]) == {"curated": 4}
