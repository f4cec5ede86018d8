"""A text as passages that each say something by themselves: sentences, list items, table rows with their headers, key lines."""

from __future__ import annotations

import re

from distill.curation.statements import ITEM, NUMBERING, cut_blocks
from distill.sentences import cut_sentences

# Markdown and LaTeX around a value: **12.5** dBi, `max_size`, $12.5\,\text{GHz}$.
EMPHASIS = re.compile(r"\*\*|__(?=\S)|(?<=\S)__|`+|(?<!\w)\*(?=\S)|(?<=\S)\*(?!\w)")
LATEX = ((re.compile(r"\\(?:text|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"), r"\1"), (re.compile(r"\\[()\[\]]|\$"), ""),
         (re.compile(r"\\(?:[,;:! ]|quad)|~"), " "), (re.compile(r"\\pm\b"), "\u00b1"), (re.compile(r"\\times\b"), "x"),
         (re.compile(r"\\([%#&_])"), r"\1"))
FENCE = re.compile(r"^\s*(?:```|~~~)")
RULE = re.compile(r"^[\s|:=*_-]+$")
# A line such as  timeout = 30  or  Weight: 4 kg  is a passage of its own.
KEY_LINE = re.compile(r"^\s*[\w \t./()\[\]'\"%-]{1,50}(?:\s=\s?|=|:\s|:\t|\t)\s*\S.{0,80}$")
TITLE = re.compile(r"^\s*[A-Z0-9][^.!?;:]{0,59}$")  # a short line before one that begins with a capital
UNIT_OF_COLUMN = re.compile(r"[(\[]\s*([^()\[\]]{1,12}?)\s*[)\]]\s*$|,\s*(?:in\s+)?([^\s,]{1,8})\s*$")
BARE_CELL = re.compile(r"^[-+\u2212\u00b1<>=\u2264\u2265~ ]*\d[\d.,]*(?:\s*(?:-|\u2013|to|\u00b1|\+/-)\s*\d[\d.,]*)?$")

# What says nothing of the subject: before a claim, and as a sentence of its own, unless that holds a value.
NOTE = r"note that (?!(?:the|this) (?:above|answer)\b[^\d:]*$)"
OPENING = re.compile(
    rf"(?:(?:sure|certainly|of course|absolutely)\b[\s,!.:;-]*|(?:please )?{NOTE}|if you (?:have|need|want)\b[^,]*,\s*)+",
    re.IGNORECASE,
)
COURTESY = re.compile(
    r"(?:i hope|let me know|please (?:let|feel|ask|note that (?:the|this) (?:above|answer))|feel free|is there anything|"
    r"if you (?:have|need|want)\b|thank|you'?re welcome|happy to help|great question|in summary,? the above)[^\d]*$|"
    r"here (?:is|are)\b.*:$", re.IGNORECASE | re.DOTALL,
)


def list_subject_matter(text: str) -> list[str]:
    """The passages of an answer without its courtesies: "Sure, the gain is 12 dBi." says that the gain is 12 dBi."""
    passages = (OPENING.sub("", passage, count=1) if OPENING.match(passage) else passage for passage in list_passages(text))
    return [passage for passage in passages if passage.strip() and not COURTESY.match(passage)]


def list_passages(text: str) -> list[str]:
    """The passages of an answer, a reference or a source in their order, without markup and the numbering of lists."""
    passages: list[str] = []
    rows: list[list[str]] = []
    for block in cut_blocks(part_lines(strip_markup(text))):
        cells = read_cells(block)
        if cells:
            rows.append(cells)
            continue
        passages += tell_rows(rows)
        rows = []
        passages += cut_sentences(NUMBERING.sub("", block.lstrip("# ")).strip())
    return [passage for passage in [*passages, *tell_rows(rows)] if passage.strip()]


def strip_markup(text: str) -> str:
    """Without emphasis, code marks and LaTeX: what a reader sees."""
    for pattern, replacement in LATEX if "\\" in text or "$" in text else ():
        text = pattern.sub(replacement, text)
    return EMPHASIS.sub("", "\n".join("" if FENCE.match(line) else line for line in text.splitlines()))


def part_lines(text: str) -> str:
    """With blank lines around key lines and titles, so that a block never joins them to others."""
    lines = text.splitlines()
    parted = []
    for line, following in zip(lines, [*lines[1:], ""]):
        prose = ITEM.match(line) or "|" in line or line.rstrip().endswith((".", "!", "?"))
        apart = not prose and (KEY_LINE.match(line) or (TITLE.match(line) and following[:1].isupper()))
        parted += ["", line, ""] if apart else [line]
    return "\n".join(parted)


def read_cells(block: str) -> list[str]:
    """The cells of a table row, [] where a block is none."""
    if block.count("|") < 2 and not block.startswith("|"):
        return []
    return [cell.strip() for cell in block.strip().strip("|").split("|")]


def tell_rows(rows: list[list[str]]) -> list[str]:
    """Each row of a table as a passage; where the first row is a header, each cell with its header and its row's first cell."""
    if not rows:
        return []
    ruled = len(rows) > 1 and all(RULE.match(cell or "-") for cell in rows[1])
    body = [row for row in rows if not all(RULE.match(cell or "-") for cell in row)]
    if len(body) < 2 or not (ruled or is_header(body)):
        return [" ; ".join(cell for cell in row if cell) for row in body]
    return [told for row in body[1:] for told in tell_row(body[0], row)]


def is_header(rows: list[list[str]]) -> bool:
    """Whether the first row names columns: it holds no number of its own, and another row does."""
    numbers = [sum(bool(re.match(r"\W*\d", cell)) for cell in row) for row in rows]
    return not numbers[0] and any(numbers[1:])


def tell_row(header: list[str], row: list[str]) -> list[str]:
    """Model X100: Gain 12 dBi, and so on for each cell but the first, which names the row."""
    told = [tell_cell(name, cell) for name, cell in zip([*header, *[""] * len(row)], row) if cell]
    return [f"{told[0]}: {cell}" for cell in told[1:]] or told


def tell_cell(name: str, cell: str) -> str:
    """A cell behind its header, whose unit follows a bare number: 12 in a column Gain (dBi) is Gain 12 dBi."""
    unit = UNIT_OF_COLUMN.search(name)
    if unit and BARE_CELL.match(cell):
        return f"{name[: unit.start()].strip()} {cell} {unit[1] or unit[2]}"
    return f"{name} {cell}".strip()
