"""Which rows there will be: what is asked for each, under which id, and on which side it belongs.

A row is planned from a question and an index (here), from a recorded prompt (here too) or from documents (documents.py). It is
finished in making.py. A row's id is made of everything that determines it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.config import ChecksSection, Config, GenerateSection, PromptSection
from distill.curation.duplicates import find_near_duplicates, group_similar
from distill.curation.rejections import Rejections
from distill.files import sha256_text
from distill.index.embedders import Embedder, embed_questions
from distill.index.hybridrag import Index
from distill.index.retrieval import Hit, rank_chunks
from distill.masking import Masker
from distill.prompts import Message, RenderedPrompt, demands_refusal, invites_knowledge, render_prompt, to_answer_messages
from distill.records import SIDES, Chunk, Origin, Side
from distill.rows.contexts import ChunkReader, choose_hits, count_extra, keep_others, measure_gap, order_by_gap, shuffle
from distill.rows.questions import Question
from distill.rows.recordings import Recording, relocate
from distill.rows.split import Split, choose_sides, make_masks, split_groups
from distill.teacher.requests import Request

NOTHING_FOUND = "no chunk above min_score"
ID_DIGITS = 16
REPEATED_QUESTION = "near-duplicate question"
# Hits per place in the prompt: enough to find near misses, and other documents, behind a document with many good chunks.
HITS_PER_PLACE = 8
RECORDED_CATEGORY = "Recorded prompts"


@dataclass(frozen=True)
class PlannedRow:
    """A row without its answer.

    `golden` are the ids of the chunks taken to hold the answer, `answerable` whether the sources hold it, None where nobody
    knows before the teacher answers. `refusal` is the answer of a row that needs no teacher, `failure` why it can have none.
    """

    id: str
    question: Question
    side: Side
    origin: Origin
    chunks: tuple[Chunk, ...]
    golden: tuple[str, ...]
    answerable: bool | None
    prompt: RenderedPrompt
    messages: list[Message]
    refusal: str = ""
    failure: str = ""

    @property
    def category(self) -> str:
        """The question's category."""
        return self.question.category

    @property
    def wants_teacher(self) -> bool:
        """Whether there is something to ask."""
        return not self.refusal and not self.failure


@dataclass(frozen=True)
class PlannedSet:
    """Chunks for which the teacher writes questions: all of them share `chunks`, in the order in which the student sees them.

    `golden` are the ids of the neighbouring chunks that the questions must be about, `others` the chunks of other documents
    that stand there when those are taken away, `names` what sources are called where that is masked, `request` the one request.
    """

    id: str
    side: Side
    category: str
    chunks: tuple[Chunk, ...]
    golden: tuple[str, ...]
    others: tuple[Chunk, ...]
    names: Mapping[str, str]
    request: Request


# -----------------------------------------------------------------------------
# From questions and an index


@dataclass(frozen=True)
class Found:
    """What was found for one question among the documents of its side, best first, from min_score up."""

    side: Side
    hits: list[Hit]


def plan_questions(
    config: Config, questions: Sequence[Question], reader: ChunkReader, split: Split, embedder: Embedder, rejections: Rejections
) -> list[PlannedRow]:
    """One row per question, in their order, then the rows whose golden chunk was taken away.

    Questions that repeat an earlier one go to `rejections`. Raises PipelineError from index, embedder or split.
    """
    masked = [replace(question, text=reader.masker.mask(question.text)) for question in questions]
    fresh = find_fresh(config.generate.checks, masked, [question.text for question in masked], rejections)
    kept = [masked[place] for place in fresh]
    found = find_hits(config, kept, reader.index, split, embedder) if kept else []
    chosen = [choose_places(config.generate, reader, each.hits) for each in found]
    reader.load([hit for hits in chosen for hit in hits])  # all at once, with one connection
    rows = [plan_found(config, reader, *each) for each in zip(kept, found, chosen)]
    return [*rows, *plan_golden_less(config, reader, kept, found)]


def find_hits(config: Config, questions: Sequence[Question], index: Index, split: Split, embedder: Embedder) -> list[Found]:
    """For each question its side, which is that of the nearest chunk, and the hits there.

    Only questions that are the same go together: a question on the other side than its best chunk would have no answer there.
    """
    settings = config.generate
    texts = [question.text for question in questions]
    vectors = embed_questions(embedder, settings.embedder, texts)
    masks = make_masks(index, split, settings.top_k)
    ranked = rank_chunks(index, texts, vectors, masks, settings.top_k * HITS_PER_PLACE, settings.retrieval)
    best = [[max((hit.cosine for hit in hits), default=-1.0) for hits in ranking] for ranking in ranked]
    sides = choose_sides(np.array(best, np.float32).T, group_similar(texts, settings.checks.near_duplicate))
    return [
        Found(side, [hit for hit in ranked[SIDES.index(side)][number] if hit.cosine >= settings.min_score])
        for number, side in enumerate(sides)
    ]


def choose_places(settings: GenerateSection, reader: ChunkReader, hits: Sequence[Hit]) -> list[Hit]:
    """The hits that stand in the prompt, in order of rank."""
    return choose_hits(hits, [reader.source_of(hit) for hit in hits], settings.top_k, settings.context.near_misses)


def plan_found(config: Config, reader: ChunkReader, question: Question, found: Found, chosen: Sequence[Hit]) -> PlannedRow:
    """The row of a question; without a chunk the answer is the refusal, where the template demands one, or a failure.

    Whether the best chunk that was found holds the answer shows when the teacher reads it.
    """
    chunks = reader.load(chosen)
    shown = order_chunks(config, question.text, chunks)
    golden = tuple(chunk.chunk_id for chunk in chunks[:1])
    row = make_row(config, question, found.side, "question", shown, golden, None if chunks else False, reader.names)
    if chunks:
        return row
    refused = demands_refusal(config.prompt, config.prompt.template)
    return replace(row, refusal=config.prompt.refusal if refused else "", failure="" if refused else NOTHING_FOUND)


def plan_golden_less(
    config: Config, reader: ChunkReader, questions: Sequence[Question], found: Sequence[Found]
) -> list[PlannedRow]:
    """A second row for a share of the questions of each side, without the golden chunk's document and copies of its text.

    Fewer where too few questions are left with sources that lie clearly further away; none where the template says nothing
    about answers that the sources do not hold.
    """
    share = config.generate.context.golden_less_share
    if not share or not may_lack_answer(config):
        return []
    numbers = [number for number, each in enumerate(found) if each.hits]
    left = {number: find_others(config, reader, found[number]) for number in numbers}
    chosen: list[int] = []
    for side in SIDES:
        of_side = [number for number in numbers if found[number].side == side]
        places = [number for number in of_side if left[number]]
        gaps = [measure_gap(found[number].hits[0], left[number]) for number in places]
        ordered = order_by_gap(gaps, [questions[number].text for number in places])
        chosen += [places[place] for place in ordered[: count_extra(share, len(of_side))]]
    return [plan_without_golden(config, reader, questions[place], found[place].side, left[place]) for place in sorted(chosen)]


def find_others(config: Config, reader: ChunkReader, found: Found) -> tuple[Chunk, ...]:
    """What stands in the prompt when the golden chunk's document is taken away."""
    return keep_others(reader.load(found.hits[:1]), reader.stream(found.hits[1:]), config.generate.top_k)


def plan_without_golden(
    config: Config, reader: ChunkReader, question: Question, side: Side, others: Sequence[Chunk]
) -> PlannedRow:
    """The row of a question whose answer was taken away."""
    shown = order_chunks(config, question.text, others)
    return make_row(config, question, side, "question", shown, (), False, reader.names)


def may_lack_answer(config: Config) -> bool:
    """Whether the template says what to answer when the sources do not hold it; the extractive teacher can only refuse."""
    prompt = config.prompt
    invited = invites_knowledge(prompt, prompt.template) and config.generate.teacher.provider != "extractive"
    return demands_refusal(prompt, prompt.template) or invited


# -----------------------------------------------------------------------------
# From recorded prompts


def plan_recordings(
    config: Config, recordings: Sequence[Recording], masker: Masker, rejections: Rejections
) -> list[PlannedRow]:
    """One row per recorded prompt, byte for byte but for what was masked. Raises PipelineError from the split."""
    masked = [relocate(recording, masker.mask(recording.prompt)) for recording in recordings]
    questions = [Question(each.question, RECORDED_CATEGORY, each.line) for each in masked]
    # What stands for the question of an unknown form may be the same in all prompts.
    texts = [each.question if each.known_form else each.prompt for each in masked]
    fresh = find_fresh(config.generate.checks, questions, texts, rejections)
    sides = split_groups(
        [{chunk.source for chunk in recordings[place].chunks} for place in fresh],
        group_similar([texts[place] for place in fresh], config.generate.checks.near_duplicate),
        config.generate.heldout_share, [texts[place] for place in fresh],
    ) if fresh else []
    return [
        plan_recording(config, recordings[place], masked[place], questions[place], side) for place, side in zip(fresh, sides)
    ]


def plan_recording(config: Config, recording: Recording, masked: Recording, question: Question, side: Side) -> PlannedRow:
    """The row of a recorded prompt: nobody knows whether its sources answer it. Spans keep the true names of the sources."""
    # By place: two documents may hold one text, and so one chunk id. Where masking hid the form, none is left.
    spans = tuple(span.model_copy(update={"source": true.source}) for span, true in zip(masked.spans, recording.spans))
    chunks = [replace(chunk, source=true.source) for chunk, true in zip(masked.chunks, recording.spans)]
    return assemble_row(config, question, side, "recording", chunks, (), None, RenderedPrompt(masked.prompt, spans))


# -----------------------------------------------------------------------------
# Any row


def find_fresh(
    section: ChecksSection, questions: Sequence[Question], texts: Sequence[str], rejections: Rejections
) -> list[int]:
    """The places of the questions that repeat no earlier one, told by `texts`; the others go to `rejections`."""
    earlier = find_near_duplicates(texts, section.near_duplicate)
    for question, number in zip(questions, earlier):
        if number >= 0:
            first = questions[number]
            rejections.add(
                REPEATED_QUESTION, f"line {question.line} repeats line {first.line}: {first.text}",
                question=question.text, category=question.category,
            )
    return [place for place, number in enumerate(earlier) if number < 0]


def make_row(
    config: Config, question: Question, side: Side, origin: Origin, chunks: Sequence[Chunk], golden: tuple[str, ...],
    answerable: bool | None, names: Mapping[str, str], made_from: str = "",
) -> PlannedRow:
    """A row whose prompt is rendered here; see render_masked for `names`. `made_from` is what else determines its answer."""
    prompt = render_masked(config.prompt, question.text, chunks, names)
    return assemble_row(config, question, side, origin, chunks, golden, answerable, prompt, made_from)


def assemble_row(
    config: Config, question: Question, side: Side, origin: Origin, chunks: Sequence[Chunk], golden: tuple[str, ...],
    answerable: bool | None, prompt: RenderedPrompt, made_from: str = "",
) -> PlannedRow:
    """A row with its prompt."""
    teacher = config.generate.teacher
    messages = to_answer_messages(config.prompt.system, teacher.instructions, prompt.instruction, teacher.reasoning)
    row_id = make_id(config, prompt.instruction, origin, answerable, made_from)
    return PlannedRow(row_id, question, side, origin, tuple(chunks), golden, answerable, prompt, messages)


def render_masked(prompt: PromptSection, question: str, chunks: Sequence[Chunk], names: Mapping[str, str]) -> RenderedPrompt:
    """The prompt with its sources under the names in `names`; the spans keep the true ones, which the split needs."""
    shown = [replace(chunk, source=names.get(chunk.source, chunk.source)) for chunk in chunks]
    rendered = render_prompt(prompt, question, shown)
    spans = (span.model_copy(update={"source": chunk.source}) for span, chunk in zip(rendered.context, chunks))
    return RenderedPrompt(rendered.instruction, tuple(spans))


def order_chunks(config: Config, seed: str, chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
    """The chunks as the student sees them: in an order that hangs on `seed`, or best first."""
    return shuffle(seed, chunks) if config.generate.context.shuffle else tuple(chunks)


def make_id(config: Config, instruction: str, origin: Origin, answerable: bool | None, made_from: str = "") -> str:
    """16 hex digits over the prompt, what is known of the row, and what answers it; the checks afterwards do not count."""
    prompt, teacher = config.prompt, config.generate.teacher
    parts: list[Any] = [prompt.system, instruction, origin, answerable, made_from, teacher.provider]
    if teacher.provider == "extractive":
        embedder = Path(config.generate.embedder.model).name
        parts += [embedder, teacher.sentences, teacher.min_sentence_score, prompt.citation, prompt.refusal]
    else:
        parts += [teacher.instructions, teacher.model, teacher.temperature, teacher.max_tokens]
        parts += [teacher.two_pass, teacher.reasoning]
    return sha256_text(json.dumps(parts))[:ID_DIGITS]


def describe_request(request: Request) -> dict[str, Any]:
    """What would be sent, for reading."""
    described = {"row_ids": list(request.row_ids), "purpose": request.purpose, "max_tokens": request.max_tokens}
    return {**described, "messages": request.messages, **({"schema": request.schema} if request.schema else {})}
