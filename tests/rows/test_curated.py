from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.errors import PipelineError
from distill.rows.curated import load_curated


def write(folder: Path, *lines: object, name: str = "rows.jsonl") -> Path:
    """A JSONL file of these rows; a str is a line as it is."""
    path = folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def test_two_fields_are_enough(tmp_path: Path) -> None:
    loaded = load_curated([write(tmp_path, {"instruction": "a?", "output": "b"}, "", {"instruction": "c?", "output": "d"})])
    first, second = (each.row for each in loaded)
    assert (first.instruction, first.output, first.teacher_model, first.num_chunks) == ("a?", "b", "curated", 0)
    assert len(first.id) == 16 and first.id != second.id and first.timestamp == ""
    assert loaded[1].place.endswith("rows.jsonl:3")


def test_other_fields_are_kept(tmp_path: Path) -> None:
    span = {"chunk_id": "1", "source": "a.md", "score": 0.5, "start": 0, "end": 4}
    row = {
        "id": "mine", "instruction": "text and question", "output": "answer", "category": "RF", "timestamp": "2026-01-01",
        "teacher_model": "a colleague", "question": "question", "context": [span],
    }
    loaded = load_curated([write(tmp_path, row)])[0].row
    assert (loaded.id, loaded.category, loaded.teacher_model, loaded.num_chunks) == ("mine", "RF", "a colleague", 1)


GOOD = {"instruction": "a?", "output": "b"}
SPAN = {"chunk_id": "1", "source": "a.md", "score": 0.5}


@pytest.mark.parametrize(("row", "message"), [
    ({"instruction": "a?"}, "rows.jsonl:2 output: Field required"),
    ({**GOOD, "output": ""}, "rows.jsonl:2 output: "),
    ({"instruction": " \n", "output": "b"}, "rows.jsonl:2 instruction: is blank"),
    ({**GOOD, "sauce": 1}, "rows.jsonl:2 sauce: "),
    ({**GOOD, "output": 7}, "rows.jsonl:2 output: "),
    ({**GOOD, "context": [{**SPAN, "start": 0, "end": 9}]}, r"rows.jsonl:2 context\.0: start 0 and end 9"),
    ({**GOOD, "context": [{**SPAN, "start": 2, "end": 1}]}, r"rows.jsonl:2 context\.0: start 2"),
    ("{not json", "rows.jsonl:2 is not JSON"),
    ("[1]", "rows.jsonl:2 is list"),
])
def test_mistakes_are_named_with_file_and_line(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        load_curated([write(tmp_path, {"instruction": "good?", "output": "yes"}, row)])


def test_a_row_that_stands_twice_is_named_with_both_places(tmp_path: Path) -> None:
    row = {"instruction": "a?", "output": "b"}
    files = [write(tmp_path, row), write(tmp_path, {"instruction": "c?", "output": "d"}, row, name="more.jsonl")]
    with pytest.raises(PipelineError, match=r"more\.jsonl:2 repeats the instruction of .*rows\.jsonl:1"):
        load_curated(files)


@pytest.mark.parametrize(("row", "what"), [
    ({"instruction": "A  ?", "output": "another answer"}, "instruction"),
    ({"instruction": "c?", "output": "d", "id": "mine"}, "id"),
])
def test_ids_and_instructions_are_unique(tmp_path: Path, row: dict[str, str], what: str) -> None:
    file = write(tmp_path, {"instruction": "a ?", "output": "b", "id": "mine"}, row)
    with pytest.raises(PipelineError, match=rf"rows\.jsonl:2 repeats the {what} of .*rows\.jsonl:1: delete one"):
        load_curated([file])


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    with pytest.raises(PipelineError, match=r"rows\.jsonl:1 repeats the instruction of"):
        load_curated([file, file])


def test_a_missing_file_says_which_key_names_it(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"absent\.jsonl is missing: mend generate\.curated_files"):
        load_curated([tmp_path / "absent.jsonl"])
