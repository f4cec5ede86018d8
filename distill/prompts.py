"""The only place where wording is assembled.

Training rows, teacher requests, the Modelfile and both sides of the evaluation all come through here, so that they cannot
drift apart. Knows no tokenizer and no HTTP.
"""

from __future__ import annotations

import ntpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from distill.config import PromptSection
from distill.records import Chunk, ContextSpan

Message = dict[str, str]
PLACEHOLDER = re.compile(r"\{(\w+)\}")
LIST_SEPARATOR = r"(?:\s*[,;&]|\s+and\b)+\s*"


@dataclass(frozen=True)
class RenderedPrompt:
    """A user message, and where each chunk's text stands in it."""

    instruction: str
    context: tuple[ContextSpan, ...]


def render_prompt(prompt: PromptSection, question: str, chunks: Sequence[Chunk]) -> RenderedPrompt:
    """The whole RAG prompt as one user message, the shape in which HybridRAG3 asks.

    Placeholders are filled in one pass, so braces in a document or a question stay as they are.
    """
    context, spans = render_context(prompt, chunks)
    head, tail = prompt.template.split("{context}")
    head, tail = (fill(part, {"question": question}) for part in (head, tail))
    moved = tuple(span.model_copy(update={"start": span.start + len(head), "end": span.end + len(head)}) for span in spans)
    return RenderedPrompt(head + context + tail, moved)


def render_context(prompt: PromptSection, chunks: Sequence[Chunk]) -> tuple[str, list[ContextSpan]]:
    """The numbered sources as one text, and the offsets of each chunk's text in it."""
    text, spans = "", []
    for number, chunk in enumerate(chunks, start=1):
        before, after = prompt.source_format.split("{text}")
        values = {"number": str(number), "source": chunk.source, "source_name": ntpath.basename(chunk.source)}
        text += (prompt.source_separator if spans else "") + fill(before, values)
        span = ContextSpan(
            chunk_id=chunk.chunk_id, source=chunk.source, score=round(chunk.score, 6), start=len(text),
            end=len(text) + len(chunk.text),
        )
        text += chunk.text + fill(after, values)
        spans.append(span)
    return text, spans


def fill(template: str, values: dict[str, str]) -> str:
    """Replace each {name} that `values` knows; every other brace is left alone."""
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def to_messages(system: str, instruction: str) -> list[Message]:
    """The messages that student, base and tuned model all get: the system prompt, if there is one, and one user message."""
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": instruction}]


def to_teacher_messages(system: str, instructions: str, instruction: str) -> list[Message]:
    """The student's messages with the teacher's extra instructions after the system prompt: the chunks are the same."""
    return to_messages("\n\n".join(part for part in (system, instructions) if part), instruction)


def render_citation(prompt: PromptSection, number: int) -> str:
    """The tag that cites source `number`, counted from 1."""
    return fill(prompt.citation, {"number": str(number)})


def find_citations(prompt: PromptSection, answer: str) -> list[int]:
    """The source numbers that an answer cites, in order, repeats included; [Source 1, 9] cites two."""
    return [int(number) for listed in citation_pattern(prompt).findall(answer) for number in re.findall(r"\d+", listed)]


def strip_citations(prompt: PromptSection, answer: str) -> str:
    """An answer without its citation tags and the blanks before them: what it says, not where it stands."""
    return re.sub(rf"[ \t]*{citation_pattern(prompt).pattern}", "", answer, flags=re.IGNORECASE).strip()


def citation_pattern(prompt: PromptSection) -> re.Pattern[str]:
    """Matches a citation tag in any case; group 1 holds the source number, or several.

    Teachers also write [Source 1, 9], [Sources 1 and 9] and [Source 1, Source 9]; a list needs something that closes it.
    """
    before, after = prompt.citation.split("{number}")
    parts = re.fullmatch(r"(\W*)(.*?)(\w*)(\W*)", before, re.DOTALL).groups()
    opening, lead, word, gap = (re.escape(part) for part in parts)
    name = f"{word}{'s?' if word else ''}{gap}"
    more = rf"(?:{LIST_SEPARATOR}(?:(?:{lead})?{name})?\d{{1,6}})*" if after else ""
    start = opening or r"(?<!\w)"
    return re.compile(rf"{start}{lead}{name}(\d{{1,6}}{more}){re.escape(after)}", re.IGNORECASE)


def is_refusal(prompt: PromptSection, answer: str) -> bool:
    """Whether an answer begins with the configured refusal; case, spacing and the final full stop do not matter.

    Merely holding the sentence is not enough: an answer may repeat the prompt, which quotes it.
    """
    return normalise(answer).startswith(normalise(prompt.refusal).rstrip("."))


def normalise(text: str) -> str:
    """Lower case, runs of white space as one blank."""
    return " ".join(text.lower().split())
