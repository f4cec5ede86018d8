"""Rows that are not worth training on stop the run or are told, each with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.errors import PipelineError
from distill.records import TrainingExample
from distill.training.sanity import require_sound_rows
from distill.training.sets import LocatedRow
from tests.tiny_models import invent_sentences
from tests.training.rowsets import make_example

FILE = Path("data", "train.jsonl")
OTHER = Path("more", "train.jsonl")


def locate(examples: list[TrainingExample], path: Path = FILE) -> list[LocatedRow]:
    return [LocatedRow(example, path, line) for line, example in enumerate(examples, start=1)]


def make_rows(count: int = 200, **changes: Any) -> list[LocatedRow]:
    """Sound rows; those at the given lines (l5=...) have another answer."""
    examples = [make_example(number) for number in range(count)]
    for line, output in changes.items():
        place = int(line.removeprefix("l")) - 1
        examples[place] = examples[place].model_copy(update={"output": output})
    return locate(examples)


def check(capsys: pytest.CaptureFixture[str], rows: list[LocatedRow], smoke: bool = False) -> str:
    require_sound_rows(rows, smoke)
    return capsys.readouterr().out


# -----------------------------------------------------------------------------
# How many


@pytest.mark.parametrize(
    ("count", "smoke", "expected"),
    [
        (200, False, ""), (200, True, ""), (199, False, "[WARN] 199 rows: below about 200"),
        (100, False, "[WARN] 100 rows: below about 200"), (150, True, "[WARN] 150 rows: below about 200"),
        (99, True, "[WARN] smoke run on 99 rows"), (1, True, "[WARN] smoke run on 1 rows"),
    ],
)
def test_few_rows_are_told(capsys: pytest.CaptureFixture[str], count: int, smoke: bool, expected: str) -> None:
    printed = check(capsys, make_rows(count), smoke)
    assert printed.startswith(expected) and printed.count("\n") == bool(expected)


def test_very_few_rows_stop_the_run_with_the_reason_and_a_way_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError) as problem:
        check(capsys, make_rows(99))
    message = str(problem.value)
    assert message.startswith("99 training rows, fewer than 100") and "retrieval with a better prompt" in message
    assert "--limit 99" in message and "smoke run" in message and "\n" not in message


# -----------------------------------------------------------------------------
# Answers that are none

PLACEHOLDERS = [
    "TODO", "todo: ask Maria", "TBD", "N/A", "n/a.", "...", "\u2026", "-", "?", "None", "null", "placeholder", "[answer]",
    "<answer>", "</answer>", "Lorem ipsum dolor sit amet.", "lorem ipsum", "[insert the torque here]", "[Insert value].",
    "[your answer here]", "As an AI language model, I cannot answer this.", "as an AI I do not know", "I'm just an AI.",
]
ANSWERS = [
    "None of the valves is open.", "42", "No.", "N/A is written into the empty field.",
    "Todo lists stand in chapter 4, and nobody may delete one before the review is over.", "Unknown parts are sent back.",
    "[Insert date] stands at the head of the form.", "As an AI-based detector, it learns.", "The test is done weekly.",
]


@pytest.mark.parametrize("output", [" ", "\n\t", "\u00a0"])
def test_blank_answer_stops_the_run(capsys: pytest.CaptureFixture[str], output: str) -> None:
    with pytest.raises(PipelineError, match=r"train\.jsonl:7: 1 blank answers: .*--accept-edits"):
        check(capsys, make_rows(l7=output))


@pytest.mark.parametrize("output", PLACEHOLDERS)
def test_placeholder_stops_the_run(capsys: pytest.CaptureFixture[str], output: str) -> None:
    with pytest.raises(PipelineError, match=r"train\.jsonl:12: 1 placeholders for an answer"):
        check(capsys, make_rows(l12=output))


@pytest.mark.parametrize("output", ANSWERS)
def test_answer_that_only_looks_like_a_placeholder_is_learnt(capsys: pytest.CaptureFixture[str], output: str) -> None:
    check(capsys, make_rows(l12=output))


def test_all_kinds_are_told_at_once_with_the_first_places(capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_rows(l3=" ", l4="TODO", l50="TODO", **{f"l{line}": "N/A" for line in range(60, 66)})
    with pytest.raises(PipelineError) as problem:
        check(capsys, rows)
    blank, placeholders = str(problem.value).splitlines()
    assert blank.startswith(f"{FILE}:3: 1 blank")
    assert placeholders.strip().startswith(f"{FILE}:4, 50, 60, 61, 62, ...: 8 placeholders")


def test_empty_rows_stop_even_a_smoke_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError, match="blank answers"):
        check(capsys, make_rows(8, l2=" "), smoke=True)


@pytest.mark.parametrize(
    ("output", "told"),
    [("Set it to [insert value] and go on.", True), ("Sorry, but as an AI, I cannot say.", True), ("Set it.", False)],
)
def test_filler_inside_an_answer_is_told(capsys: pytest.CaptureFixture[str], output: str, told: bool) -> None:
    printed = check(capsys, make_rows(l9=output))
    filler = '[WARN] 1 answers hold filler such as [insert ...] or "as an AI, I" that their prompts do not'
    assert printed == (f"{filler}: {FILE}:9\n" if told else "")


def test_filler_that_the_sources_show_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    row = make_example(3)
    quoting = row.model_copy(update={
        "instruction": f"{row.instruction} Fill in [insert date].", "output": "Write over [Insert date] by hand.",
    })
    assert check(capsys, locate([*(make_example(number) for number in range(200) if number != 3), quoting])) == ""


# -----------------------------------------------------------------------------
# Repeats


def test_exact_repeats_are_told_and_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*make_rows(), *locate([make_example(0), make_example(5)], OTHER)]
    printed = check(capsys, rows)
    assert printed == f"[WARN] 2 rows repeat another word for word and are learnt more often: {OTHER}:1, 2\n"


def test_nearly_the_same_questions_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    again = make_example(5, question="Inspect the relay: which tool??", output="A spanner. [Source 1]")
    printed = check(capsys, [*make_rows(), *locate([again], OTHER)])
    assert printed == f"[WARN] 1 rows ask nearly the same as another: {OTHER}:1\n"


def test_question_whose_golden_chunk_was_taken_away_repeats_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    twin = make_example(5, answerable=False, output="The provided documents do not answer this question.")
    assert check(capsys, [*make_rows(), *locate([twin], OTHER)]) == ""
    again = twin.model_copy(update={"output": "Nothing answers this."})
    assert f"1 rows ask nearly the same as another: {OTHER}:2" in check(capsys, [*make_rows(), *locate([twin, again], OTHER)])


def test_curated_prompts_are_compared_by_their_question(capsys: pytest.CaptureFixture[str]) -> None:
    """Two prompts around one long text ask two things."""
    text = " ".join(invent_sentences(60))
    asked = ("Who keeps the log?", "Where is the limit written?", "WHO keeps the log?")
    rows = [TrainingExample(instruction=f"{text}\n\nQuestion: {question}", output=f"So {question}") for question in asked]
    printed = check(capsys, [*make_rows(), *locate(rows, OTHER)])
    assert printed == f"[WARN] 1 rows ask nearly the same as another: {OTHER}:3\n"
