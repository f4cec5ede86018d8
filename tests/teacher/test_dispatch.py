from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from distill.config import Config
from distill.curation.lengths import TokenCounter
from distill.curation.rejections import Rejections
from distill.errors import PipelineError
from distill.index.hybridrag import Index
from distill.masking import Masker
from distill.prompts import find_citations
from distill.rows.contexts import ChunkReader
from distill.rows.making import Results
from distill.rows.planner import PlannedRow, plan_questions
from distill.rows.questions import Question
from distill.teacher.dispatch import NOTHING_NEAR, answer_rows, describe_teacher, require_able
from distill.teacher.extractive import TEACHER_NAME
from distill.teacher.journal import Journal
from distill.teacher.ledger import Ledger
from tests.rows.small_world import UNITS, WordEmbedder, make_config, make_index, make_split
from tests.servers import TeacherServer

EXTRACTIVE = {"provider": "extractive", "min_sentence_score": 0.3}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The small world's index; read it."""
    return make_index(tmp_path_factory.mktemp("index"))


def plan(index: Index, config: Config, texts: list[str]) -> list[PlannedRow]:
    """Rows for questions of these texts."""
    questions = [Question(text, "Units", line) for line, text in enumerate(texts, start=1)]
    reader = ChunkReader(index, Masker(config.generate.masking))
    return plan_questions(config, questions, reader, make_split(index), WordEmbedder(), Rejections())


def answer(folder: Path, config: Config, planned: list[PlannedRow]) -> Results:
    """Have the rows answered by the configured teacher."""
    config = config.model_copy(update={"work_dir": folder})
    config.training_dir.mkdir()
    results = Results(planned, [], Rejections())
    with Journal(config.training_dir, config.generate.teacher) as journal, Ledger(config.training_dir) as ledger:
        answer_rows(config, "", WordEmbedder(), planned, [], TokenCounter(), results, journal, ledger)
    return results


def test_the_extractive_teachers_own_answers_pass_every_check(index: Index, tmp_path: Path) -> None:
    config = make_config(teacher=EXTRACTIVE, context={"golden_less_share": 0})
    planned = plan(index, config, [f"What is the {unit} {aspect}?" for unit in UNITS for aspect in ("limit", "colour")])
    results = answer(tmp_path, config, planned)
    rows = results.rows["train"] + results.rows["heldout"]
    assert len(rows) == len(planned) == 24 and not results.failures and not len(results.rejections)
    assert {row.teacher_model for row in rows} == {TEACHER_NAME} and {row.timestamp for row in rows} == {""}
    for row in rows:
        cited = {row.context[number - 1].chunk_id for number in find_citations(config.prompt, row.output)}
        assert set(row.golden) == cited != set()


def test_without_a_refusal_to_fall_back_on_a_row_without_near_sentences_is_a_failure(index: Index, tmp_path: Path) -> None:
    open_prompt = {"template": "{context}\n\nQuestion: {question}", "refusal": ""}
    config = make_config(prompt=open_prompt, teacher={**EXTRACTIVE, "min_sentence_score": 1})
    results = answer(tmp_path, config, plan(index, config, ["What is the pump limit?"]))
    assert [failure["reason"] for failure in results.failures] == [NOTHING_NEAR]


def test_rows_without_need_of_a_teacher_are_settled_by_either(index: Index, tmp_path: Path) -> None:
    for name, teacher in (("extractive", EXTRACTIVE), ("openai", {"base_url": "http://127.0.0.1:1"})):
        config = make_config(min_score=0.99, teacher=teacher)
        (tmp_path / name).mkdir()
        results = answer(tmp_path / name, config, plan(index, config, ["What is the pump limit?"]))
        assert [row.output for rows in results.rows.values() for row in rows] == [config.prompt.refusal]


def test_a_model_is_asked_over_http_and_progress_is_told(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "The pump limit is 20 degrees in every mode. [Source 1]"
    with TeacherServer(lambda body: said) as server:
        config = make_config(teacher={"base_url": server.url}, context={"golden_less_share": 0, "shuffle": False})
        results = answer(tmp_path, config, plan(index, config, ["What is the pump limit?"]))
        assert len(server.requests) == 1 and describe_teacher(config) == "teacher-1 at 127.0.0.1"
    assert [row.output for rows in results.rows.values() for row in rows] == [said]
    assert "Teacher: 1/1 rows" in capsys.readouterr().err


def test_the_lines_of_progress_tell_what_was_spent(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TeacherServer(usage=lambda body: {"prompt_tokens": 50_000, "completion_tokens": 25_000}) as server:
        prices = {"prompt_usd_per_million": 1, "answer_usd_per_million": 2}
        config = make_config(teacher={"base_url": server.url, "budget_usd": 5, **prices}, context={"golden_less_share": 0})
        answer(tmp_path, config, plan(index, config, ["What is the pump limit?"]))
    assert re.search(r"Teacher: 1/1 rows, .*, \$0\.10 of \$5\.00, 1 requests", capsys.readouterr().err)


@pytest.mark.parametrize(("settings", "key"), [
    ({"teacher": {**EXTRACTIVE, "two_pass": True}}, "generate.teacher.two_pass"),
    ({"teacher": {**EXTRACTIVE, "reasoning": True}}, "generate.teacher.reasoning"),
    ({"teacher": EXTRACTIVE, "checks": {"judge": True}}, "generate.checks.judge"),
    ({"teacher": EXTRACTIVE, "documents": {"sets": 1}}, "generate.documents.sets"),
])
def test_what_the_extractive_teacher_cannot_do_is_named(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(PipelineError, match=f"{key} needs a model"):
        require_able(make_config(**settings))
    settings["teacher"] = {key: value for key, value in settings["teacher"].items() if key != "provider"}
    require_able(make_config(**settings))
