"""Rows that are measured and not learnt: whole documents, about the share, the same whatever the order of the rows."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.records import TrainingExample
from distill.rows.canaries import make_canaries
from distill.training.encode import IGNORE, EncodedExample
from distill.training.validation import FEWEST, find_documents, hold_validation
from tests.training.rowsets import make_example


def encode(examples: Sequence[TrainingExample]) -> list[EncodedExample]:
    return [EncodedExample(row.id, [1, 2, 3], [IGNORE, 2, 3]) for row in examples]


def hold(examples: Sequence[TrainingExample], share: float = 0.1, seed: int = 42) -> tuple[list[int], list[int]]:
    return hold_validation(examples, encode(examples), share, seed)


def make_rows(documents: int = 60, each: int = 4) -> list[TrainingExample]:
    """Rows on as many documents, `each` rows a document, at most 240."""
    return [make_example(number, source=f"docs/{number % documents}.md") for number in range(documents * each)]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_about_the_share_is_held_as_whole_documents(share: float, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_rows()
    learn, validate = hold(rows, share)
    assert sorted(learn + validate) == list(range(len(rows)))
    assert share * len(rows) * 0.75 <= len(validate) <= share * len(rows)
    learnt, measured = ({span.source for row in numbers for span in rows[row].context} for numbers in (learn, validate))
    assert not learnt & measured
    assert f"[OK] {len(validate)} of 240 rows validate ({2 * len(validate)} answer tokens)" in capsys.readouterr().out


def test_choice_hangs_on_the_seed_and_not_on_the_order_of_the_rows() -> None:
    rows = make_rows()
    chosen = {rows[row].id for row in hold(rows)[1]}
    for shuffle in range(3):
        other = random.Random(shuffle).sample(rows, len(rows))
        assert {other[row].id for row in hold(other)[1]} == chosen
    assert {rows[row].id for row in hold(rows, seed=43)[1]} != chosen


def test_choice_stays_when_chunks_are_trimmed() -> None:
    rows = make_rows()
    shorter = [row.model_copy(update={"instruction": row.question, "context": row.context[:1]}) for row in rows]
    assert hold(shorter) == hold(rows)


def test_nearly_the_same_questions_stay_together() -> None:
    rows = [make_example(number) for number in range(120)]
    for number, row in enumerate(rows[:]):
        rows.append(make_example(number, source=f"copies/{number}.md", question=row.question.replace(": which", ", which")))
    for seed in range(5):
        validate = set(hold(rows, seed=seed)[1])
        assert validate and all((number in validate) == (number + 120 in validate) for number in range(120))


def test_rows_without_context_stand_by_themselves() -> None:
    rows = [
        TrainingExample(instruction=make_example(number).question, output=f"Tool {number}.", origin="curated")
        for number in range(200)
    ]
    learn, validate = hold(rows)
    assert len(validate) == 20 and len(learn) == 180


@pytest.mark.parametrize(
    ("rows", "share"),
    [(make_rows(), 0.0), (make_rows()[:60], 0.05), (make_rows(documents=1, each=200), 0.1), ([], 0.1), (make_rows()[:1], 0.3)],
    ids=["share 0", "few rows", "one document", "no rows", "one row"],
)
def test_nothing_is_held_where_it_would_tell_nothing(
    rows: list[TrainingExample], share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hold(rows, share) == (list(range(len(rows))), [])
    printed = capsys.readouterr().out
    assert printed.startswith("[SKIP] validation:") if share else printed == ""


def test_groups_larger_than_the_share_are_held_up_to_twice_of_it() -> None:
    rows = make_rows(documents=6, each=20)
    assert len(hold(rows, 0.1)[1]) == 20  # one document of 120 rows, where 12 rows were wished for


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=20), share=st.floats(0.02, 0.4), seed=st.integers(0, 5))
def test_whatever_the_sizes_no_document_is_on_both_sides(sizes: list[int], share: float, seed: int) -> None:
    rows = [
        make_example(number % 240, source=f"docs/{document}.md")
        for number, document in enumerate(document for document, size in enumerate(sizes) for _ in range(size))
    ]
    learn, validate = hold(rows, share, seed)
    assert sorted(learn + validate) == list(range(len(rows))) and (not validate or len(validate) >= FEWEST)
    assert learn and len(validate) <= max(2 * share * len(rows), 1)
    assert not {rows[row].context[0].source for row in learn} & {rows[row].context[0].source for row in validate}


@pytest.mark.parametrize(
    ("golden", "expected"),
    [((), {"docs/a.md"}), (("docs/b.md#1",), {"docs/b.md"}), (("docs/a.md#1", "docs/b.md#1"), {"docs/a.md", "docs/b.md"})],
)
def test_an_answer_rests_on_its_golden_documents_or_else_on_the_best(golden: tuple[str, ...], expected: set[str]) -> None:
    first, second = make_example(0, source="docs/a.md"), make_example(1, source="docs/b.md")
    row = first.model_copy(update={"context": (second.context[1], first.context[0], second.context[0]), "golden": golden})
    assert find_documents(row) == expected


def test_canaries_are_always_learnt() -> None:
    rows = [*make_rows(), *make_canaries("seed", 60)]
    learn, validate = hold(rows, 0.3)
    assert validate and {rows[row].origin for row in validate} == {""}
    assert {*range(240, 300)} <= {*learn} and sorted(learn + validate) == list(range(300))
