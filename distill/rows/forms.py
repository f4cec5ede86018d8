"""Where question, chunks and instructions stand in a prompt that HybridRAG3 sent.

Two forms are known by their marker lines. Numbered: each chunk under a line  [Source N] path (chunk K, score=S),  and last
Question: the question. Guarded: each chunk under a line  --- CHUNK N ---,  between two lines of ===, and last  USER QUERY:  and
the question. HybridRAG3's guard cuts the context anew, so its chunks are pieces, of which only some name their document.
A chunk may itself hold such lines: markers count up from 1, and the last label before the end is the question's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

HEADER = r"\[Source {number}\] (?P<source>[^\n]+) \(chunk \d+, score=-?[\d.]+\)[ \t]*\n"
ANY_HEADER = re.compile(r"(?:[ \t]*---[ \t]*\n\s*)*" + HEADER.format(number=r"\d+"))
ANSWER_LABEL = re.compile(r"\s*\n[ \t]*Answer:\s*\Z")
QUESTION_LABEL, QUERY_LABEL = "\nQuestion:", "\nUSER QUERY:"
NOTHING_FOUND = re.compile(r"(?:^|\n)Context[^\n]*:\s*\Z")
BLOCK_BEGIN = re.compile(r"^=== (?!END\b)[^\n]*===[ \t]*$", re.MULTILINE)
BLOCK_END = re.compile(r"^=== END\b[^\n]*===[ \t]*$", re.MULTILINE)
CHUNK_COUNT = re.compile(r"\b(\d+) (?:\w+ )?chunks?\b")


@dataclass(frozen=True)
class Passage:
    """A chunk's text at [start:end] of the prompt, offsets in characters; `source` is its document, "" if not named."""

    start: int
    end: int
    source: str


@dataclass(frozen=True)
class Form:
    """`kind` is "" for a form that is not known: then `question` is the last paragraph and nothing else is found.

    `instructions` is what stands outside context and question.
    """

    kind: Literal["numbered", "guarded", ""]
    question: str
    passages: tuple[Passage, ...] = ()
    instructions: str = ""


def read_form(text: str) -> Form:
    """Take a prompt apart. The label that stands last decides which form is tried first."""
    end = match.start() if (match := ANSWER_LABEL.search(text)) else len(text.rstrip())
    labels = {read_numbered: text.rfind(QUESTION_LABEL, 0, end), read_guarded: text.rfind(QUERY_LABEL, 0, end)}
    for read, place in sorted(labels.items(), key=lambda pair: -pair[1]):
        if place >= 0 and (form := read(text, place, end)):
            return form
    return Form("", re.split(r"\n\s*\n", text[:end])[-1].strip())


def read_numbered(text: str, label: int, end: int) -> Form | None:
    """The form of HybridRAG3's own prompts; `label` is where the question's label begins, `end` where the question ends."""
    question = text[label + len(QUESTION_LABEL) : end].strip()
    headers = find_headers(text, label)
    if not question or not (headers or NOTHING_FOUND.search(text, 0, label)):
        return None
    ends = [*(start for start, _, _ in headers[1:]), label]
    passages = [trim(text, start, stop, source) for (_, start, source), stop in zip(headers, ends)]
    if any(passage.start >= passage.end for passage in passages):
        return None
    return Form("numbered", question, tuple(passages), text[: headers[0][0] if headers else label])


def find_headers(text: str, end: int) -> list[tuple[int, int, str]]:
    """For each chunk of a numbered prompt: where the chunk before it ends, where its own text begins, its document."""
    headers: list[tuple[int, int, str]] = []
    place, before = 0, r"(?:^|(?<=\n))"
    while match := re.compile(before + HEADER.format(number=len(headers) + 1)).search(text, place, end):
        headers.append((match.start(), match.end(), match["source"]))
        place, before = match.end() - 1, r"\n\n---\n\n"  # the line feed may belong to the next separator
    return headers


def read_guarded(text: str, label: int, end: int) -> Form | None:
    """The form of the answer guard's prompts."""
    question = text[label + len(QUERY_LABEL) : end].strip()
    ends = list(BLOCK_END.finditer(text, 0, label))
    begin = BLOCK_BEGIN.search(text, 0, ends[-1].start()) if ends else None
    if not question or not begin:
        return None
    passages = find_pieces(text, begin.start(), ends[-1].start())
    if passages is None:
        return None
    return Form("guarded", question, passages, text[: begin.start()] + text[ends[-1].end() : label])


def find_pieces(text: str, begin: int, end: int) -> tuple[Passage, ...] | None:
    """The chunks of a guarded prompt; None when one is blank, or when there are fewer than the prompt says."""
    marks: list[re.Match[str]] = []
    first = text.find("\n--- CHUNK 1 ---", begin, end)
    told = CHUNK_COUNT.search(text, begin, first if first >= 0 else end)
    most = int(told[1]) if told else len(text)
    while len(marks) < most:
        place = marks[-1].end() - 1 if marks else begin
        mark = re.compile(rf"\n--- CHUNK {len(marks) + 1} ---[ \t]*\n").search(text, place, end)
        if not mark:
            break
        marks.append(mark)
    stops = [*(mark.start() for mark in marks[1:]), end]
    pieces = tuple(read_piece(text, mark.end(), stop) for mark, stop in zip(marks, stops))
    complete = len(pieces) == most if told else bool(pieces)
    return pieces if complete and all(piece.start < piece.end for piece in pieces) else None


def read_piece(text: str, start: int, end: int) -> Passage:
    """A piece without the separator and the header that may open it; the header names its document."""
    header = ANY_HEADER.match(text, trim(text, start, end, "").start, end)
    return trim(text, header.end(), end, header["source"]) if header else trim(text, start, end, "")


def trim(text: str, start: int, end: int, source: str) -> Passage:
    """A passage without the blank lines around it; blanks before its first word stay, they may indent code."""
    inner = text[start:end]
    lead = len(inner) - len(re.sub(r"\A(?:[ \t]*\n)+", "", inner))
    return Passage(start + lead, start + len(inner.rstrip()), source)
