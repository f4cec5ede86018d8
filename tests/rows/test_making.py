from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.config import Config
from distill.curation.lengths import TokenCounter
from distill.curation.rejections import Rejections
from distill.index.hybridrag import Index
from distill.masking import Masker
from distill.prompts import RenderedPrompt
from distill.records import Chunk, TrainingExample
from distill.rows.contexts import ChunkReader
from distill.rows.documents import plan_sets
from distill.rows.finishing import Draft, check_draft, rate_difficulty
from distill.rows.making import REFUSAL_TEACHER, Results, list_requests, make_jobs, settle_rows
from distill.rows.planner import PlannedRow, PlannedSet, describe_request, plan_questions
from distill.rows.questions import Question
from distill.teacher.chat import run_jobs
from distill.teacher.journal import Journal
from distill.teacher.ledger import Ledger
from tests.rows.small_world import WordEmbedder, make_config, make_index, make_split
from tests.servers import TeacherServer

REFUSAL = Config().prompt.refusal
TEXTS = ["What is the pump limit?", "What is the valve limit?", "What is the modem limit?", "What is the cable limit?"]
OPEN = {
    "template": "Prefix what you add with [General Knowledge]. Cite as [Source N].\n\n{context}\n\nQuestion: {question}",
    "general_knowledge": "[General Knowledge]", "refusal": "",
}
WORDS = TokenCounter(lambda text: len(text.split()))  # a token is a word here: exact, and short to write


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The small world's index; read it."""
    return make_index(tmp_path_factory.mktemp("index"))


# -----------------------------------------------------------------------------
# A teacher by script: what it says for each purpose


def purpose_of(body: Any) -> str:
    """What a request is for, as a reader of it would tell."""
    if "response_format" in body:
        return body["response_format"]["json_schema"]["name"]
    return "shorten" if len(body["messages"]) > 2 else "answer"


def quote(body: Any) -> str:
    """The first sentence of the source that names the asked-for unit, cited; the refusal where none does."""
    prompt = next(message["content"] for message in body["messages"] if message["role"] == "user")
    unit = re.findall(r"the (\w+) (?:limit|log|colour)", prompt.rsplit("Question: ", 1)[-1])
    for number, text in re.findall(r"\[Source (\d+)\] \S+\n(.*)", prompt):
        if unit and f"The {unit[0]} limit is" in text:
            return f"{text.split('. ')[0]}. [Source {number}]"
    return REFUSAL


class Script:
    """A TeacherServer's answers by purpose; `asked` counts requests."""

    def __init__(self, **says: Callable[[Any], Any] | Any) -> None:
        self._says = {"answer": quote, **says}
        self.asked: list[str] = []
        self.bodies: list[Any] = []

    def __call__(self, body: Any) -> str:
        purpose = purpose_of(body)
        self.asked.append(purpose)
        self.bodies.append(body)
        said = self._says[purpose]
        text = said(body) if callable(said) else said
        return text if isinstance(text, str) else json.dumps(text)


def make(
    folder: Path, config: Config, script: Script, planned: Sequence[PlannedRow], sets: Sequence[PlannedSet] = (),
    fault: Callable[[int, str], str | None] = lambda number, question: None, counter: TokenCounter = WORDS,
) -> Results:
    """Have the rows made by a teacher over HTTP."""
    results = Results(planned, sets, Rejections())
    with TeacherServer(script, fault) as server:
        teacher = config.generate.teacher.model_copy(update={"base_url": server.url})
        generate = config.generate.model_copy(update={"teacher": teacher})
        run = config.model_copy(update={"generate": generate, "work_dir": folder})
        run.training_dir.mkdir(parents=True, exist_ok=True)
        settle_rows(run, planned, results)
        with Journal(run.training_dir, teacher) as journal, Ledger(run.training_dir) as ledger:
            run_jobs(run.generate.teacher, "", make_jobs(run, planned, sets, counter, results), journal, ledger, None)
    return results


def plan(index: Index, config: Config, texts: Sequence[str] = TEXTS) -> list[PlannedRow]:
    """Rows for questions of these texts."""
    questions = [Question(text, "Units", line) for line, text in enumerate(texts, start=1)]
    reader = ChunkReader(index, Masker(config.generate.masking))
    return plan_questions(config, questions, reader, make_split(index), WordEmbedder(), Rejections())


def list_rows(results: Results) -> list[TrainingExample]:
    """All finished rows."""
    return results.rows["train"] + results.rows["heldout"]


def read_rejected(results: Results, folder: Path) -> list[dict[str, Any]]:
    """What was rejected."""
    results.rejections.write(folder / "rejected.jsonl")
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]


# -----------------------------------------------------------------------------
# Rows


def test_answers_become_rows_in_planned_order_with_all_that_is_known_of_them(index: Index, tmp_path: Path) -> None:
    config = make_config(context={"golden_less_share": 0}, teacher={"concurrency": 4})
    planned = plan(index, config)
    results = make(tmp_path, config, Script(), planned)
    assert not results.failures and not len(results.rejections)
    for side, rows in results.rows.items():
        assert [row.id for row in rows] == [row.id for row in planned if row.side == side]
    for row, expected in zip(sorted(list_rows(results), key=lambda row: row.id), sorted(planned, key=lambda row: row.id)):
        assert row.instruction == expected.prompt.instruction and row.question == expected.question.text
        assert row.output.startswith("The ") and row.output.endswith("]") and row.context == expected.prompt.context
        assert (row.teacher_model, row.category, row.origin, row.answerable) == ("teacher-1", "Units", "question", True)
        assert row.golden == expected.golden and row.num_chunks == 4 and row.difficulty == 1 and row.timestamp


def test_golden_are_the_chunks_that_the_answer_cites(index: Index, tmp_path: Path) -> None:
    planned = plan(index, make_config(context={"golden_less_share": 0}), TEXTS[:1])
    row = planned[0]
    said = " ".join(f"{chunk.text.split('. ')[0]}. [Source {n}]" for n, chunk in enumerate(row.chunks, 1) if n in (2, 3))
    results = make(tmp_path, make_config(), Script(answer=said), planned)
    assert list_rows(results)[0].golden == (row.chunks[1].chunk_id, row.chunks[2].chunk_id)


def test_a_row_without_its_golden_chunk_keeps_only_the_refusal_in_the_prompts_own_words(index: Index, tmp_path: Path) -> None:
    config = make_config(context={"golden_less_share": 0.5})
    planned = plan(index, config)
    said = iter(["  the provided documents do not answer this   QUESTION", "It is 99 degrees, as all know. [Source 1]"])
    extra = [row for row in planned if row.answerable is False][:2]
    results = make(tmp_path, make_config(teacher={"concurrency": 1}), Script(answer=lambda body: next(said)), extra)
    row, = list_rows(results)
    assert row.output == REFUSAL and row.answerable is False and row.golden == () and row.difficulty == 3
    assert [each["check"] for each in read_rejected(results, tmp_path)] == ["refusal"]


def test_an_open_shape_keeps_marked_knowledge_where_the_golden_chunk_is_missing(index: Index, tmp_path: Path) -> None:
    config = make_config(prompt=OPEN, context={"golden_less_share": 0.5}, teacher={"concurrency": 1})
    extra = [row for row in plan(index, config) if row.answerable is False][:2]
    said = iter(["[General Knowledge] Such limits are mostly near 80 degrees.", "The limit is 80 degrees there."])
    results = make(tmp_path, config, Script(answer=lambda body: next(said)), extra)
    assert [row.output for row in list_rows(results)] == ["[General Knowledge] Such limits are mostly near 80 degrees."]
    assert len(results.rejections) == 1


def test_a_refusal_to_a_question_is_kept_as_unanswerable_but_rejected_where_its_sources_gave_the_question(
    pump: PlannedRow, tmp_path: Path
) -> None:
    kept, = list_rows(make(tmp_path, make_config(), Script(answer=REFUSAL), [pump]))
    assert kept.output == REFUSAL and kept.answerable is False and kept.golden == () and kept.difficulty == 3
    results = make(tmp_path, make_config(), Script(answer=REFUSAL), [replace(pump, answerable=True)])
    assert not list_rows(results) and results.rejections.counts() == {"refusal": 1}


@pytest.mark.parametrize(("said", "answerable", "difficulty"), [
    ("[General Knowledge] Such limits are mostly near 80 degrees.", False, 3),
    ("The pump limit is 20 degrees in every mode. [Source {number}]", True, 1),
    ("The pump limit is 20 degrees in every mode. [Source {number}] [General Knowledge] Others are near 80.", True, 1),
])
def test_what_owes_nothing_to_the_sources_finds_no_answer_in_them(
    index: Index, tmp_path: Path, said: str, answerable: bool, difficulty: int
) -> None:
    config = make_config(prompt=OPEN, context={"golden_less_share": 0})
    planned, = plan(index, config, TEXTS[:1])
    row, = list_rows(make(tmp_path, config, Script(answer=said.format(number=number_of(planned))), [planned]))
    assert (row.answerable, row.golden, row.difficulty) == (answerable, planned.golden if answerable else (), difficulty)


def test_two_rows_of_one_id_are_refused(pump: PlannedRow) -> None:
    with pytest.raises(ValueError, match="1 planned rows share the id of another"):
        Results([pump, pump], [], Rejections())


def test_rows_that_need_no_teacher_are_settled_without_one(index: Index, tmp_path: Path) -> None:
    config = make_config(min_score=0.99)
    refused, = plan(index, config, TEXTS[:1])
    failed = replace(refused, id="failed", refusal="", failure="no chunk above min_score")
    script = Script()
    results = make(tmp_path, config, script, [refused, failed])
    row, = list_rows(results)
    assert (row.output, row.teacher_model, row.answerable, row.golden) == (REFUSAL, REFUSAL_TEACHER, False, ())
    assert results.failures == [
        {"id": "failed", "category": "Units", "question": TEXTS[0], "reason": "no chunk above min_score"}
    ]
    assert script.asked == [] and list_requests(config, [refused, failed], []) == []


def test_a_row_that_the_provider_refuses_is_a_failure_and_not_a_rejection(index: Index, tmp_path: Path) -> None:
    config = make_config(context={"golden_less_share": 0}, teacher={"concurrency": 1})
    planned = plan(index, config)
    script = Script()
    results = make(tmp_path, config, script, planned, fault=lambda _, question: "filtered" if "valve" in question else None)
    assert len(list_rows(results)) == 3 and not len(results.rejections)
    assert [failure["question"] for failure in results.failures] == ["What is the valve limit?"]


def test_a_second_run_asks_nothing_and_gives_the_same_rows(index: Index, tmp_path: Path) -> None:
    teacher = {"two_pass": True}
    checks = {"judge": True, "max_answer_tokens": 12}
    config = make_config(teacher=teacher, context={"golden_less_share": 0.3}, checks=checks)
    planned = plan(index, config)

    def script() -> Script:
        return Script(
            answer=lambda body: quote(body).replace(" in every mode", " in every mode, as said, in every one of its modes"),
            shorten=quote, improve=lambda body: {"critique": "Fine.", "answer": quote(body)},
            judge={"reason": "Right.", "score": 5},
        )

    first, second = script(), script()
    before, after = make(tmp_path, config, first, planned), make(tmp_path, config, second, planned)
    assert {"answer", "shorten", "improve", "judge"} == set(first.asked) and second.asked == []
    assert before.rows == after.rows and len(list_rows(after)) >= 4


# -----------------------------------------------------------------------------
# Shorter, better, graded


LONG = "The pump limit is 20 degrees in every mode" + ", and the pump limit is 20 degrees" * 20 + ". [Source {number}]"


def number_of(row: PlannedRow) -> int:
    """The golden chunk's number in the prompt."""
    return next(number for number, chunk in enumerate(row.chunks, start=1) if chunk.chunk_id in row.golden)


@pytest.fixture
def pump(index: Index) -> PlannedRow:
    """The row of the pump's limit."""
    return plan(index, make_config(context={"golden_less_share": 0}), TEXTS[:1])[0]


def test_a_long_answer_is_asked_for_again_once(pump: PlannedRow, tmp_path: Path) -> None:
    config = make_config(checks={"max_answer_tokens": 100})
    script = Script(answer=LONG.format(number=number_of(pump)), shorten=quote)
    row, = list_rows(make(tmp_path, config, script, [pump]))
    assert script.asked == ["answer", "shorten"] and row.output.startswith("The pump limit is 20 degrees in every mode. [")
    messages = script.bodies[1]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[:2] == script.bodies[0]["messages"] and "at most 60 words" in messages[3]["content"]


def test_an_answer_that_stays_long_is_rejected(pump: PlannedRow, tmp_path: Path) -> None:
    long = LONG.format(number=number_of(pump))
    script = Script(answer=long, shorten=long)
    results = make(tmp_path, make_config(checks={"max_answer_tokens": 100}, teacher={"two_pass": True}), script, [pump])
    assert script.asked == ["answer", "shorten"] and results.rejections.counts() == {"too long": 1}


def test_a_cut_answer_is_asked_for_again_and_never_learnt(pump: PlannedRow, tmp_path: Path) -> None:
    script = Script(shorten=quote)
    cut = make(tmp_path / "once", make_config(), script, [pump], fault=lambda number, _: "length" if number == 0 else None)
    assert script.asked == ["shorten"] and list_rows(cut)[0].output.startswith("The pump limit is 20 degrees")
    always = make(tmp_path / "always", make_config(), Script(), [pump], fault=lambda number, _: "length")
    assert not list_rows(always) and always.rejections.counts() == {"too long": 1}


def test_the_improved_answer_is_learnt_and_the_first_one_kept(pump: PlannedRow, tmp_path: Path) -> None:
    better = f"The pump limit is 20 degrees, for over an hour. [Source {number_of(pump)}]"
    script = Script(improve={"critique": "The hour is missing.", "answer": better})
    row, = list_rows(make(tmp_path, make_config(teacher={"two_pass": True}), script, [pump]))
    assert row.output == better and row.draft.startswith("The pump limit is 20 degrees in every mode.")
    sent = script.bodies[1]["messages"]
    assert sent[2] == {"role": "assistant", "content": row.draft} and "critique" in sent[3]["content"]


@pytest.mark.parametrize("worse", ["It is 21 degrees. [Source 9]", REFUSAL, ""])
def test_the_first_answer_stays_where_the_improved_one_fails_the_checks(pump: PlannedRow, worse: str, tmp_path: Path) -> None:
    script = Script(improve={"critique": "All wrong.", "answer": worse})
    results = make(tmp_path, make_config(teacher={"two_pass": True}), script, [pump])
    row, = list_rows(results)
    assert row.output.startswith("The pump limit is 20 degrees in every mode.") and row.draft == ""


def test_an_improvement_that_was_cut_off_leaves_the_first_answer(pump: PlannedRow, tmp_path: Path) -> None:
    config = make_config(teacher={"two_pass": True})
    results = make(tmp_path, config, Script(), [pump], fault=lambda number, _: "length" if number == 1 else None)
    assert list_rows(results)[0].output.startswith("The pump limit is 20 degrees in every mode.")


def test_an_improvement_mends_a_first_answer_that_fails_the_checks(pump: PlannedRow, tmp_path: Path) -> None:
    script = Script(answer="It is 99 degrees. [Source 9]", improve=lambda body: {"critique": "No.", "answer": quote(body)})
    row, = list_rows(make(tmp_path, make_config(teacher={"two_pass": True}), script, [pump]))
    assert row.output.startswith("The pump limit is 20 degrees") and row.draft == "It is 99 degrees. [Source 9]"


def test_an_expected_refusal_is_neither_improved_nor_graded(pump: PlannedRow, tmp_path: Path) -> None:
    config = make_config(teacher={"two_pass": True}, checks={"judge": True})
    script = Script(answer=REFUSAL)
    row, = list_rows(make(tmp_path, config, script, [replace(pump, answerable=False, golden=())]))
    assert row.output == REFUSAL and script.asked == ["answer"]


@pytest.mark.parametrize(("score", "kept"), [(5, True), (4, True), (3, False), (1, False)])
def test_the_judge_sees_sources_and_answer_and_its_grade_decides(
    pump: PlannedRow, score: int, kept: bool, tmp_path: Path
) -> None:
    script = Script(judge={"reason": "As the\nsource says.", "score": score})
    results = make(tmp_path, make_config(checks={"judge": True}), script, [pump])
    assert bool(list_rows(results)) is kept
    graded = script.bodies[1]["messages"][-1]["content"]
    assert pump.prompt.instruction in graded and "The pump limit is 20 degrees in every mode. [Source" in graded
    if not kept:
        assert read_rejected(results, tmp_path)[0]["detail"] == f"{score} of 5: As the source says."


def test_an_answer_that_fails_the_checks_is_not_graded(pump: PlannedRow, tmp_path: Path) -> None:
    script = Script(answer="It is 20 degrees. [Source 9]")
    results = make(tmp_path, make_config(checks={"judge": True}), script, [pump])
    assert script.asked == ["answer"] and results.rejections.counts() == {"citation": 1}


def test_a_grade_out_of_range_is_asked_for_again_and_then_a_failure(pump: PlannedRow, tmp_path: Path) -> None:
    script = Script(judge={"reason": "Superb.", "score": 6})
    results = make(tmp_path, make_config(checks={"judge": True}), script, [pump])
    assert script.asked == ["answer", "judge", "judge"] and len(results.failures) == 1


def test_a_grade_is_short_and_gets_room_once_where_it_is_cut_off(pump: PlannedRow, tmp_path: Path) -> None:
    config = make_config(checks={"judge": True})
    script = Script(judge={"reason": "Right.", "score": 5})
    cut_once = make(tmp_path / "once", config, script, [pump], fault=lambda number, _: "length" if number == 1 else None)
    assert list_rows(cut_once) and [body["max_tokens"] for body in script.bodies][-1] == 256 + 1024
    always = make(tmp_path / "always", config, Script(), [pump], fault=lambda number, _: "length" if number else None)
    assert re.search(r"not asked for again before generate\.teacher\.max_tokens 1024", always.failures[0]["reason"])
    short = Script(judge={"reason": "Right.", "score": 5})
    make(tmp_path / "short", config, short, [pump])
    assert [body["max_tokens"] for body in short.bodies] == [1024, 256]


def test_reasoning_is_kept_apart_from_the_answer(index: Index, tmp_path: Path) -> None:
    config = make_config(teacher={"reasoning": True, "two_pass": True}, context={"golden_less_share": 0})
    planned = plan(index, config, TEXTS[:1])
    script = Script(
        answer=lambda body: {"reasoning": "First step.", "answer": quote(body)},
        improve=lambda body: {"critique": "Fine.", "reasoning": "Better step.", "answer": quote(body)},
    )
    row, = list_rows(make(tmp_path, config, script, planned))
    assert row.reasoning == "Better step." and "step" not in row.output and row.draft == row.output
    systems = [body["messages"][0]["content"] for body in script.bodies]
    assert "`reasoning` holds" in systems[0] and systems[0].startswith(systems[1]), "the same but for the reply's form"
    assert "JSON" not in systems[1] and "`critique` holds" in script.bodies[1]["messages"][-1]["content"], "which stands once"
    assert {body["max_tokens"] for body in script.bodies} == {2 * 1024}, "the steps have room beside the answer"


def test_learnt_reasoning_counts_towards_the_length_that_is_served(index: Index, tmp_path: Path) -> None:
    config = make_config(teacher={"reasoning": True}, context={"golden_less_share": 0}, checks={"max_answer_tokens": 40})
    planned = plan(index, config, TEXTS[:1])
    said = {"answer": lambda body: {"reasoning": "One more step. " * 20, "answer": quote(body)}}
    assert list_rows(make(tmp_path / "apart", config, Script(**said), planned))
    learnt = config.model_copy(update={"finetune": config.finetune.model_copy(update={"include_reasoning": True})})
    script = Script(**said, shorten=said["answer"])
    results = make(tmp_path / "learnt", learnt, script, planned)
    assert results.rejections.counts() == {"too long": 1}
    assert "24 words for `reasoning` and `answer` together" in script.bodies[1]["messages"][-1]["content"]


# -----------------------------------------------------------------------------
# Sets


def configure_sets(**settings: Any) -> Config:
    """A config that wants one set, and nothing else."""
    documents = {"sets": 2, "chunks_per_set": 1, "questions_per_set": 3}
    return make_config(documents=documents, **{"context": {"golden_less_share": 0}, **settings})


def plan_documents(index: Index, config: Config) -> list[PlannedSet]:
    """The sets of the index."""
    return plan_sets(config, ChunkReader(index, Masker(config.generate.masking)), make_split(index))


def write_questions(body: Any) -> dict[str, Any]:
    """Three questions on the first source that the request names: two good ones, and one that leans on it."""
    prompt = body["messages"][-1]["content"]
    number = re.search(r"question is about source (\d+)", prompt)[1]
    text = re.search(rf"\[Source {number}\] \S+\n(.*)", prompt)[1]
    first, second = (f"{part.rstrip('.')}. [Source {number}]" for part in text.split(". "))
    unit = text.split()[1]
    return {"questions": [
        {"question": f"What holds for the {unit} in general?", "answer": first, "difficulty": 2},
        {"question": f"What does the text say about the {unit}?", "answer": first, "difficulty": 1},
        {"question": f"Who looks after the {unit}, and how?", "answer": second, "difficulty": 3},
    ]}


def test_a_set_becomes_rows_that_share_their_sources(index: Index, tmp_path: Path) -> None:
    config = configure_sets()
    sets = plan_documents(index, config)
    script = Script(questions=write_questions)
    results = make(tmp_path, config, script, [], sets)
    assert script.asked == ["questions"] * 2 and results.rejections.counts() == {"unclear question": 2}
    rows = list_rows(results)
    assert len(rows) == 4 and {row.origin for row in rows} == {"document"} and {row.difficulty for row in rows} == {2, 3}
    for each in sets:
        of_set = [row for row in rows if row.golden == each.golden]
        before = {row.instruction.rsplit("Question: ", 1)[0] for row in of_set}
        assert len(of_set) == 2 and len(before) == 1 and {row.num_chunks for row in of_set} == {4}


def test_a_sets_questions_are_asked_again_without_its_document(index: Index, tmp_path: Path) -> None:
    config = configure_sets(context={"golden_less_share": 0.5})
    sets = plan_documents(index, config)
    script = Script(questions=write_questions, answer=REFUSAL)
    rows = list_rows(make(tmp_path, config, script, [], sets))
    assert script.asked.count("answer") == 4 and len(rows) == 8
    without = [row for row in rows if row.answerable is False]
    assert [row.output for row in without] == [REFUSAL] * 4
    assert {row.question for row in without} == {row.question for row in rows if row.answerable}
    golden = {row.question: row.golden[0] for row in rows if row.answerable}
    assert all(golden[row.question] not in {span.chunk_id for span in row.context} for row in without)


def test_a_sets_answers_pass_the_same_checks_and_passes(index: Index, tmp_path: Path) -> None:
    config = configure_sets(teacher={"two_pass": True}, checks={"judge": True})

    def improve(body: Any) -> dict[str, str]:
        return {"critique": "Fine.", "answer": body["messages"][2]["content"].replace("[Source ", "[source ")}

    def write_badly(body: Any) -> dict[str, Any]:
        written = write_questions(body)["questions"]
        return {"questions": [written[0], {**written[2], "answer": "It is 77 volts in the night. [Source 1]"}]}

    script = Script(questions=write_badly, improve=improve, judge={"reason": "Right.", "score": 4})
    results = make(tmp_path, config, script, [], plan_documents(index, config))
    assert script.asked.count("improve") == 4 and script.asked.count("judge") == 2
    assert len(list_rows(results)) == 2 and results.rejections.counts() == {"support": 2}
    for row in list_rows(results):
        assert "[source " in row.output and "[Source " in row.draft and row.difficulty == 2, "as the teacher rated it"


def test_a_sets_long_answer_is_asked_for_again_as_a_question_of_its_own(index: Index, tmp_path: Path) -> None:
    config = configure_sets(checks={"max_answer_tokens": 60})
    first: dict[str, str] = {}

    def write_at_length(body: Any) -> dict[str, Any]:
        written = write_questions(body)["questions"][0]
        first[written["question"]] = written["answer"]
        return {"questions": [{**written, "answer": "So it is said. " * 40 + written["answer"]}]}

    def shorten(body: Any) -> str:
        return first[body["messages"][1]["content"].rsplit("Question: ", 1)[-1]]

    script = Script(questions=write_at_length, shorten=shorten)
    rows = list_rows(make(tmp_path, config, script, [], plan_documents(index, config)))
    assert script.asked.count("shorten") == 2 and {row.output for row in rows} == set(first.values())
    assert {row.difficulty for row in rows} == {2}


@pytest.mark.parametrize(("says", "fault", "reason"), [
    ({"questions": []}, None, "not as asked: questions: Value error, must not be empty"),
    ({"questions": [{"question": "Why?"}]}, None, "not as asked"),
    (write_questions, "length", r"cut off, and not asked again before generate\.teacher\.max_tokens 1024 is raised"),
    (write_questions, "filtered", "content_filter"),
])
def test_a_set_without_usable_questions_is_a_failure(
    index: Index, tmp_path: Path, says: Any, fault: str | None, reason: str
) -> None:
    config = configure_sets()
    sets = plan_documents(index, config)
    results = make(tmp_path, config, Script(questions=says), [], sets, fault=lambda number, question: fault)
    assert not list_rows(results) and [failure["id"] for failure in results.failures] == [each.id for each in sets]
    assert all(re.search(reason, failure["reason"]) for failure in results.failures)
    again = Script(questions=write_questions)
    make(tmp_path, config, again, [], sets)
    assert again.asked == ([] if fault == "length" else ["questions"] * 2), "as the reason says"


# -----------------------------------------------------------------------------
# Requests, difficulty


def test_the_first_request_of_everything_is_listed_for_reading(index: Index) -> None:
    config = configure_sets()
    planned, sets = plan(index, config), plan_documents(index, config)
    requests = list_requests(config, planned, sets)
    assert [request.row_ids[0] for request in requests] == [each.id for each in [*planned, *sets]]
    described = [describe_request(request) for request in requests]
    assert json.loads(json.dumps(described)) == described and described[0]["messages"] == planned[0].messages
    assert [each["purpose"] for each in described] == ["answer"] * 4 + ["questions"] * 2


@pytest.mark.parametrize(("answer", "answerable", "difficulty"), [
    ("Short. [Source 1]", True, 1),
    ("Short, from one source twice. [Source 1] [Source 1]", True, 1),
    ("No citation, and short.", None, 1),
    ("From two. [Source 1] [Source 2]", True, 2),
    ("word " * 61 + "[Source 1]", True, 2),
    ("From three. [Source 1] [Source 2] [Source 3]", True, 3),
    (REFUSAL, True, 3),
    ("[General Knowledge] Known.", False, 3),
])
def test_difficulty_follows_sources_and_length(answer: str, answerable: bool | None, difficulty: int) -> None:
    chunks = tuple(Chunk(str(number), "a.md", "text", 0.5) for number in range(4))
    row = PlannedRow(
        "1", Question("Why?", "Units", 1), "train", "question", chunks, (), answerable, RenderedPrompt("text", ()), []
    )
    assert rate_difficulty(make_config(), row, answer) == difficulty


@pytest.mark.parametrize(("steps", "check"), [("It says <|end|> there.", "markup"), ("It says so.", "")])
def test_markup_in_the_steps_is_a_fault_too(pump: PlannedRow, steps: str, check: str) -> None:
    draft = Draft(f"The pump limit is 20 degrees in every mode. [Source {number_of(pump)}]", "teacher-1", reasoning=steps)
    fault = check_draft(make_config(), WORDS, pump, draft)
    assert (fault.check if fault else "") == check
