"""Prompts that HybridRAG3 really sent, as distill/recorder/ wrote them down. They replace questions and retrieval.

A prompt is kept to the byte. Its chunks are found by distill/rows/forms.py, what it asks for by distill/rows/shapes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distill.config import PromptSection
from distill.curation.lengths import CHARACTERS_PER_TOKEN
from distill.errors import PipelineError
from distill.files import read_jsonl, sha256_text
from distill.prompts import find_markup, normalise, wants_citations
from distill.recorder.record import hash_prompt
from distill.records import Chunk, ContextSpan
from distill.rows.forms import Form, read_form
from distill.rows.shapes import find_shape, require_one_shape

HASH_DIGITS = 16
OLLAMA_NUM_CTX = 4096
UNKNOWN_SCORE = 0.0  # HybridRAG3 writes its fused figure into the prompt, which is no cosine


@dataclass(frozen=True)
class Recording:
    """One recorded prompt. `spans` are the places of `chunks` in it; none where its form is not known (`known_form`).

    `line` is its line in the file, `system` the request's own system prompt, `turns` how many messages stood before it.
    """

    prompt: str
    question: str
    chunks: tuple[Chunk, ...]
    spans: tuple[ContextSpan, ...]
    line: int
    model: str
    known_form: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""
    turns: int = 0


def relocate(recording: Recording, masked: str) -> Recording:
    """The recording with its prompt masked: question and places are those of the masked text, chunks keep their ids.

    Where masking hit a marker line, the form is no longer known.
    """
    form = read_form(masked)
    known = len(form.passages) == len(recording.spans) and bool(form.kind)
    spans = tuple(
        span.model_copy(update={"source": passage.source or span.source, "start": passage.start, "end": passage.end})
        for span, passage in zip(recording.spans, form.passages)
    )
    spans = spans if known else ()
    return replace(
        recording, prompt=masked, question=form.question, spans=spans, chunks=make_chunks(masked, spans), known_form=known
    )


def make_spans(text: str, form: Form) -> tuple[ContextSpan, ...]:
    """One span per chunk, in the order of their numbers.

    A chunk's id is the hash of its text, and stands for its document too where the prompt names none.
    """
    spans = []
    for passage in form.passages:
        name = name_text(text[passage.start : passage.end])
        spans.append(
            ContextSpan(
                chunk_id=name, source=passage.source or name, score=UNKNOWN_SCORE, start=passage.start, end=passage.end
            )
        )
    return tuple(spans)


def name_text(text: str) -> str:
    """A chunk's name by its words: spacing and case do not matter."""
    return f"sha256:{sha256_text(normalise(text))[:HASH_DIGITS]}"


# -----------------------------------------------------------------------------
# Reading


def load_recordings(
    path: Path, prompt: PromptSection, find_source: Callable[[str], str] | None = None
) -> list[Recording]:
    """The recorded prompts in the file's order, exact repeats once; prints what a user should know of them.

    `find_source` gives the document of a chunk's text, or "", for chunks that the prompt leaves without one. Raises
    PipelineError for a line that is no recording, and for prompts that ask for other answers than config.yaml.
    """
    if not path.is_file():
        raise PipelineError(f"{path} is missing: record it with --record-prompts, or mend generate.recordings_file")
    every = [read_recording(path, line, row) for line, row in read_jsonl(path)]
    different = drop_repeats(every)
    kept = drop_unchecked(prompt, different)
    if not kept:
        raise PipelineError(f"{path} holds no prompt that can be used: record some with --record-prompts")
    shapes = {each.line: find_shape(prompt, read_form(each.prompt).instructions) for each in kept if each.known_form}
    require_one_shape(path, prompt, shapes)
    named = name_sources(kept, find_source)
    print(f"[OK] {len(named)} recorded prompts in {path.name}; {len(every) - len(different)} exact repeats left out")
    print_warnings(named)
    return named


def drop_repeats(recordings: Sequence[Recording]) -> list[Recording]:
    """The first of each prompt, in order."""
    first: dict[str, Recording] = {}
    for recording in recordings:
        first.setdefault(recording.prompt, recording)
    return list(first.values())


def drop_unchecked(prompt: PromptSection, recordings: Sequence[Recording]) -> list[Recording]:
    """Without those whose answers must cite chunks that are not found: no such answer could be told from an invented one."""
    if not wants_citations(prompt):
        return list(recordings)
    kept = [recording for recording in recordings if recording.known_form]
    if len(kept) < len(recordings):
        print(
            f"[WARN] {len(recordings) - len(kept)} recorded prompts are of a form that is not known and are left out: with "
            f"prompt.citation {prompt.citation} their answers cannot be checked"
        )
    return kept


def read_recording(path: Path, line: int, row: Mapping[str, Any]) -> Recording:
    """Raises PipelineError, naming file and line, for a row that holds no prompt, or no longer the recorded one."""
    text, system, turns = read_prompt(path, line, row)
    if row.get("sha256") not in (None, hash_prompt(row)):
        raise PipelineError(f"{path}:{line} was changed since it was recorded: delete the line, or its sha256 to keep it")
    form = read_form(text)
    spans = make_spans(text, form)
    options = row.get("options")
    return Recording(
        prompt=text, question=form.question, chunks=make_chunks(text, spans), spans=spans, line=line,
        model=str(row.get("model") or ""), known_form=bool(form.kind), options=options if isinstance(options, dict) else {},
        system=system, turns=turns,
    )


def read_prompt(path: Path, line: int, row: Mapping[str, Any]) -> tuple[str, str, int]:
    """The prompt, the request's system prompt, and how many messages of user and assistant stand before the prompt."""
    system, turns, text = row.get("system"), 0, row.get("prompt")
    messages = row.get("messages")
    if text is None and isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        said = [message for message in messages if message.get("role") != "system"]
        system = next((message.get("content") for message in messages if message.get("role") == "system"), system)
        text, turns = (said[-1].get("content"), len(said) - 1) if said and said[-1].get("role") == "user" else (None, 0)
    if not isinstance(text, str) or not text.strip():
        raise PipelineError(f'{path}:{line} holds no "prompt" and no "messages" that end with one: delete the line')
    return text, system if isinstance(system, str) else "", turns


def make_chunks(text: str, spans: Sequence[ContextSpan]) -> tuple[Chunk, ...]:
    """The chunks at these places."""
    return tuple(Chunk(span.chunk_id, span.source, text[span.start : span.end], span.score) for span in spans)


# -----------------------------------------------------------------------------
# Documents


def name_sources(recordings: Sequence[Recording], find_source: Callable[[str], str] | None) -> list[Recording]:
    """Chunks without a document get the one that another prompt, or else `find_source`, names for the same text."""
    known = {chunk.chunk_id: chunk.source for each in recordings for chunk in each.chunks if chunk.source != chunk.chunk_id}
    texts = {chunk.chunk_id: chunk.text for each in recordings for chunk in each.chunks}
    for name, text in texts.items():
        if find_source and name not in known and (source := find_source(text)):
            known[name] = source
    return [rename_sources(each, known) for each in recordings]


def rename_sources(recording: Recording, known: Mapping[str, str]) -> Recording:
    """The recording with the documents that are known by the ids of their chunks."""
    spans = tuple(
        span.model_copy(update={"source": known.get(span.chunk_id, span.source)}) if span.source == span.chunk_id else span
        for span in recording.spans
    )
    return replace(recording, spans=spans, chunks=make_chunks(recording.prompt, spans))


# -----------------------------------------------------------------------------
# What a user should know


def print_warnings(recordings: Sequence[Recording]) -> None:
    """Print a line for each thing that makes rows worth less, with how many it concerns."""
    unnamed = {chunk.chunk_id for each in recordings for chunk in each.chunks if chunk.source == chunk.chunk_id}
    counts = {
        "are of a form that is not known: their chunks are not found, so their answers are not compared with them": [
            each for each in recordings if not each.known_form
        ],
        "are longer than num_ctx by estimate: Ollama cut them, so the model never saw all of them": [
            each for each in recordings if len(each.prompt) / CHARACTERS_PER_TOKEN > read_num_ctx(each)
        ],
        "hold chat markers such as <|end|>, which a tokenizer reads as markup; they are kept as recorded": [
            each for each in recordings if find_markup(each.prompt)
        ],
        "came with a system prompt of their own, which replaced the Modelfile's: rows are made with prompt.system": [
            each for each in recordings if each.system
        ],
        "had messages before them, which are left out": [each for each in recordings if each.turns],
    }
    for text, found in counts.items():
        if found:
            print(f"[WARN] {len(found)} recorded prompts {text} (line {', '.join(str(each.line) for each in found[:5])})")
    if unnamed:
        print(
            f"[WARN] {len(unnamed)} recorded chunks name no document: the split groups them by their text alone, so two parts "
            "of one document may be on both sides; with generate.index_folder their documents are looked up"
        )


def read_num_ctx(recording: Recording) -> int:
    """The context size that the request asked for, or else Ollama's default."""
    value = recording.options.get("num_ctx")
    return value if isinstance(value, int) and value > 0 else OLLAMA_NUM_CTX
