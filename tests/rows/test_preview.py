from __future__ import annotations

from pathlib import Path

import pytest

from distill.config import Config
from distill.curation.rejections import Rejections
from distill.masking import Masker
from distill.records import ContextSpan, TrainingExample
from distill.rows.contexts import ChunkReader
from distill.rows.documents import plan_sets
from distill.rows.planner import plan_questions
from distill.rows.preview import show_rows
from distill.rows.questions import Question
from tests.rows.small_world import WordEmbedder, make_config, make_index, make_split


def make_row(number: int) -> TrainingExample:
    """A finished row."""
    spans = tuple(ContextSpan(chunk_id=name, source=f"{name}.md", score=0.5, start=0, end=1) for name in ("a", "b"))
    return TrainingExample(
        id=f"row{number}", instruction=f"[Source 1] text\nQuestion: why {number}?", output=f"Because {number}.", context=spans,
        golden=("b",), answerable=True, origin="question", category="Units", reasoning="One step.",
    )


def test_a_row_is_shown_as_the_student_will_see_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(Config(), [make_row(1)], 5)
    shown = capsys.readouterr().out
    parts = ["row 1 of 1", "golden: source 2 (b.md)", "--- system ---", Config().prompt.system[:40], "--- user ---"]
    parts += ["[Source 1] text\nQuestion: why 1?", "--- answer ---", "Because 1."]
    places = [shown.index(part) for part in parts]
    assert places == sorted(places) and "the sources hold the answer: yes" in shown and "One step." not in shown


def test_finished_rows_can_be_shown_with_their_side(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(Config(), {"train": [make_row(1)], "heldout": [make_row(2)]}, 2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("row ")]
    assert [line.split()[4] for line in lines] == ["train", "heldout"]


def test_learnt_reasoning_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(Config.model_validate({"finetune": {"include_reasoning": True}}), [make_row(1)], 1)
    assert "One step.\n\nBecause 1." in capsys.readouterr().out


@pytest.mark.parametrize(("rows", "count", "shown"), [
    (10, 3, [1, 5, 10]), (10, 1, [1]), (2, 5, [1, 2]), (1, 1, [1]), (0, 5, []), (7, 7, [1, 2, 3, 4, 5, 6, 7]), (10, 0, []),
])
def test_what_is_shown_is_spread_over_all(rows: int, count: int, shown: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(Config(), [make_row(number) for number in range(1, rows + 1)], count)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("row ")]
    assert [int(line.split()[1]) for line in lines] == shown


def test_planned_rows_and_sets_can_be_shown_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = make_index(tmp_path)
    config = make_config(context={"golden_less_share": 0.5}, documents={"sets": 1})
    split, reader = make_split(index), ChunkReader(index, Masker(config.generate.masking))
    questions = [Question("What is the pump limit?", "Units", 1), Question("What is the valve colour?", "Units", 2)]
    planned = plan_questions(config, questions, reader, split, WordEmbedder(), Rejections())
    show_rows(config, [*planned, *plan_sets(config, reader, split)], 10)
    shown = capsys.readouterr().out
    assert shown.count("(the teacher will write it)") == len(planned) == 3
    assert "golden: none" in shown and "what the teacher gets" in shown
    assert "the sources hold the answer: no" in shown and r"(D:\docs\pump.md)" in shown
