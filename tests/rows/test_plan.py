"""What stage 1 will try to make of what it is given, before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from demo.build_index import build_index
from distill.config import Config
from distill.curation.rejections import Rejections
from distill.masking import Masker
from distill.records import ContextSpan, TrainingExample
from distill.rows.curated import Curated
from distill.rows.plan import Inputs, Plan, describe_plan, keep_first, make_plan, open_index
from distill.rows.questions import Question
from tests.rows.small_world import DOCUMENTS, UNITS, WordEmbedder, make_config

MAIL = "Write to {unit}@example.com before the {unit} is started, and to {unit}@example.org when it runs."


def configure(folder: Path, indexed: Sequence[tuple[str, str]] = DOCUMENTS, **settings: Any) -> Config:
    """A config whose index holds these documents."""
    build_index(folder, indexed, WordEmbedder().embed, chunk_characters=130, overlap=0)
    return make_config(**{"index_folder": str(folder), "context": {"golden_less_share": 0}, **settings})


def plan(config: Config, texts: Sequence[str] = (), curated: Sequence[TrainingExample] = (), *found: Rejections) -> Plan:
    """The plan for questions of these texts and for curated rows; rejections go to `found`."""
    rejections, = found or (Rejections(),)
    questions = [Question(text, "Units", line) for line, text in enumerate(texts, start=1)]
    inputs = Inputs(questions, [], [Curated(row, f"rows.jsonl:{line}") for line, row in enumerate(curated, start=1)], {})
    return make_plan(config, inputs, WordEmbedder(), Masker(config.generate.masking), rejections, None)


def make_curated(name: str, *sources: str, question: str = "") -> TrainingExample:
    """A row that somebody wrote about these documents."""
    spans = tuple(ContextSpan(chunk_id=source, source=source, score=0.5, start=0, end=1) for source in sources)
    return TrainingExample(
        id=name, instruction=f"{name}?", output="Yes.", context=spans, question=question, origin="curated"
    )


# -----------------------------------------------------------------------------
# Curated rows


def test_curated_rows_about_one_document_go_to_training_where_there_is_no_index() -> None:
    rows = plan(make_config(), curated=[make_curated("a", "only.md"), make_curated("b", "only.md")]).curated
    assert [row.id for row in rows["train"]] == ["a", "b"] and rows["heldout"] == []


def test_curated_rows_about_several_documents_are_split_by_them() -> None:
    rows = plan(make_config(), curated=[make_curated(str(number), f"{number}.md") for number in range(8)]).curated
    assert [len(rows[side]) for side in ("train", "heldout")] == [6, 2]


def test_with_an_index_its_split_decides_whatever_the_curated_rows_name(tmp_path: Path) -> None:
    config = configure(tmp_path)
    found = plan(config, ["What is the pump limit?"], [make_curated("a", DOCUMENTS[0][0])])
    assert sum(len(rows) for rows in found.curated.values()) == 1
    assert [row.id for row in found.curated[found.planned[0].side]] == ["a"], "both are about the pump"


# -----------------------------------------------------------------------------
# Before anything is paid


def test_a_training_question_that_overlaps_with_a_heldout_curated_one_is_never_asked(tmp_path: Path) -> None:
    config, rejections = configure(tmp_path), Rejections()
    texts = [f"What is the {unit} limit?" for unit in UNITS]
    train = next(row for row in plan(config, texts).planned if row.side == "train")
    held = next(row for row in plan(config, texts).planned if row.side == "heldout")
    curated = make_curated("own", held.chunks[0].source, question=train.question.text)
    found = plan(config, texts, [curated], rejections)
    assert train.id not in {row.id for row in found.planned} and len(found.planned) == len(texts) - 1
    assert len(found.requests) == len(texts) - 1 and rejections.counts() == {"overlap with held-out": 1}


def test_of_rows_with_one_id_the_first_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = plan(configure(tmp_path), [f"What is the {unit} limit?" for unit in UNITS]).planned
    assert keep_first(rows) == rows and "left out" not in capsys.readouterr().out
    assert keep_first([*rows, rows[0]]) == rows and "1 rows would be the same" in capsys.readouterr().out


# -----------------------------------------------------------------------------
# Masking


def test_masked_is_what_stands_in_the_requests_and_not_all_that_was_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [(source, f"{text}\n\n{MAIL.format(unit=unit)}") for (source, text), unit in zip(DOCUMENTS, UNITS)]
    config = configure(tmp_path, documents, top_k=2, documents={"sets": 4, "chunks_per_set": 2, "questions_per_set": 1})
    masker = Masker(config.generate.masking)
    inputs = Inputs([Question("Who gets mail before the pump is started?", "Units", 1)], [], [], {})
    found = make_plan(config, inputs, WordEmbedder(), masker, Rejections(), None)
    sent = "".join(message["content"] for request in found.requests for message in request.messages)
    assert {row_id for request in found.requests for row_id in request.row_ids} == found.row_ids
    assert found.masked == {"EMAIL": sent.count("[EMAIL]")} and 0 < found.masked["EMAIL"] < masker.counts["EMAIL"]
    describe_plan(config, found, Rejections())
    assert f"[OK] masked before anything is sent: {found.masked['EMAIL']} EMAIL" in capsys.readouterr().out


def test_questions_and_sets_share_what_was_masked_already(tmp_path: Path) -> None:
    unit = UNITS[0]
    documents = [*DOCUMENTS[1:], (DOCUMENTS[0][0], MAIL.format(unit=unit))]
    config = configure(tmp_path, documents, documents={"sets": 40, "chunks_per_set": 1})
    masker = Masker(config.generate.masking)
    inputs = Inputs([Question(f"Who gets mail before the {unit} is started?", "Units", 1)], [], [], {})
    make_plan(config, inputs, WordEmbedder(), masker, Rejections(), None)
    assert masker.counts["EMAIL"] == 2, "two addresses, each masked once"


# -----------------------------------------------------------------------------
# The split


def test_copies_of_a_document_are_on_one_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copies = [(source.replace("docs", "backup"), text) for source, text in DOCUMENTS]
    split = open_index(configure(tmp_path, [*DOCUMENTS, *copies]), WordEmbedder())[1]
    assert all(split.side_of_source(source) == split.side_of_source(copy) for (source, _), (copy, _) in zip(DOCUMENTS, copies))
    assert "[OK] 24 documents repeat others, in 12 group(s)" in capsys.readouterr().out
