from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

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


# -----------------------------------------------------------------------------
# YAML and CSV


def write_text(folder: Path, name: str, text: str) -> Path:
    """A file as an editor saves it."""
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [
        {"instruction": "a?\nb", "output": 'say "yes", twice', "category": "RF", "difficulty": 2},
        {"instruction": "c; d?", "output": "e"},
    ]
    listed = yaml.safe_dump(rows)
    csv = 'instruction,output,category,difficulty\n"a?\nb","say ""yes"", twice",RF,2\n"c; d?",e,,\n'
    files = [
        write(tmp_path, *rows), write_text(tmp_path, "rows.yaml", listed), write_text(tmp_path, "rows.csv", csv),
        write_text(tmp_path, "rows.yml", yaml.safe_dump({"rows": rows})),
        write_text(tmp_path, "excel.CSV", "\ufeff" + csv.replace(",", ";").replace('"";', '"",').replace("\n", "\r\n")),
    ]
    loaded = [[each.row for each in load_curated([path])] for path in files]
    assert all(rows == loaded[0] for rows in loaded) and [row.difficulty for row in loaded[0]] == [2, 0]
    assert {row.origin for row in loaded[0]} == {"curated"}


def test_yaml_and_csv_rows_know_their_first_line(tmp_path: Path) -> None:
    text = "# mine\nrows:\n  - instruction: |\n      a?\n      b\n    output: c\n  - {instruction: d, output: e}\n"
    listed = write_text(tmp_path, "rows.yaml", text)
    assert [each.place.rsplit(":", 1)[1] for each in load_curated([listed])] == ["3", "7"]
    table = write_text(tmp_path, "rows.csv", '\n"instruction";"output"\n\n"a?\n\nb";c\nd;e\n;\n')
    loaded = load_curated([table])
    assert [each.place.rsplit(":", 1)[1] for each in loaded] == ["4", "7"] and loaded[0].row.instruction == "a?\n\nb"


def test_excels_habits_are_no_problem(tmp_path: Path) -> None:
    text = "\ufeffInstruction ; OUTPUT;;\r\nWhat, why?;5,0 V;;\r\n;;;\r\n"
    row = load_curated([write_text(tmp_path, "rows.csv", text)])[0].row
    assert (row.instruction, row.output) == ("What, why?", "5,0 V")


def test_a_context_may_stand_in_yaml(tmp_path: Path) -> None:
    text = """\
- instruction: text and question
  output: answer
  timestamp: 2026-01-31
  context:
    - {chunk_id: "1", source: a.md, score: 0.5, start: 0, end: 4}
"""
    row = load_curated([write_text(tmp_path, "rows.yaml", text)])[0].row
    assert row.context[0].source == "a.md" and row.num_chunks == 1 and row.timestamp == "2026-01-31"


@pytest.mark.parametrize(("name", "text", "message"), [
    ("rows.yaml", "", r"rows\.yaml must hold a list of rows"),
    ("rows.yaml", "rows: 3\n", r"rows\.yaml must hold a list of rows"),
    ("rows.yaml", "lines:\n  - {instruction: a, output: b}\n", r"rows\.yaml must hold a list of rows"),
    ("rows.yaml", "- instruction: a\n  output: b\n- just text\n", r"rows\.yaml:3 is no row"),
    ("rows.yaml", "- instruction: a\n  outptu: b\n", r"rows\.yaml:1 outptu: unknown, did you mean output\?"),
    ("rows.yaml", "- instruction: a\n  output: b\n  output: c\n", r"rows\.yaml:3 output: stands twice in one row"),
    ("rows.yaml", "- instruction: a\n  output: 80\n", r"rows\.yaml:1 output: .*string"),
    ("rows.yaml", "- instruction: a\n  output:\n", r"rows\.yaml:1 output: .*string"),
    ("rows.yaml", "- instruction: a: b\n", r"rows\.yaml:1 is not YAML"),
    ("rows.yaml", '- instruction: "D:\\Files"\n', r"rows\.yaml:1 .*forward slashes"),
    ("rows.csv", "", r"rows\.csv:1 must be a header line"),
    ("rows.csv", "What is it?,This\n", r"rows\.csv:1 must be a header line"),
    ("rows.csv", "instruction,output,catgory\na,b,c\n", r"rows\.csv:1 catgory: unknown, did you mean category\?"),
    ("rows.csv", "instruction,output,output\na,b,c\n", r"rows\.csv:1 output: stands twice in the header"),
    ("rows.csv", "instruction,output,context\na,b,c\n", r"rows\.csv:1 context: has no form in CSV"),
    ("rows.csv", "instruction,output\na,b\nWhat, why?,c\n", r"rows\.csv:3 has 3 cells under 2 columns"),
    ("rows.csv", "instruction,output\na,b\nc\n", r"rows\.csv:3 output: Field required"),
    ("rows.csv", 'instruction,output\n"a,b\nc,d\n', r"rows\.csv:2 is not CSV"),
    ("rows.csv", 'instruction,output\n"a" b,c\n', r"rows\.csv:2 is not CSV"),
    ("rows.csv", "instruction,output,difficulty\na,b,hard\n", r"rows\.csv:2 difficulty: "),
    ("rows.txt", "a", r"rows\.txt: generate\.curated_files takes \.jsonl, \.yaml, \.yml, \.csv files"),
])
def test_mistakes_in_yaml_and_csv_are_named_with_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        load_curated([write_text(tmp_path, name, text)])


@pytest.mark.parametrize(("encoding", "message"), [("utf-16", "is UTF-16"), ("cp1252", r"rows\.csv:2 is not UTF-8")])
def test_excels_other_encodings_are_named(tmp_path: Path, encoding: str, message: str) -> None:
    (tmp_path / "rows.csv").write_bytes("instruction;output\nHow hot?;80 \u00b0C\n".encode(encoding))
    with pytest.raises(PipelineError, match=message):
        load_curated([tmp_path / "rows.csv"])
