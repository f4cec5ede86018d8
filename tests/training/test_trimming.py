"""Chunks that are left out of a prompt: whole ones, the right ones, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import PromptSection
from distill.prompts import find_citations, render_prompt
from distill.records import Chunk, TrainingExample
from distill.rows.forms import read_form
from distill.rows.recordings import make_spans
from distill.training.trimming import Unfit, drop_chunks, list_droppable
from tests.recorded import CHUNKS, write_guarded, write_numbered

PROMPT = PromptSection()
COUNTING = PromptSection(
    template="There are {count} sources.\n{context}\n\nQ ({count}): {question}",
    source_format="<{number}: {source}>\n{text}\n</>", source_separator="\n--\n",
)


def make_row(
    prompt: PromptSection = PROMPT, scores: Sequence[float] = (0.9, 0.5, 0.7), output: str = "It holds. [Source 1]",
    golden: tuple[str, ...] = (), texts: Sequence[str] = (), question: str = "What holds?",
) -> TrainingExample:
    """A row as stage 1 renders it; chunk c1 is the first."""
    texts = texts or [f"Text number {number}." for number in range(1, len(scores) + 1)]
    chunks = [Chunk(f"c{n}", f"D:\\docs\\d{n}.md", text, score) for n, (text, score) in enumerate(zip(texts, scores), start=1)]
    rendered = render_prompt(prompt, question, chunks)
    return TrainingExample(
        id="r1", instruction=rendered.instruction, context=rendered.context, output=output, golden=golden, question=question,
        num_chunks=len(chunks),
    )


# -----------------------------------------------------------------------------
# Which


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1, 2]),
        ({"scores": (0.5, 0.9, 0.1)}, [2, 1]),
        ({"output": "So. [Source 2]"}, [2, 0]),
        ({"output": "So. [Sources 1 and 3]"}, [1]),
        ({"output": "As source 2 says.", "golden": ("c3",)}, [0]),
        ({"output": "So.", "golden": ("c1",)}, [1, 2]),
        ({"output": "So.", "golden": ("c9",)}, [1, 2]),
        ({"output": "Nobody knows which."}, [1, 2]),
        ({"output": "Equal ones.", "scores": (0.0, 0.0, 0.0)}, [2, 1]),
        ({"output": "So. [Source 7]", "scores": (0.3,)}, []),
    ],
)
def test_chunks_go_lowest_score_first_but_never_one_that_the_answer_needs(fields: dict, expected: list[int]) -> None:
    assert list_droppable(PROMPT, make_row(**fields), include_reasoning=False) == expected


def test_steps_of_reasoning_need_their_sources_where_they_are_learnt() -> None:
    row = make_row().model_copy(update={"reasoning": "As [Source 2] says."})
    assert list_droppable(PROMPT, row, include_reasoning=False) == [1, 2]
    assert list_droppable(PROMPT, row, include_reasoning=True) == [2]


# -----------------------------------------------------------------------------
# How


def test_a_chunk_goes_with_its_header_and_one_separator_and_the_labels_stay() -> None:
    row = drop_chunks(PROMPT, make_row(output="Holds. [Source 3]"), {1})
    head, _, tail = PROMPT.template.partition("{context}")
    assert row.instruction == (
        f"{head}[Source 1] d1.md\nText number 1.\n\n[Source 3] d3.md\nText number 3.{tail.format(question='What holds?')}"
    )
    assert find_citations(PROMPT, row.output) == [3] and row.num_chunks == 2


def test_the_number_of_sources_in_the_prompt_is_the_new_one() -> None:
    row = drop_chunks(COUNTING, make_row(COUNTING), {0, 2})
    assert row.instruction == "There are 1 sources.\n<2: D:\\docs\\d2.md>\nText number 2.\n</>\n\nQ (1): What holds?"


@given(
    texts=st.lists(st.text(alphabet="ab{}\n-<>[]Source12 |", min_size=1, max_size=30), min_size=1, max_size=5),
    chosen=st.sets(st.integers(0, 4)), counting=st.booleans(),
    question=st.text(alphabet="ab{count}?\n", min_size=1, max_size=20),
)
def test_what_is_left_is_what_would_be_rendered_without_those_chunks(
    texts: list[str], chosen: set[int], counting: bool, question: str
) -> None:
    """But for the labels. Whatever the texts hold, each span points at its own."""
    base = COUNTING if counting else PROMPT
    prompt = base.model_copy(update={"source_format": base.source_format.replace("{number}", "N")})
    row = make_row(prompt, scores=[0.5] * len(texts), texts=texts, question=question)
    places = {place for place in chosen if place < len(texts)}
    if len(places) == len(texts):
        places.discard(0)
    trimmed = drop_chunks(prompt, row, places)
    kept = [
        Chunk(span.chunk_id, span.source, row.instruction[span.start : span.end], span.score)
        for place, span in enumerate(row.context) if place not in places
    ]
    again = render_prompt(prompt, question, kept)
    assert (trimmed.instruction, trimmed.context) == (again.instruction, again.context)


def test_chat_markup_that_was_broken_up_is_no_hindrance() -> None:
    row = make_row(texts=["Say <|end|>.", "Say [INST].", "Nothing."], question="What is <|end|>?")
    assert "Say [ INST]." in drop_chunks(PROMPT, row, {0}).instruction


@pytest.mark.parametrize("place", range(len(CHUNKS)))
def test_a_recorded_prompt_loses_the_chunk_and_its_header_alone(place: int) -> None:
    text = write_numbered("What is the limit?")
    shorter = drop_chunks(PROMPT, record_row(text), {place})
    kept = [chunk for number, chunk in enumerate(CHUNKS) if number != place]
    assert [shorter.instruction[span.start : span.end] for span in shorter.context] == [chunk[1] for chunk in kept]
    label = {number: f"[Source {number}]" for number in range(1, 4)}
    again = write_numbered("What is the limit?", kept)  # counts from 1, with scores by place
    for new, old in reversed([*enumerate((number + 1 for number in range(3) if number != place), start=1)]):
        header = f"{label[new]} {kept[new - 1][0]} (chunk {new + 3}, score=0.{900 - new})"
        again = again.replace(header, f"{label[old]} {kept[new - 1][0]} (chunk {old + 3}, score=0.{900 - old})")
    assert shorter.instruction == again


def record_row(text: str) -> TrainingExample:
    form = read_form(text)
    return TrainingExample(id="r1", instruction=text, output="30 days.", context=make_spans(text, form), question=form.question)


# -----------------------------------------------------------------------------
# What cannot be trimmed safely


def test_a_prompt_of_another_form_is_left_as_it_is() -> None:
    row = make_row()
    other = row.model_copy(update={"instruction": row.instruction.replace("[Source 2]", "(Source 2)")})
    with pytest.raises(Unfit, match="not known where in its prompt"):
        drop_chunks(PROMPT, other, {0})


def test_a_recorded_prompt_that_counts_its_chunks_is_left_as_it_is() -> None:
    row = record_row(write_guarded("What is the limit?"))
    assert row.context
    with pytest.raises(Unfit, match="not known where in its prompt"):
        drop_chunks(PROMPT, row, {0})


def test_a_row_that_names_no_chunks_is_left_as_it_is() -> None:
    with pytest.raises(Unfit, match="names no chunks"):
        drop_chunks(PROMPT, TrainingExample(instruction="Why?", output="So."), {0})


def test_a_number_of_sources_in_another_place_is_not_guessed() -> None:
    row = make_row(COUNTING).model_copy(update={"question": "Another?"})
    with pytest.raises(Unfit, match="tells the number of chunks"):
        drop_chunks(COUNTING, row, {0})
