from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill.config import Config
from distill.errors import PipelineError
from distill.index.hybridrag import Index
from distill.masking import Masker
from distill.rows.contexts import ChunkReader
from distill.rows.documents import (
    find_question_fault,
    is_readable,
    list_windows,
    plan_set_golden_less,
    plan_set_row,
    plan_sets,
    read_questions,
)
from distill.rows.planner import PlannedSet
from tests.rows.small_world import DOCUMENTS, UNITS, make_config, make_index, make_split


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The small world's index; read it."""
    return make_index(tmp_path_factory.mktemp("index"))


def configure(sets: int, chunks_per_set: int = 2, **settings: Any) -> Config:
    """A config that wants sets."""
    documents = {"sets": sets, "chunks_per_set": chunks_per_set, "questions_per_set": 3}
    return make_config(documents=documents, **settings)


def plan(index: Index, config: Config) -> list[PlannedSet]:
    """The sets of an index."""
    return plan_sets(config, ChunkReader(index, Masker(config.generate.masking)), make_split(index))


# -----------------------------------------------------------------------------
# Which chunks


def test_sets_are_neighbouring_chunks_spread_over_the_documents(index: Index) -> None:
    windows = list(list_windows(index, 1))
    assert sorted(position for window in windows for position in window) == list(range(len(index)))
    rounds = [windows[start : start + len(UNITS)] for start in range(0, len(windows), len(UNITS))]
    for each in rounds:
        assert len({index.source_numbers[window[0]] for window in each}) == len(UNITS), "every document in turn"
    assert [window for window in list_windows(index, 2) if window[1] - window[0] == 1] == list(list_windows(index, 2))


def test_a_document_shorter_than_a_set_is_one(index: Index) -> None:
    windows = list(list_windows(index, 5))
    assert sorted(windows) == [[3 * row, 3 * row + 1, 3 * row + 2] for row in range(len(UNITS))]


def test_both_sides_get_sets_in_about_their_share(index: Index) -> None:
    sides = Counter(each.side for each in plan(index, configure(12)))
    assert sides == {"train": 9, "heldout": 3}
    few = Counter(each.side for each in plan(index, configure(4)))
    assert few["train"] >= 2, "the held-out documents are not simply the first"


def test_the_same_index_gives_the_same_sets_whatever_the_order_of_its_documents(index: Index, tmp_path: Path) -> None:
    turned = make_index(tmp_path, DOCUMENTS[::-1])
    assert [each.golden for each in plan(index, configure(5))] == [each.golden for each in plan(turned, configure(5))]
    assert plan(index, configure(5))[0].id == plan(index, configure(5))[0].id


def test_every_prompt_of_a_set_holds_its_chunks_and_near_misses_of_its_side(index: Index) -> None:
    split = make_split(index)
    for each in plan(index, configure(12)):
        golden = [chunk for chunk in each.chunks if chunk.chunk_id in each.golden]
        assert len(each.chunks) == 4 and len(golden) == len(each.golden) == 2
        assert len({chunk.source for chunk in golden}) == 1
        assert {split.side_of_source(chunk.source) for chunk in [*each.chunks, *each.others]} == {each.side}
        assert golden[0].source not in {chunk.source for chunk in each.others} and len(each.others) == 4
        assert sum(chunk.source == golden[0].source for chunk in each.chunks) == 2, "near misses are of other documents"


def test_the_golden_chunks_are_not_always_first_unless_shuffling_is_off(index: Index) -> None:
    def places(config: Config) -> set[tuple[int, ...]]:
        return {
            tuple(place for place, chunk in enumerate(each.chunks) if chunk.chunk_id in each.golden)
            for each in plan(index, config)
        }

    assert len(places(configure(12))) > 2
    assert places(configure(12, context={"shuffle": False})) == {(0, 1)}


@pytest.mark.parametrize(("text", "readable"), [
    ("The pump limit is 20 degrees in every mode. Nobody may run the pump above its limit.", True),
    ("1 Scope ........ 3\n1.1 Terms ........ 4\n2 Pump limits ........ 7\n2.1 Heat ........ 9\n3 Index ........ 12", False),
    ("```python\nfor row in rows:\n    print(row)\n    store(row)\n```\nThis loop prints every row and stores it.", False),
    ("1 Scope ........ 3\n\n1.1 Terms and how they are used here ........ 4\n\n2 Limits of every pump . . . . . . 7", False),
    ("Schedule variance: +12 days\nTop risk owner: PMO-RISK-2\nMilestone M3 forecast date: 2026-11-14", True),
    ("# Security\n\nApproved protocols, for transport alone:\n- TLS 1.3 with AES\n- SSH 2 with keys only", True),
    ("| unit | limit |\n|---|---|\n| pump | 20 |\n| valve | 21 |", False),
    ("The pump is hot.", False),
    ("", False),
])
def test_tables_of_contents_code_and_scraps_are_passed_over(text: str, readable: bool) -> None:
    assert is_readable(text) is readable


def test_an_index_without_enough_prose_yields_fewer_sets_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = [(f"{unit}.md", f"| {unit} | 20 |\n| limit | 3 |") for unit in UNITS]
    index = make_index(tmp_path, [*bare, *DOCUMENTS])
    sets = plan(index, configure(20))
    assert len(sets) == 12
    assert not [chunk for each in sets for chunk in each.chunks if chunk.chunk_id in each.golden and "|" in chunk.text]
    assert "only 12 of 20 sets of readable chunks" in capsys.readouterr().out


def test_copies_of_a_document_are_asked_about_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copies = [(source.replace("docs", "backup"), text) for source, text in DOCUMENTS]
    index = make_index(tmp_path, [*DOCUMENTS, *copies])
    sets = plan(index, configure(100, chunks_per_set=1, context={"near_misses": 0}, top_k=1))
    golden = [chunk.text for each in sets for chunk in each.chunks if chunk.chunk_id in each.golden]
    assert len(sets) == len(set(golden)) == len({each.id for each in sets}) == 3 * len(UNITS)
    assert "36 sets of chunks repeat the text of another" in capsys.readouterr().out


def test_no_sets_are_planned_unless_wanted(index: Index) -> None:
    assert plan(index, configure(0)) == []


def test_a_set_must_fit_into_the_prompt(index: Index) -> None:
    with pytest.raises(PipelineError, match=r"documents\.chunks_per_set 5 is more than generate\.top_k 4"):
        plan(index, configure(1, chunks_per_set=5))


# -----------------------------------------------------------------------------
# What is asked, and what comes back


def test_one_structured_request_shows_the_sources_as_the_student_sees_them(index: Index) -> None:
    config = configure(3)
    for each in plan(index, config):
        asked = each.request.messages[-1]["content"]
        row = plan_set_row(config, each, "What is the pump limit?")
        context = row.prompt.instruction.split("\n\nQuestion: ")[0]
        assert context in asked, "the same text, source for source"
        numbers = [f"source {number}" for number, chunk in enumerate(each.chunks, start=1) if chunk.chunk_id in each.golden]
        assert f"is about one or more of {' and '.join(numbers)}. " in asked and "Write 3 questions" in asked
        assert each.request.purpose == "questions" and each.request.row_ids == (each.id,)
        assert each.request.schema["properties"].keys() == {"questions"} and each.request.max_tokens == 3 * 1024


def test_all_questions_of_a_set_share_everything_before_the_question(index: Index) -> None:
    config = configure(1)
    each, = plan(index, config)
    rows = [plan_set_row(config, each, text) for text in ("What is the pump limit?", "How is the  log kept?")]
    before = {row.prompt.instruction.rsplit("Question: ", 1)[0] for row in rows}
    assert len(before) == 1 and rows[0].id != rows[1].id and rows[1].question.text == "How is the log kept?"
    assert (rows[0].origin, rows[0].answerable, rows[0].golden) == ("document", True, each.golden)
    assert rows[0].category == each.category == "Documents"


def test_a_share_of_a_sets_questions_is_asked_again_without_its_document(index: Index) -> None:
    config = configure(1, context={"golden_less_share": 0.2})
    each, = plan(index, config)
    rows = [plan_set_row(config, each, f"What is value {number} of the unit?") for number in range(400)]
    extra = [found for row in rows if (found := plan_set_golden_less(config, each, row))]
    assert 60 < len(extra) < 140, "a fifth of all is a quarter of the plain ones"
    source = next(chunk.source for chunk in each.chunks if chunk.chunk_id in each.golden)
    for row in extra:
        assert row.answerable is False and row.golden == () and row.wants_teacher
        assert source not in {chunk.source for chunk in row.chunks}
    silent = configure(1, context={"golden_less_share": 0.2}, prompt={"template": "{context} {question}"})
    assert not [row for row in rows if plan_set_golden_less(silent, each, row)]


WRITTEN = {"question": "What is the pump limit?", "answer": "It is 20 degrees. [Source 1]", "difficulty": 1}


@pytest.mark.parametrize(("reply", "problem"), [
    ({"questions": [WRITTEN]}, None),
    ({"questions": []}, "questions: Value error, must not be empty"),
    ({"questions": [{**WRITTEN, "difficulty": 4}]}, "questions.0.difficulty"),
    ({"questions": [{"question": "Why?"}]}, "questions.0.answer"),
    ({"questions": [{**WRITTEN, "more": 1}]}, "questions.0.more"),
    ([WRITTEN], "the reply"),
    ("no JSON at all", "the reply is not JSON"),
])
def test_a_reply_of_another_shape_is_named(index: Index, reply: Any, problem: str | None) -> None:
    check = plan(index, configure(1))[0].request.check
    found = check(reply if isinstance(reply, str) else json.dumps(reply))
    assert found is None if problem is None else found.startswith(problem)


def test_more_questions_than_asked_for_are_cut_off() -> None:
    reply = json.dumps({"questions": [{**WRITTEN, "question": f"What is limit {number}?"} for number in range(5)]})
    assert [each.question for each in read_questions(configure(1), reply)] == [f"What is limit {n}?" for n in range(3)]


def test_reasoning_is_asked_for_where_the_config_wants_it(index: Index) -> None:
    config = configure(1, teacher={"reasoning": True})
    each, = plan(index, config)
    assert each.request.check(json.dumps({"questions": [WRITTEN]})).startswith("questions.0.reasoning")
    assert each.request.check(json.dumps({"questions": [{**WRITTEN, "reasoning": "Source 1 names it."}]})) is None
    assert "`reasoning`" in each.request.messages[-1]["content"]


@pytest.mark.parametrize(("question", "clear"), [
    ("What is the thermal limit of the pump?", True),
    ("How is the text of a document cleaned before it is cut into chunks?", True),
    ("Which fields does the document register hold?", True),
    ("What does the source selector of the amplifier do?", True),
    ("Why is a context window of 4,096 tokens enough?", True),
    ("Describe the check of the pump log.", True),
    ("What is the limit according to the text?", False),
    ("According to the provided document, what is the limit?", False),
    ("Which limit is mentioned in the passage above?", False),
    ("What is described in this document?", False),
    ("What does this section say about the pump limit?", False),
    ("What does the text say about the pump limit?", False),
    ("What is the pump limit in the passage?", False),
    ("What is the pump limit in source 2?", False),
    ("What is the pump limit given by the following sources?", False),
    ("What is the pump limit as given in [Source 2]?", False),
    ("What is it?", False),
    (" ".join(["why"] * 81), False),
])
def test_questions_that_lean_on_unseen_sources_are_refused(question: str, clear: bool) -> None:
    assert (find_question_fault(make_config(), question) == "") is clear
