from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.config import Config
from distill.errors import PipelineError
from distill.records import Chunk
from distill.rows.planner import PlannedRow, plan_rows
from distill.rows.questions import Question
from distill.rows.split import Retrieved
from distill.teacher.answers import FILE_NAME, Answers, list_pending, load_answers, set_aside

CONFIG = Config()
CHUNKS = (Chunk("c1", "pump.md", "The pump is 80 C.", 0.9),)


def make_rows(*chunks: tuple[Chunk, ...]) -> list[PlannedRow]:
    """A planned row for each tuple of chunks."""
    questions = [Question(f"Question {number}?", "Thermal", number) for number in range(len(chunks))]
    return plan_rows(CONFIG, questions, [Retrieved("train", some) for some in chunks])


def test_answers_are_on_disk_at_once_and_found_again(tmp_path: Path) -> None:
    first, second = make_rows(CHUNKS, CHUNKS)
    with Answers(tmp_path, CONFIG.prompt) as answers:
        answers.add(first, "It is 80 C. [Source 1]", "teacher-1")
        assert set(load_answers(tmp_path)) == {first.id}
    with Answers(tmp_path, CONFIG.prompt) as answers:
        assert list_pending([first, second], answers.by_id) == [second]
        row = answers.complete(first)
    assert (row.output, row.teacher_model) == ("It is 80 C. [Source 1]", "teacher-1")
    assert (row.question, row.num_chunks) == ("Question 0?", 1)
    assert row.instruction == first.prompt.instruction and row.context == first.prompt.context


@pytest.mark.parametrize("torn", [b'{"id": "12', '{"output": "20 \u00b0'.encode()[:-1]])
def test_a_torn_last_line_is_forgotten(tmp_path: Path, torn: bytes) -> None:
    first, second = make_rows(CHUNKS, CHUNKS)
    with Answers(tmp_path, CONFIG.prompt) as answers:
        answers.add(first, "one", "teacher-1")
    with open(tmp_path / FILE_NAME, "ab") as file:
        file.write(torn)
    assert set(load_answers(tmp_path)) == {first.id}
    with Answers(tmp_path, CONFIG.prompt) as answers:
        answers.add(second, "two", "teacher-1")
    assert set(load_answers(tmp_path)) == {first.id, second.id}


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{}\n{"id": \n{}\n', encoding="utf-8")
    with pytest.raises(PipelineError, match=r"answers\.jsonl:2 is not JSON"):
        load_answers(tmp_path)


def test_an_invented_citation_is_a_failure_and_no_answer(tmp_path: Path) -> None:
    row = make_rows(CHUNKS)[0]
    with Answers(tmp_path, CONFIG.prompt) as answers:
        answers.add(row, "As [Source 4] says.", "teacher-1")
        failures = answers.write_failures(tmp_path / "failures.jsonl", [row])
    assert not load_answers(tmp_path)
    assert failures == [{
        "id": row.id, "category": "Thermal", "question": "Question 0?", "reason": "cites source 4 of 1",
        "output": "As [Source 4] says.",
    }]
    assert [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()] == failures


def test_rows_without_chunks_are_settled_without_a_teacher(tmp_path: Path) -> None:
    rows = make_rows((), CHUNKS)
    with Answers(tmp_path, CONFIG.prompt) as answers:
        answers.settle(rows)
        before = dict(answers.by_id)
        answers.settle(rows)
        assert answers.by_id == before and answers.complete(rows[0]).output == CONFIG.prompt.refusal
    assert set(before) == {rows[0].id}


def test_setting_aside_keeps_every_generation(tmp_path: Path) -> None:
    assert set_aside(tmp_path) is None
    for text in ("one", "two"):
        (tmp_path / FILE_NAME).write_text(text, encoding="utf-8")
        kept = set_aside(tmp_path)
        assert kept and kept.read_text(encoding="utf-8") == text and not (tmp_path / FILE_NAME).exists()
    assert len(list(tmp_path.iterdir())) == 2
