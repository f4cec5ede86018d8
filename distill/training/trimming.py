"""Leaving whole chunks out of a row's prompt, so that the row fits finetune.max_length.

Labels stay as they are: after [Source 2] may come [Source 4]. So an answer that cites [Source 4] is right as it stands. A chunk
that the answer cites or mentions, or that is golden (it holds the answer), is never left out: the row would teach to invent.
Nor is the last chunk of a prompt: none without a source is served.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from distill.config import PromptSection
from distill.prompts import fill, find_citations, neutralise_markup, render_context
from distill.records import Chunk, ContextSpan, TrainingExample
from distill.rows.forms import HEADER, read_form
from distill.training.encode import text_to_learn

# "Source 3 says", "chunk_3": no citation tag of any prompt, but it would point at nothing all the same.
MENTION = re.compile(r"\b(?:source|chunk|document|passage)s?[\s_:#]*(\d+)", re.IGNORECASE)


class Unfit(Exception):
    """A row cannot be made to fit; the message says why, in a few words."""


@dataclass(frozen=True)
class Piece:
    """A chunk as it stands in an instruction, header included: instruction[start:end], offsets in characters."""

    start: int
    end: int


def list_droppable(prompt: PromptSection, example: TrainingExample, include_reasoning: bool) -> list[int]:
    """The places in example.context of the chunks that a row can do without, in the order in which to leave them out.

    Lowest score first; of equals the later, for HybridRAG3 writes the best first and its recorded prompts tell no score.
    """
    needed = list_needed(prompt, example, include_reasoning)
    free = [place for place in range(len(example.context)) if place not in needed]
    ordered = sorted(free, key=lambda place: (example.context[place].score, -place))
    return ordered if needed else ordered[:-1]


def list_needed(prompt: PromptSection, example: TrainingExample, include_reasoning: bool) -> set[int]:
    """The places of the chunks that what is learnt cites or mentions, and of the golden ones."""
    learnt = text_to_learn(example, include_reasoning)
    named = {*find_citations(prompt, learnt), *(int(number) for number in MENTION.findall(learnt))}
    golden = {place for place, span in enumerate(example.context) if span.chunk_id in example.golden}
    return {number - 1 for number in named if 1 <= number <= len(example.context)} | golden


def drop_chunks(prompt: PromptSection, example: TrainingExample, places: Collection[int]) -> TrainingExample:
    """The row without the chunks at these places of its context; the other spans still point at their texts.

    Raises Unfit when it is not known where in the prompt the chunks begin and end.
    """
    text, pieces = example.instruction, find_pieces(prompt, example)
    kept = [place for place in range(len(pieces)) if place not in places]
    parts = [refill(prompt, example, text[: pieces[0].start], 0, len(kept))]
    spans: list[ContextSpan] = []
    for place in kept:
        if spans:
            parts.append(text[pieces[place - 1].end : pieces[place].start])  # what parts it from the chunk before it
        moved = sum(map(len, parts)) - pieces[place].start
        span = example.context[place]
        spans.append(span.model_copy(update={"start": span.start + moved, "end": span.end + moved}))
        parts.append(text[pieces[place].start : pieces[place].end])
    parts.append(refill(prompt, example, text[pieces[-1].end :], 1, len(kept)))
    changes = {"instruction": "".join(parts), "context": tuple(spans), "num_chunks": len(spans)}
    return example.model_copy(update=changes)


def refill(prompt: PromptSection, example: TrainingExample, text: str, side: int, count: int) -> str:
    """What stands before (side 0) or after (1) the chunks, with their new number where the template tells it as {count}."""
    if "{count}" not in prompt.template:
        return text
    template = prompt.template.split("{context}")[side]
    values = {"question": neutralise_markup(example.question), "count": str(len(example.context))}
    if fill(template, values) != text:
        raise Unfit("its prompt is not that of prompt.template, which tells the number of chunks")
    return fill(template, {**values, "count": str(count)})


# -----------------------------------------------------------------------------
# Where the chunks stand


def find_pieces(prompt: PromptSection, example: TrainingExample) -> list[Piece]:
    """One for each of example.context. Raises Unfit for a prompt whose form is neither the template's nor HybridRAG3's own."""
    if not example.context:
        raise Unfit("it names no chunks")
    pieces = find_rendered(prompt, example) or find_numbered(example)
    if not pieces:
        raise Unfit("it is not known where in its prompt the chunks begin and end")
    return pieces


def find_rendered(prompt: PromptSection, example: TrainingExample) -> list[Piece]:
    """As prompts.py rendered them; none where it would render them otherwise."""
    text, spans = example.instruction, example.context
    chunks = [Chunk(span.chunk_id, span.source, text[span.start : span.end], span.score) for span in spans]
    context, again = render_context(prompt, chunks)
    first = spans[0].start - again[0].start
    moved = [(span.start + first, span.end + first) for span in again]
    if first < 0 or not text.startswith(context, first) or moved != [(span.start, span.end) for span in spans]:
        return []
    ends = [first + len(render_context(prompt, chunks[:count])[0]) for count in range(1, len(chunks) + 1)]
    starts = [first, *(end + len(prompt.source_separator) for end in ends)]
    return [Piece(start, end) for start, end in zip(starts, ends)]


def find_numbered(example: TrainingExample) -> list[Piece]:
    """In a recorded prompt of HybridRAG3's numbered form; its other form tells how many chunks it has, and cuts them anew."""
    form = read_form(example.instruction)
    places = [(span.start, span.end) for span in example.context]
    if form.kind != "numbered" or places != [(passage.start, passage.end) for passage in form.passages]:
        return []
    return find_headers(example.instruction, places)


def find_headers(text: str, places: Sequence[tuple[int, int]]) -> list[Piece]:
    """Pieces from each chunk's header line to its text's end; none where a header is missing."""
    pieces: list[Piece] = []
    for number, (start, end) in enumerate(places, start=1):
        before = pieces[-1].end if pieces else 0
        headers = [*re.finditer(HEADER.format(number=number), text[before:start])]
        if not headers or text[before + headers[-1].end() : start].strip():
            return []
        pieces.append(Piece(before + headers[-1].start(), end))
    return pieces
