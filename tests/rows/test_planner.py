from __future__ import annotations

from typing import Any

import pytest

from distill.config import Config
from distill.records import Chunk
from distill.rows.planner import NOTHING_FOUND, describe_request, find_fault, make_id, plan_rows
from distill.rows.questions import Question
from distill.rows.split import Retrieved

QUESTION = Question("How hot is {text}?", "Thermal", 3)
CHUNKS = (Chunk("c1", r"D:\docs\pump.md", "The pump is 80 C.", 0.9), Chunk("c2", "valve.md", "Valves {question}.", 0.5))
FOUND, NOTHING = Retrieved("heldout", CHUNKS), Retrieved("train", ())


def make_config(**sections: Any) -> Config:
    """A config from nested values."""
    return Config.model_validate(sections)


def test_the_teacher_reads_the_students_prompt_and_more_instructions() -> None:
    config = make_config(prompt={"system": "Be right."}, generate={"teacher": {"instructions": "Be long."}})
    row = plan_rows(config, [QUESTION], [FOUND])[0]
    assert row.messages == [
        {"role": "system", "content": "Be right.\n\nBe long."}, {"role": "user", "content": row.prompt.instruction},
    ]
    assert [row.prompt.instruction[span.start : span.end] for span in row.prompt.context] == [chunk.text for chunk in CHUNKS]
    assert row.wants_teacher and row.side == "heldout" and len(row.id) == 16
    assert describe_request(row)["messages"] == row.messages


@pytest.mark.parametrize("sections", [
    {"prompt": {"system": "another"}},
    {"generate": {"teacher": {"instructions": "another"}}},
    {"generate": {"teacher": {"model": "another"}}},
    {"generate": {"teacher": {"provider": "extractive"}}},
    {"generate": {"teacher": {"temperature": 0.31}}},
    {"generate": {"teacher": {"max_tokens": 1025}}},
])
def test_an_id_hangs_on_what_determines_the_answer(sections: dict[str, Any]) -> None:
    assert make_id(make_config(), "text") != make_id(make_config(**sections), "text")
    assert make_id(make_config(), "text") != make_id(make_config(), "texts")


@pytest.mark.parametrize("change", [{"sentences": 3}, {"min_sentence_score": 0.5}])
def test_an_extractive_id_hangs_on_its_own_settings_too(change: dict[str, Any]) -> None:
    extractive = {"provider": "extractive"}
    before = make_id(make_config(generate={"teacher": extractive}), "text")
    assert before != make_id(make_config(generate={"teacher": {**extractive, **change}}), "text")
    assert before != make_id(make_config(generate={"teacher": extractive, "embedder": {"model": "another"}}), "text")
    assert make_id(make_config(), "text") == make_id(make_config(generate={"teacher": change}), "text")


@pytest.mark.parametrize("change", [
    {"concurrency": 9}, {"base_url": "http://127.0.0.1:1"}, {"timeout_seconds": 1}, {"max_attempts": 1},
])
def test_an_id_does_not_hang_on_how_the_teacher_is_reached(change: dict[str, Any]) -> None:
    assert make_id(make_config(), "text") == make_id(make_config(generate={"teacher": change}), "text")


def test_nothing_found_is_the_refusal_or_a_failure() -> None:
    demanding = plan_rows(make_config(), [QUESTION], [NOTHING])[0]
    assert demanding.refusal == make_config().prompt.refusal and not demanding.failure and not demanding.wants_teacher
    silent = plan_rows(make_config(prompt={"template": "{context} {question}"}), [QUESTION], [NOTHING])[0]
    assert silent.failure == NOTHING_FOUND and not silent.refusal and not silent.wants_teacher


@pytest.mark.parametrize(("answer", "fault"), [
    ("It is 80 C. [Source 1]", ""),
    ("No citation.", ""),
    ("Both. [Source 2] [Source 1]", ""),
    ("Invented. [Source 3]", "cites source 3 of 2"),
    ("Invented. [Source 0] [Source 7] [Source 7]", "cites source 0, 7 of 2"),
])
def test_citations_must_exist(answer: str, fault: str) -> None:
    config = make_config()
    assert find_fault(config.prompt, plan_rows(config, [QUESTION], [FOUND])[0], answer) == fault
