from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.config import Config, MaskingSection
from distill.curation.duplicates import make_shingles, measure_likeness
from distill.curation.rejections import Rejections
from distill.index.hybridrag import Index
from distill.masking import Masker
from distill.rows.contexts import CLEAR_GAP, ChunkReader
from distill.rows.planner import NOTHING_FOUND, PlannedRow, make_id, plan_questions, plan_recordings
from distill.rows.questions import Question
from distill.rows.recordings import load_recordings
from tests.rows.small_world import UNITS, WordEmbedder, make_config, make_index, make_split

QUESTIONS = [f"What is the {unit} {aspect}?" for aspect in ("limit", "colour") for unit in UNITS]
SILENT = {"template": "Answer: {question}\n\n{context}"}
OPEN = {
    "template": "Prefix what you add with [General Knowledge].\n\n{context}\n\nQuestion: {question}",
    "general_knowledge": "[General Knowledge]",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The small world's index; read it."""
    return make_index(tmp_path_factory.mktemp("index"))


def plan(index: Index, config: Config, texts: Sequence[str], *found: Rejections) -> list[PlannedRow]:
    """Rows for questions of these texts; rejections go to `found`."""
    rejections, = found or (Rejections(),)
    questions = [Question(text, "Units", line) for line, text in enumerate(texts, start=1)]
    reader = ChunkReader(index, Masker(config.generate.masking))
    return plan_questions(config, questions, reader, make_split(index), WordEmbedder(), rejections)


def list_sources(rows: Sequence[PlannedRow]) -> set[str]:
    """Every document in the prompts of these rows."""
    return {chunk.source for row in rows for chunk in row.chunks}


def list_shown(row: PlannedRow) -> list[str]:
    """What stands in the prompt where its spans say."""
    return [row.prompt.instruction[span.start : span.end] for span in row.prompt.context]


# -----------------------------------------------------------------------------
# From questions


def test_every_question_gets_a_row_with_its_best_chunk_as_the_golden_one(index: Index) -> None:
    rows = plan(index, make_config(context={"golden_less_share": 0}), QUESTIONS)
    assert [row.question.text for row in rows] == QUESTIONS
    for row in rows:
        unit, aspect = row.question.text.rstrip("?").split()[-2:]
        golden = [chunk for chunk in row.chunks if chunk.chunk_id in row.golden]
        assert len(golden) == 1 and golden[0].source == rf"D:\docs\{unit}.md" and f"{unit} {aspect} is" in golden[0].text
        assert (row.origin, row.answerable, len(row.chunks), row.category) == ("question", None, 4, "Units")
        assert row.wants_teacher and len(row.id) == 16


def test_no_document_is_on_both_sides(index: Index) -> None:
    rows = plan(index, make_config(context={"golden_less_share": 0.4}), QUESTIONS)
    train, heldout = ([row for row in rows if row.side == side] for side in ("train", "heldout"))
    assert train and heldout and not list_sources(train) & list_sources(heldout)


def test_a_question_stays_with_its_best_chunk_however_alike_another_one_is(index: Index) -> None:
    split = make_split(index)
    held, kept = (next(u for u in UNITS if split.side_of_source(rf"D:\docs\{u}.md") == side) for side in ("heldout", "train"))
    form = "What is the limit in degrees, above which nobody may run it for long, of the {}?"
    asked = [form.format(unit) for unit in (held, kept)]
    assert 0.7 < measure_likeness(*map(make_shingles, asked)) < make_config().generate.checks.near_duplicate
    rows = plan(index, make_config(context={"golden_less_share": 0}), asked)
    assert [row.side for row in rows] == ["heldout", "train"]
    assert [next(chunk.source for chunk in row.chunks if chunk.chunk_id in row.golden) for row in rows] == [
        rf"D:\docs\{unit}.md" for unit in (held, kept)
    ]


def test_the_teacher_reads_the_students_prompt_and_more_instructions(index: Index) -> None:
    row = plan(index, make_config(prompt={"system": "Be right."}, teacher={"instructions": "Be long."}), QUESTIONS[:1])[0]
    assert row.messages == [
        {"role": "system", "content": "Be right.\n\nBe long."}, {"role": "user", "content": row.prompt.instruction},
    ]
    assert list_shown(row) == [chunk.text for chunk in row.chunks]


def test_near_misses_are_of_other_documents_than_the_golden_chunk(index: Index) -> None:
    for near_misses in (1, 2):
        for row in plan(index, make_config(context={"near_misses": near_misses, "golden_less_share": 0}), QUESTIONS):
            golden = next(chunk.source for chunk in row.chunks if chunk.chunk_id in row.golden)
            assert sum(chunk.source != golden for chunk in row.chunks) >= near_misses


def test_the_golden_chunk_is_not_always_first_unless_shuffling_is_off(index: Index) -> None:
    def place(row: PlannedRow) -> int:
        return [chunk.chunk_id for chunk in row.chunks].index(row.golden[0])

    context = {"golden_less_share": 0}
    assert len({place(row) for row in plan(index, make_config(context=context), QUESTIONS)}) == 4
    assert {place(row) for row in plan(index, make_config(context={**context, "shuffle": False}), QUESTIONS)} == {0}


def test_the_same_inputs_give_the_same_rows(index: Index) -> None:
    config = make_config(context={"golden_less_share": 0.3})
    assert plan(index, config, QUESTIONS) == plan(index, config, QUESTIONS)


def test_golden_less_rows_are_extra_and_the_configured_share_of_all(index: Index) -> None:
    rows = plan(index, make_config(context={"golden_less_share": 0.25}), QUESTIONS)
    plain = {row.question.text: row for row in rows[: len(QUESTIONS)]}
    extra = rows[len(QUESTIONS) :]
    assert len(extra) == 8, "a quarter of 32 rows"
    for row in extra:
        golden = next(chunk for chunk in plain[row.question.text].chunks if chunk.chunk_id in plain[row.question.text].golden)
        assert row.answerable is False and row.golden == () and row.chunks and row.wants_teacher
        assert golden.source not in {chunk.source for chunk in row.chunks}
        assert row.side == plain[row.question.text].side and row.id != plain[row.question.text].id


def test_golden_less_rows_are_those_whose_other_sources_lie_furthest_behind(index: Index) -> None:
    def measure(row: PlannedRow, golden: dict[str, float]) -> float:
        return golden[row.question.text] - max(chunk.score for chunk in row.chunks)

    every = plan(index, make_config(context={"golden_less_share": 0.5}), QUESTIONS)
    golden = {row.question.text: max(chunk.score for chunk in row.chunks) for row in every if row.answerable is None}
    some = plan(index, make_config(context={"golden_less_share": 0.25}), QUESTIONS)
    assert all(measure(row, golden) >= CLEAR_GAP for row in every if row.answerable is False)
    for side in ("train", "heldout"):
        of_side = sorted((measure(row, golden) for row in every if row.answerable is False and row.side == side), reverse=True)
        chosen = sorted((measure(row, golden) for row in some if row.answerable is False and row.side == side), reverse=True)
        assert chosen == of_side[: len(chosen)] and 0 < len(chosen) < len(of_side)


def test_a_question_that_other_documents_answer_too_has_no_golden_less_row(tmp_path: Path) -> None:
    said = "The winch brake holds {} tons of load on its drum, as {} found."
    index = make_index(tmp_path, [(f"{unit}.md", said.format(row, unit)) for row, unit in enumerate(UNITS)])
    rows = plan(index, make_config(top_k=3, context={"golden_less_share": 0.5}), ["How much load does the winch brake hold?"])
    assert [row.answerable for row in rows] == [None]


@pytest.mark.parametrize(("prompt", "teacher", "extra"), [
    ({}, {}, True),                                     # the default template demands its refusal
    (SILENT, {}, False),
    (OPEN, {}, True),                                   # answers beyond the sources are marked
    (OPEN, {"provider": "extractive"}, False),          # it cannot know anything
    ({}, {"provider": "extractive"}, True),
])
def test_golden_less_rows_exist_only_where_the_template_says_how_to_answer_them(
    index: Index, prompt: dict[str, Any], teacher: dict[str, Any], extra: bool
) -> None:
    config = make_config(prompt=prompt, teacher=teacher, context={"golden_less_share": 0.25})
    assert any(row.answerable is False for row in plan(index, config, QUESTIONS)) is extra


def test_copies_of_a_golden_document_are_taken_away_with_it(tmp_path: Path) -> None:
    text = "The winch brake holds nine tons of load on its drum. It is tested by the deck crew at every fifth landing."
    others = [(f"{unit}.md", f"The {unit} is tested by its own crew. Nobody may touch the {unit} brake.") for unit in UNITS]
    index = make_index(tmp_path, [("winch.md", text), ("winch (copy).md", text), *others])
    rows = plan(index, make_config(top_k=3, context={"golden_less_share": 0.5}), ["How much load does the winch brake hold?"])
    assert [row.answerable for row in rows] == [None, False]
    assert not [chunk for chunk in rows[1].chunks if "nine tons" in chunk.text] and len(rows[1].chunks) == 3


def test_nothing_found_is_the_refusal_where_the_template_demands_one_and_else_a_failure(index: Index) -> None:
    demanding, = plan(index, make_config(min_score=0.99), QUESTIONS[:1])
    assert demanding.refusal == make_config().prompt.refusal and not demanding.failure and not demanding.wants_teacher
    assert demanding.answerable is False and demanding.golden == ()
    silent, = plan(index, make_config(min_score=0.99, prompt=SILENT), QUESTIONS[:1])
    assert silent.failure == NOTHING_FOUND and not silent.refusal and not silent.wants_teacher


def test_every_chunk_reaches_min_score(index: Index) -> None:
    rows = plan(index, make_config(min_score=0.5), QUESTIONS)
    assert all(chunk.score >= 0.5 for row in rows for chunk in row.chunks)
    assert any(0 < len(row.chunks) < 4 for row in rows)


def test_a_question_that_repeats_another_is_left_out_with_both_lines(index: Index) -> None:
    rejections = Rejections()
    texts = [*QUESTIONS[:2], "what IS the   pump limit"]
    rows = plan(index, make_config(context={"golden_less_share": 0}), texts, rejections)
    assert [row.question.line for row in rows] == [1, 2] and rejections.counts() == {"near-duplicate question": 1}


def test_no_questions_are_no_rows(index: Index) -> None:
    assert plan(index, make_config(), []) == []


def test_what_is_masked_never_reaches_the_teacher(tmp_path: Path) -> None:
    name = r"D:\docs\mail of ann@example.com (old).md"
    documents = [
        (name, "The pump is run by bob@example.com from host 192.168.1.10 alone."),
        *((f"{unit}.md", f"The {unit} is run by nobody on the list.") for unit in UNITS),
    ]
    index = make_index(tmp_path, documents)
    config = make_config(top_k=3, min_score=-1, context={"golden_less_share": 0})
    rows = plan(index, config, ["Who runs the pump, is it carl@example.com?"])
    assert len(rows) == 1
    sent = json.dumps(rows[0].messages)
    assert "example.com" not in sent and "192.168" not in sent and "mail of [EMAIL] (old).md" in sent
    assert rows[0].question.text == "Who runs the pump, is it [EMAIL]?" and "carl" not in rows[0].prompt.instruction
    assert name in {span.source for span in rows[0].prompt.context}, "the split needs the true name"
    assert list_shown(rows[0]) == [chunk.text for chunk in rows[0].chunks]


# -----------------------------------------------------------------------------
# Ids


@pytest.mark.parametrize("sections", [
    {"prompt": {"system": "another"}},
    {"generate": {"teacher": {"instructions": "another"}}},
    {"generate": {"teacher": {"model": "another"}}},
    {"generate": {"teacher": {"provider": "extractive"}}},
    {"generate": {"teacher": {"temperature": 0.31}}},
    {"generate": {"teacher": {"max_tokens": 1025}}},
    {"generate": {"teacher": {"two_pass": True}}},
    {"generate": {"teacher": {"reasoning": True}}},
])
def test_an_id_hangs_on_what_determines_the_row(sections: dict[str, Any]) -> None:
    assert make_id(Config(), "text", "question", True) != make_id(Config.model_validate(sections), "text", "question", True)


def test_an_id_hangs_on_the_row() -> None:
    ids = {
        make_id(Config(), "text", "question", True), make_id(Config(), "texts", "question", True),
        make_id(Config(), "text", "document", True), make_id(Config(), "text", "question", False),
        make_id(Config(), "text", "question", True, "made from another set"),
    }
    assert len(ids) == 5


@pytest.mark.parametrize("change", [{"sentences": 3}, {"min_sentence_score": 0.5}])
def test_an_extractive_id_hangs_on_its_own_settings_too(change: dict[str, Any]) -> None:
    def identify(generate: dict[str, Any]) -> str:
        return make_id(Config.model_validate({"generate": generate}), "text", "question", True)

    extractive = {"provider": "extractive"}
    assert identify({"teacher": extractive}) != identify({"teacher": {**extractive, **change}})
    assert identify({"teacher": extractive}) != identify({"teacher": extractive, "embedder": {"model": "another"}})
    assert identify({}) == identify({"teacher": change})


@pytest.mark.parametrize("change", [{"model": "another"}, {"temperature": 0.9}, {"instructions": "another"}])
def test_an_extractive_id_does_not_hang_on_a_model_that_is_not_asked(change: dict[str, Any]) -> None:
    ids = {
        make_id(Config.model_validate({"generate": {"teacher": {"provider": "extractive", **more}}}), "text", "question", None)
        for more in ({}, change)
    }
    assert len(ids) == 1


@pytest.mark.parametrize("change", [
    {"concurrency": 9}, {"base_url": "http://127.0.0.1:1"}, {"timeout_seconds": 1}, {"max_attempts": 1},
])
def test_an_id_does_not_hang_on_how_the_teacher_is_reached(change: dict[str, Any]) -> None:
    changed = Config.model_validate({"generate": {"teacher": change}})
    assert make_id(Config(), "text", "question", True) == make_id(changed, "text", "question", True)


# -----------------------------------------------------------------------------
# From recorded prompts


def write_prompt(unit: str, question: str, text: str = "") -> str:
    """A prompt in the numbered form, in words of our own that ask for the default shape."""
    text = text or f"The {unit} limit is 20 degrees.\nNobody may run the {unit} above it."
    return (
        'Use the sources. Cite each as [Source N]. Where they hold no answer, respond: '
        '"The provided documents do not answer this question."\n\nContext:\n'
        f"[Source 1] D:\\docs\\{unit}.md (chunk 0, score=0.864)\n{text}\n\n---\n\n"
        f"[Source 2] D:\\docs\\{unit} log.md (chunk 3, score=0.677)\nThe {unit} log lists each check.\n\n"
        f"Question: {question}\n\nAnswer:"
    )


def record(folder: Path, prompts: Sequence[str]) -> Path:
    """A file of recordings."""
    path = folder / "recordings.jsonl"
    lines = [json.dumps({"path": "/api/generate", "model": "phi4-mini", "prompt": prompt}) for prompt in prompts]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def plan_recorded(folder: Path, prompts: Sequence[str], *found: Rejections) -> list[PlannedRow]:
    """Rows for these recorded prompts; rejections go to `found`."""
    rejections, = found or (Rejections(),)
    config = make_config()
    recordings = load_recordings(record(folder, prompts), config.prompt)
    return plan_recordings(config, recordings, Masker(MaskingSection()), rejections)


def test_a_recorded_prompt_is_the_instruction_byte_for_byte(tmp_path: Path) -> None:
    prompts = [write_prompt(unit, f"What is the {unit} limit?") for unit in UNITS]
    rows = plan_recorded(tmp_path, prompts)
    assert [row.prompt.instruction for row in rows] == prompts
    assert [row.question.text for row in rows] == [f"What is the {unit} limit?" for unit in UNITS]
    assert {(row.origin, row.answerable, row.golden) for row in rows} == {("recording", None, ())}
    assert {row.side for row in rows} == {"train", "heldout"}
    for row in rows:
        assert row.messages[-1]["content"] == row.prompt.instruction and row.messages[0]["role"] == "system"
        assert list_shown(row) == [chunk.text for chunk in row.chunks]


def test_masked_spans_of_a_recorded_prompt_move_what_follows(tmp_path: Path) -> None:
    prompts = [write_prompt(unit, f"Who runs the {unit} for ann@example.com?", "Ask bob@example.com.") for unit in UNITS]
    prompts = [prompt.replace("pump log.md", "pump of eve@example.com (old).md") for prompt in prompts]
    rows = plan_recorded(tmp_path, prompts)
    assert not [row for row in rows if "example.com" in json.dumps(row.messages)]
    assert rows[0].question.text == "Who runs the pump for [EMAIL]?" and rows[0].chunks[0].text == "Ask [EMAIL]."
    assert rows[0].prompt.context[1].source == r"D:\docs\pump of eve@example.com (old).md"
    for row, prompt in zip(rows, prompts):
        expected = prompt
        for name in ("ann", "bob", "eve"):
            expected = expected.replace(f"{name}@example.com", "[EMAIL]")
        assert row.prompt.instruction == expected, "nothing else changes"


def test_recorded_prompts_that_share_a_document_are_on_one_side(tmp_path: Path) -> None:
    asked = [f"What is the {{}} {aspect}?" for aspect in ("limit", "crew")]
    rows = plan_recorded(tmp_path, [write_prompt(unit, text.format(unit)) for unit in UNITS for text in asked])
    sides = {unit: {row.side for row in rows if f"the {unit} " in row.question.text} for unit in UNITS}
    assert all(len(found) == 1 for found in sides.values()) and len(rows) == 24


def test_a_recorded_question_that_was_asked_again_is_left_out(tmp_path: Path) -> None:
    rejections = Rejections()
    prompts = [write_prompt(unit, f"What is the {unit} limit?") for unit in UNITS]
    rows = plan_recorded(tmp_path, [*prompts, write_prompt("pump", "what is the pump limit?")], rejections)
    assert len(rows) == len(UNITS) and rejections.counts() == {"near-duplicate question": 1}


def test_two_documents_with_one_text_keep_their_names(tmp_path: Path) -> None:
    prompts = [write_prompt(unit, f"What is the {unit} limit?", f"The {unit} log lists each check.") for unit in UNITS]
    row = plan_recorded(tmp_path, prompts)[0]
    assert [chunk.text for chunk in row.chunks] == ["The pump log lists each check."] * 2
    names = [r"D:\docs\pump.md", r"D:\docs\pump log.md"]
    assert [span.source for span in row.prompt.context] == [chunk.source for chunk in row.chunks] == names


def test_no_recordings_are_no_rows() -> None:
    assert plan_recordings(make_config(), [], Masker(MaskingSection()), Rejections()) == []
