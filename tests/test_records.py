"""Rows that cross a stage are checked with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.errors import PipelineError
from distill.records import load_examples


def test_a_row_of_the_tutorial_is_a_row(tmp_path: Path) -> None:
    row = '{"instruction": "i", "output": "o", "category": "c", "timestamp": "t", "teacher_model": "m", "num_chunks": 0}\n'
    (tmp_path / "x.jsonl").write_text(row, encoding="utf-8")
    (example,) = load_examples(tmp_path / "x.jsonl")
    assert (example.instruction, example.output, example.context) == ("i", "o", ())


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ('{"instruction": "i"}', r"x\.jsonl:2 output: Field required"),
        ('{"instruction": "i", "output": ""}', r"x\.jsonl:2 output: .*at least 1 character"),
        ('{"instruction": "i", "output": "o", "answer": "a"}', r"x\.jsonl:2 answer: Extra inputs"),
        ('{"instruction": "i", "output": "o", "context": [{"chunk_id": "1"}]}', r"x\.jsonl:2 context\.0\.source"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, expected: str) -> None:
    (tmp_path / "x.jsonl").write_text('{"instruction": "i", "output": "o"}\n' + row + "\n", encoding="utf-8")
    with pytest.raises(PipelineError, match=expected):
        load_examples(tmp_path / "x.jsonl")
