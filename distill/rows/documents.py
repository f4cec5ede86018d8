"""Rows from documents alone: sets of neighbouring chunks, for each of which the teacher writes questions and answers.

All questions of a set share one context, chunk for chunk, so that training can share it. The sets are spread over the
documents, and hang on hashes of their paths: the same index gives the same sets.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np

from distill.config import Config
from distill.errors import PipelineError
from distill.files import sha256_text
from distill.index.hybridrag import Index
from distill.index.retrieval import Hit, rank_chunks
from distill.prompts import STAND_IN, find_citations, normalise, to_question_messages
from distill.records import SIDES, Chunk, Side
from distill.rows.contexts import ChunkReader, keep_others
from distill.rows.planner import (
    HITS_PER_PLACE,
    ID_DIGITS,
    PlannedRow,
    PlannedSet,
    make_row,
    may_lack_answer,
    order_chunks,
    render_masked,
)
from distill.rows.questions import Question
from distill.rows.replies import (
    ReasonedQuestion,
    ReasonedQuestions,
    WrittenQuestion,
    WrittenQuestions,
    find_problem,
    read_reply,
    to_schema,
)
from distill.rows.split import Split, make_masks
from distill.sentences import FEWEST_LETTERS, find_blocks
from distill.teacher.requests import Request

# A chunk can be asked about when paragraphs and list items are this share of its characters, and hold at least so many words,
# mostly of letters. Code, bare tables and tables of contents are none of these.
READABLE_SHARE, FEWEST_READABLE_WORDS = 0.3, 10
LEADERS = re.compile(r"(?:\.\s?){4,}\s*\d+$")  # Scope ........ 3
# So many sets are looked at for each one wanted: an index of code and tables alone must not be read to its end.
TRIES_PER_SET = 50
FEWEST_QUESTION_WORDS, MOST_QUESTION_WORDS = 4, 80
# A question that leans on sources which its reader has not seen. Documents on software and RAG are about texts, sources and
# context in earnest ("How is the text of a document cleaned?"), so that the nouns alone do not tell.
NOUN = r"(?:text|passage|excerpt|context|source|document|documentation|paragraph|snippet|section|material)s?"
LEANS = re.compile(
    rf"\baccording to (?:the|this|these|that|those) (?:\w+ )?{NOUN}\b"
    r"|\b(?:mentioned|described|given|stated|provided|listed|shown|discussed|specified|outlined|presented) (?:\w+ )?"
    rf"(?:in|by) (?:the|this|these) (?:\w+ )?{NOUN}\b"
    rf"|\b(?:this|these|(?:the )?(?:above|given|provided|following|numbered)) {NOUN}\b"
    rf"|\bthe {NOUN} (?:says?|states?|mentions?|describes?|gives?|lists?|explains?|recommends?|provides?)\b"
    r"|\b(?:in|from) the (?:text|passage|excerpt|snippet)\b|\b(?:according to|in|from|per) (?:source|chunk)s? \d",
    re.IGNORECASE,
)


def plan_sets(config: Config, reader: ChunkReader, split: Split) -> list[PlannedSet]:
    """As many sets as the index yields, at most generate.documents.sets. Raises PipelineError from index or split."""
    section = config.generate.documents
    if not section.sets:
        return []
    if section.chunks_per_set > config.generate.top_k:
        raise PipelineError(
            f"generate.documents.chunks_per_set {section.chunks_per_set} is more than generate.top_k {config.generate.top_k}: "
            "lower the one or raise the other"
        )
    windows = choose_windows(reader, section.chunks_per_set, section.sets)
    near = rank_near(config, reader.index, split, windows)
    return [plan_set(config, reader, split, window, hits) for window, hits in zip(windows, near)]


# -----------------------------------------------------------------------------
# Which chunks


def choose_windows(reader: ChunkReader, size: int, wanted: int) -> list[list[int]]:
    """The first `wanted` windows of readable chunks, each text once: the copies of a document would be asked about twice, on
    either side of the split. Prints how many were copies, and where there are too few.
    """
    chosen: list[list[int]] = []
    seen: set[tuple[str, ...]] = set()
    copies = 0
    for window in islice(list_windows(reader.index, size), wanted * TRIES_PER_SET):
        chunks = reader.load(to_hits(window))
        texts = tuple(normalise(chunk.text) for chunk in chunks)
        if texts in seen:
            copies += 1
        elif all(is_readable(chunk.text) for chunk in chunks):
            chosen.append(window)
            seen.add(texts)
        if len(chosen) == wanted:
            break
    if copies:
        print(f"[WARN] generate.documents.sets: {copies} sets of chunks repeat the text of another and were passed over")
    if len(chosen) < wanted:
        print(f"[WARN] generate.documents.sets: only {len(chosen)} of {wanted} sets of readable chunks were found")
    return chosen


def list_windows(index: Index, size: int) -> Iterator[list[int]]:
    """Positions of neighbouring chunks of one document: one set of each document in turn, then the next of each.

    Documents, and the sets of one, come in the order of hashes; sets do not overlap. A document with fewer chunks is one set.
    """
    order = np.argsort(index.source_numbers, kind="stable")
    numbers, starts = np.unique(index.source_numbers[order], return_index=True)
    parts = {index.sources[number]: part for number, part in zip(numbers, np.split(order, starts[1:]))}
    # Not the hash by which sources are held out: the first sets would all be held out.
    ordered = sorted(parts, key=lambda source: sha256_text(f"set\n{source}"))
    queues = deque(cut_windows(source, parts[source], size) for source in ordered)
    while queues:
        queue = queues.popleft()
        if window := next(queue, None):
            yield window
            queues.append(queue)


def cut_windows(source: str, positions: np.ndarray, size: int) -> Iterator[list[int]]:
    """Sets of `size` positions side by side, in the order of hashes; a rest is left out unless it is all there is."""
    starts = range(0, max(len(positions) - size, 0) + 1, size)
    for start in sorted(starts, key=lambda start: sha256_text(f"set\n{source}\n{start}")):
        yield positions[start : start + size].tolist()


def is_readable(text: str) -> bool:
    """Whether enough of a chunk is paragraphs and list items."""
    found = " ".join(block for block, _ in find_blocks(text) if not LEADERS.search(block))
    letters = sum(character.isalpha() or character == " " for character in found)
    enough = len(found.split()) >= FEWEST_READABLE_WORDS and len(found) >= READABLE_SHARE * len(" ".join(text.split()))
    return enough and letters >= FEWEST_LETTERS * len(found)


def to_hits(window: Sequence[int]) -> list[Hit]:
    """Chunks of a set as hits of themselves."""
    return [Hit(position, 1.0, 1.0) for position in window]


def rank_near(config: Config, index: Index, split: Split, windows: Sequence[Sequence[int]]) -> list[list[Hit]]:
    """For each set the chunks of its side that lie nearest to the mean of its vectors, best first."""
    if not windows:
        return []
    means = np.stack([index.vectors[index.rows[list(window)]].astype(np.float32).mean(axis=0) for window in windows])
    depth = config.generate.top_k * HITS_PER_PLACE
    ranked = rank_chunks(index, [""] * len(windows), means, make_masks(index, split, config.generate.top_k), depth, "vector")
    return [ranked[SIDES.index(side_of(index, split, window))][number] for number, window in enumerate(windows)]


def side_of(index: Index, split: Split, window: Sequence[int]) -> Side:
    """The side of a set's document."""
    return split.side_of_source(index.sources[index.source_numbers[window[0]]])


# -----------------------------------------------------------------------------
# What is asked


def plan_set(config: Config, reader: ChunkReader, split: Split, window: Sequence[int], near: Sequence[Hit]) -> PlannedSet:
    """A set with its context: its chunks, and near misses of other documents in the places that are left."""
    settings = config.generate
    golden = reader.load(to_hits(window))
    others = keep_others(golden, reader.stream(near), settings.top_k)
    seed = "\n".join(chunk.chunk_id for chunk in golden)
    chunks = order_chunks(config, seed, [*golden, *others[: settings.top_k - len(golden)]])
    ids = tuple(chunk.chunk_id for chunk in golden)
    set_id, request = make_set_request(config, chunks, ids, reader.names)
    return PlannedSet(
        set_id, side_of(reader.index, split, window), settings.documents.category, chunks, ids,
        order_chunks(config, seed, others), reader.names, request,
    )


def make_set_request(
    config: Config, chunks: Sequence[Chunk], golden: Sequence[str], names: Mapping[str, str]
) -> tuple[str, Request]:
    """A set's id, and the one request for all its questions."""
    settings, teacher = config.generate, config.generate.teacher
    instruction = render_masked(config.prompt, STAND_IN, chunks, names).instruction
    numbers = [number for number, chunk in enumerate(chunks, start=1) if chunk.chunk_id in golden]
    count = settings.documents.questions_per_set
    messages = to_question_messages(
        config.prompt.system, teacher.instructions, instruction, numbers, count, teacher.reasoning
    )
    shape = ReasonedQuestions if teacher.reasoning else WrittenQuestions
    set_id = sha256_text("\n".join([teacher.model, *(message["content"] for message in messages)]))[:ID_DIGITS]
    check = partial(find_problem, shape)
    return set_id, Request(messages, (set_id,), "questions", teacher.max_tokens * count, to_schema(shape), check)


# -----------------------------------------------------------------------------
# What comes back


def read_questions(config: Config, text: str) -> list[WrittenQuestion | ReasonedQuestion]:
    """The questions of a set's reply, as many as were asked for at most. Raises ValueError for another shape."""
    shape = ReasonedQuestions if config.generate.teacher.reasoning else WrittenQuestions
    return list(read_reply(shape, text).questions)[: config.generate.documents.questions_per_set]


def find_question_fault(config: Config, question: str) -> str:
    """Why a question cannot be used, or "": its reader has not seen the sources."""
    words = len(question.split())
    if not FEWEST_QUESTION_WORDS <= words <= MOST_QUESTION_WORDS:
        return f"{words} words"
    if (match := LEANS.search(question)) or find_citations(config.prompt, question):
        return f"speaks of its sources: {match[0] if match else question}"
    return ""


def plan_set_row(config: Config, planned: PlannedSet, text: str) -> PlannedRow:
    """The row of one of a set's questions, with the set's context."""
    question = Question(" ".join(text.split()), planned.category, 0)
    return make_row(
        config, question, planned.side, "document", planned.chunks, planned.golden, True, planned.names, planned.id
    )


def plan_set_golden_less(config: Config, planned: PlannedSet, row: PlannedRow) -> PlannedRow | None:
    """The same question without the set's document, for the configured share of questions; None for the others."""
    share = config.generate.context.golden_less_share
    chance = int(sha256_text(f"golden-less\n{normalise(row.question.text)}")[:ID_DIGITS], 16) / 16**ID_DIGITS
    if chance >= share / (1 - share) or not planned.others or not may_lack_answer(config):
        return None
    return make_row(config, row.question, planned.side, "document", planned.others, (), False, planned.names, planned.id)
