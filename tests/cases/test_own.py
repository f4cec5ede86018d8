"""The user's own cases: read, told apart from what was learnt, and scored as held-out rows are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.cases.own import make_own_set
from distill.config import Config
from distill.errors import PipelineError
from distill.prompts import to_messages
from tests.cases.worlds import OWNER, say
from tests.rows.small_world import WordEmbedder

LIMIT = {"instruction": "What is the pump limit?", "output": "The pump limit is 20 degrees."}
COLOUR = {"instruction": "Which colour has the valve?", "output": "The valve is blue.", "category": "Looks", "id": "colour"}


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_config(*files: Path, **evaluate: Any) -> Config:
    """A config that names the files."""
    return Config.model_validate({"evaluate": {"own_cases": [str(file) for file in files], **evaluate}})


def make_set(*files: Path, trained: tuple[str, ...] = (), **evaluate: Any) -> Any:
    """The set of these files."""
    return make_own_set(make_config(*files, **evaluate), trained, WordEmbedder())


def test_without_files_there_is_no_set() -> None:
    assert make_set() is None


def test_rows_are_asked_as_they_stand(tmp_path: Path) -> None:
    cases = make_set(write_rows(tmp_path / "own.jsonl", LIMIT, COLOUR))
    config = make_config()
    assert cases.name == "own" and [question.set for question in cases.questions] == ["own", "own"]
    for question, row in zip(cases.questions, (LIMIT, COLOUR)):
        assert question.messages == tuple(to_messages(config.prompt.system, row["instruction"]))
        assert question.reference == row["output"]
    assert cases.questions[1].id == "colour" and cases.questions[1].category == "Looks"


def test_answers_are_scored_against_the_output(tmp_path: Path) -> None:
    cases = make_set(write_rows(tmp_path / "own.jsonl", LIMIT))
    (name,) = [question.id for question in cases.questions]
    right, wrong = (cases.score([say(name, text)])[0]["correctness"] for text in (LIMIT["output"], "It is 90 volts."))
    assert right == 1 > wrong


@pytest.mark.parametrize("trained", ["What is the pump limit?", "  what IS the\npump limit? "])
def test_what_the_model_learnt_is_left_out(tmp_path: Path, trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases = make_set(write_rows(tmp_path / "own.jsonl", LIMIT, COLOUR), trained=(trained, "Something else?"))
    assert [question.id for question in cases.questions] == ["colour"]
    assert "[WARN] 1 of your own cases were left out" in capsys.readouterr().out


def test_a_row_is_known_by_its_bare_question_too(tmp_path: Path) -> None:
    row = {**LIMIT, "instruction": "Answer from the sources: ... What is the pump limit?", "question": LIMIT["instruction"]}
    cases = make_set(write_rows(tmp_path / "own.jsonl", row, COLOUR), trained=(LIMIT["instruction"],))
    assert [question.id for question in cases.questions] == ["colour"]


def test_training_rows_without_a_bare_question_make_nobody_known(tmp_path: Path) -> None:
    assert len(make_set(write_rows(tmp_path / "own.jsonl", LIMIT, COLOUR), trained=("", " ")).questions) == 2


def test_where_all_was_learnt_there_is_no_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_set(write_rows(tmp_path / "own.jsonl", LIMIT), trained=(LIMIT["instruction"],)) is None
    assert "[WARN] no case of evaluate.own_cases is left" in capsys.readouterr().out


def test_a_repeated_instruction_is_asked_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = write_rows(tmp_path / "b.jsonl", {**LIMIT, "output": "No."})
    cases = make_set(write_rows(tmp_path / "a.jsonl", LIMIT, COLOUR), second)
    assert [question.reference for question in cases.questions] == [LIMIT["output"], COLOUR["output"]]
    assert "[WARN] 1 of your own cases repeat another's instruction" in capsys.readouterr().out


def test_ids_that_two_rows_share_are_told_apart(tmp_path: Path) -> None:
    cases = make_set(write_rows(tmp_path / "own.jsonl", COLOUR, {**LIMIT, "id": "colour"}))
    assert [question.id for question in cases.questions] == ["colour", "colour#2"]


def test_what_leaves_this_machine_is_masked(tmp_path: Path) -> None:
    row = {"instruction": f"Who is {OWNER}?", "output": f"{OWNER} keeps the log."}
    path = write_rows(tmp_path / "own.jsonl", row)
    (question,) = make_set(path, ollama_url="http://server.example:11434").questions
    assert question.messages[-1]["content"] == "Who is [EMAIL]?" and question.reference == "[EMAIL] keeps the log."
    assert make_set(path).questions[0].messages[-1]["content"] == row["instruction"]


def test_a_masked_row_keeps_no_span_that_points_elsewhere(tmp_path: Path) -> None:
    text = f"Mail {OWNER}. The pump limit is 20 degrees. Limit?"
    span = {"chunk_id": "c", "source": "pump.md", "score": 0.5, "start": text.index("The"), "end": text.index(" Limit?")}
    path = write_rows(tmp_path / "own.jsonl", {**LIMIT, "instruction": text, "context": [span]})
    assert make_set(path, ollama_url="http://server.example:11434").questions[0].sources == ()
    assert [source.text for source in make_set(path).questions[0].sources] == ["The pump limit is 20 degrees."]
    plain = text.replace(OWNER, "the man at his work")
    path = write_rows(tmp_path / "own.jsonl", {**LIMIT, "instruction": plain, "context": [span]})
    assert len(make_set(path, ollama_url="http://server.example:11434").questions[0].sources) == 1


@pytest.mark.parametrize(("text", "message"), [
    ("", "holds no row"),
    ("\n\n", "holds no row"),
    ("{", r"own\.jsonl:1 is not JSON"),
    ('{"instruction": "Why?"}', r"own\.jsonl:1 output: Field required"),
    ('{"instruction": " ", "output": "x"}', r"own\.jsonl:1 instruction: is blank"),
    ('{"instruction": "Why?", "output": "x", "answer": "y"}', r"own\.jsonl:1 answer: unknown, did you mean"),
])
def test_what_cannot_be_used_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match=message) as caught:
        make_set(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"none\.jsonl is missing: mend evaluate\.own_cases"):
        make_set(tmp_path / "none.jsonl")
