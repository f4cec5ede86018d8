"""Whether the sources that a sentence cites support it, as far as words and numbers can tell.

The measure, for a sentence with the stems W of its content words, E those of the chunks it cites (with the names of their
files), Q those of the question:

    support = |W & E| / |W & E or W - Q|        1 where that is empty, or where W has fewer than FEWEST_WORDS

that is, the share found in the sources, where words that merely repeat the question do not count against it. Besides, each
number, each unit behind a number and each name with a digit (X100, foF2) must stand in the cited chunks or in the question.

Tolerant of number formats (1,200 and 1200, 5.0 and 5, 80 C and 80 degrees Celsius, 85 and eighty five), of inflection, of the
numbering of lists. Not seen are negation ("is allowed" against "is not allowed"), swapped roles ("A feeds B" against "B feeds
A"), and small numbers written as words in the answer. Values that were converted or calculated count as foreign.

Measured: of sentences quoted from one document and cited to another of its field, 9% have a support of 0.4, 4% of 0.5; a free
paraphrase of the right source has 0.45 to 0.9.
"""

from __future__ import annotations

import ntpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from distill.config import PromptSection
from distill.curation.units import ANY_NUMBER, NUMBER_WITH_UNIT, name_unit
from distill.curation.words import fold_number, fold_signs, fold_word, list_content_words, read_number_words
from distill.prompts import citation_pattern, normalise
from distill.records import Chunk
from distill.sentences import cut_sentences

FEWEST_WORDS = 3
SHOWN_CHARACTERS = 80
WORDS_ABOUT_SOURCES = """
according source sources document documents text chunk chunks section state states note notes noted following follows describe
described specify specified mention mentioned list listed lists include includes including provide provided however therefore
moreover furthermore additionally overall summary example various several key important typically generally usually because
"""
IGNORED = frozenset(fold_word(word) for word in WORDS_ABOUT_SOURCES.split())
SMALL = 12  # up to here an answer's number words are only words: "two reasons" counts what the source may only list
MARKER = r"(?:[-*+\u2022]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)])\s+"
NUMBERING = re.compile(rf"^\s*(?:{MARKER})*(?:\*{{0,2}}(?:[Ss]tep|STEP)\s+\d+\b)?")
NUMBERED_HEADING = re.compile(r"^#{1,6}\s+(?:\d+(?:\.\d+)*\.?\s+)?")
NEW_BLOCK = re.compile(rf"^\s*(?:#{{1,6}}\s|\||{MARKER})")
HEADING = re.compile(r"^\s*#{1,6}\s|^\s*(?:\*\*|__)[^*_]+(?:\*\*|__):?\s*$|:\s*(?:\*\*|__)?\s*$")
NAMED_SOURCE = re.compile(r"\b(?:source|chunk|document)s?\s*#?\s*\d+(?:\s*(?:,|and|&)\s*\d+)*", re.IGNORECASE)
# Tags are held by private characters while an answer is cut, so that nothing in them ends a sentence.
HELD = re.compile("\ue000(\\d+)\ue001")
BEHIND_THE_STOP = re.compile("([.!?][\"')\\]*]*)((?:[ \\t]*\ue000\\d+\ue001[ \\t,;]*)+)")
NAME = re.compile(r"[^\W_]+(?:[-._/:][^\W_]+)*")
RUNS = re.compile(r"\d+|[^\W\d_]+")


# -----------------------------------------------------------------------------
# Statements: the sentences of an answer, and what they rest on


@dataclass(frozen=True)
class Statement:
    """A sentence without its tags; the source numbers that it cites; whether it carries the mark of general knowledge."""

    text: str
    cited: tuple[int, ...] = ()
    marked: bool = False
    heading: bool = False


def list_statements(prompt: PromptSection, answer: str) -> list[Statement]:
    """The sentences of an answer in their order.

    A sentence without a tag takes that of the next one with a tag in its paragraph or list item, else of the one before, else
    every tag of the answer; a tag behind the full stop belongs to the sentence before it. A sentence without a tag behind a
    marked one in its paragraph is marked, too.
    """
    tags: list[tuple[int, ...]] = []

    def hold(match: re.Match[str]) -> str:
        tags.append(tuple(int(number) for number in re.findall(r"\d+", match[0])))
        return f"\ue000{len(tags) - 1}\ue001"

    held = citation_pattern(prompt).sub(hold, answer)
    every = tuple(sorted({number for numbers in tags for number in numbers}))
    statements = []
    for block in cut_blocks(held):
        found = [read_statement(prompt, piece, tags) for piece in cut_block(prompt, block)]
        statements += spread(found, every)
    return statements


def cut_blocks(text: str) -> list[str]:
    """Paragraphs, list items, headings and table rows, each on one line."""
    blocks: list[str] = []
    following = False
    for line in text.splitlines():
        if not line.strip():
            following = False
        elif following and not NEW_BLOCK.match(line):
            blocks[-1] += " " + line.strip()
        else:
            blocks.append(line.strip())
            following = not HEADING.search(line)
    return blocks


def cut_block(prompt: PromptSection, block: str) -> list[str]:
    """The sentences of a block; tags behind a full stop, and a mark at the block's end, belong to the sentence before them."""
    pieces = cut_sentences(BEHIND_THE_STOP.sub(r" \2\1 ", NUMBERING.sub("", block)))
    mark = normalise(prompt.general_knowledge)
    if len(pieces) > 1 and mark and normalise(pieces[-1]).rstrip(".") == mark.rstrip("."):
        pieces[-2:] = [" ".join(pieces[-2:])]
    return pieces


def read_statement(prompt: PromptSection, piece: str, tags: Sequence[tuple[int, ...]]) -> Statement:
    """One sentence with its own tags alone."""
    mark = normalise(prompt.general_knowledge)
    cited = tuple(number for match in HELD.finditer(piece) for number in tags[int(match[1])])
    plain = re.sub(r" (?=[.,;:!?])", "", " ".join(HELD.sub(" ", piece).split()))
    heading = not cited and bool(HEADING.search(plain))
    return Statement(plain, cited, bool(mark) and mark in normalise(plain), heading)


def spread(statements: Sequence[Statement], every: tuple[int, ...]) -> list[Statement]:
    """Sentences of one block: those without a tag get one, or the mark of the sentence before."""
    marked, result = False, []
    for place, statement in enumerate(statements):
        marked = statement.marked or (marked and not statement.cited)
        nearest = [*statements[place:], *reversed(statements[:place])]
        cited = next((other.cited for other in nearest if other.cited), every)
        result.append(replace(statement, cited=cited, marked=marked))
    return result


# -----------------------------------------------------------------------------
# Evidence: what sources hold, and what a statement says beyond it


@dataclass(frozen=True)
class Evidence:
    """What some texts hold: `words` as stems, `numbers` with the units seen behind each ("" for none), and `text` itself."""

    words: frozenset[str]
    numbers: dict[str, set[str]]
    text: str


def read_evidence(texts: Iterable[str]) -> Evidence:
    """The texts as one; a number written as a word counts as one."""
    folded = fold_signs("\n".join(" ".join(text.split()) for text in texts))
    numbers: dict[str, set[str]] = {}
    for match in ANY_NUMBER.finditer(read_number_words(folded)):
        numbers.setdefault(fold_number(match["number"]), set()).add(name_unit(match["unit"]))
    return Evidence(frozenset(list_content_words(folded)), numbers, folded)


def measure_support(statement: str, evidence: Evidence, question: str = "") -> float:
    """The share defined at the head of this module, 0 to 1."""
    words = {*list_content_words(NUMBER_WITH_UNIT.sub(" ", clean(statement)))} - IGNORED
    found = words & evidence.words
    counted = found | (words - {*list_content_words(fold_signs(question))})
    return len(found) / len(counted) if len(words) >= FEWEST_WORDS and counted else 1.0


def find_foreign(statement: str, evidence: Evidence) -> str:
    """The first number, number with unit, or name with a digit that the evidence does not hold; "" if there is none."""
    text = clean(statement)
    for match in NUMBER_WITH_UNIT.finditer(text):
        number, unit = fold_number(match["number"]), name_unit(match["unit"])
        # 20 may stand as -20 in a source, not the other way round.
        forms = [number] if number.startswith("-") else [number, f"-{number}"]
        units = {seen for form in forms for seen in evidence.numbers.get(form, ())}
        if not units or (unit and not units & {unit, ""}):
            return match[0].strip()
    for match in NAME.finditer(NUMBER_WITH_UNIT.sub(" ", text)):
        if re.search(r"\d", match[0]) and not holds_name(evidence.text, match[0]):
            return match[0]
    return ""


def clean(statement: str) -> str:
    """With folded signs and digits for number words; without the numbers of headings, of (1) items and of sources in prose."""
    text = NAMED_SOURCE.sub(" ", NUMBERED_HEADING.sub("", fold_signs(statement)))
    return read_number_words(re.sub(r"\(\d{1,2}\)", " ", text), above=SMALL)


def holds_name(text: str, name: str) -> bool:
    """Whether a text holds a name, in any case and however it is joined: X100, X-100, x 100; but not X1000."""
    runs = r"[\W_]{0,3}".join(re.escape(run) for run in RUNS.findall(name))
    return re.search(rf"(?<![^\W_]){runs}(?![^\W_])", text, re.IGNORECASE) is not None


# -----------------------------------------------------------------------------
# The check


def find_unsupported(
    prompt: PromptSection, question: str, chunks: Sequence[Chunk], answer: str, min_support: float, exempt_marked: bool
) -> str:
    """What is wrong with the first sentence that its sources do not support, in one line; "" where all are supported.

    Where an answer cites nothing at all, every chunk is taken for its source. With `exempt_marked`, sentences with the mark of
    general knowledge need no support. Tags of sources that do not exist are another check's.
    """
    asked = read_evidence([question])
    everything = tuple(range(1, len(chunks) + 1))
    for statement in list_statements(prompt, answer):
        if statement.marked and exempt_marked:
            continue
        numbers = [number for number in statement.cited or everything if 1 <= number <= len(chunks)]
        problem = describe_problem(statement, read_chunks(chunks, numbers), asked, question, min_support)
        if problem:
            cited = ", ".join(map(str, numbers)) if statement.cited else "any"
            return f"{problem} source {cited}: {cut(statement.text)}"
    return ""


def read_chunks(chunks: Sequence[Chunk], numbers: Iterable[int]) -> Evidence:
    """The evidence of some chunks, counted from 1: their texts and the names of their files."""
    cited = [chunks[number - 1] for number in sorted(set(numbers))]
    return read_evidence(part for chunk in cited for part in (ntpath.basename(chunk.source), chunk.text))


def describe_problem(
    statement: Statement, sources: Evidence, asked: Evidence, question: str, min_support: float
) -> str:
    """What is wrong with one statement, up to the word "source"; "" if nothing is."""
    numbers = {
        number: sources.numbers.get(number, set()) | asked.numbers.get(number, set())
        for number in [*sources.numbers, *asked.numbers]
    }
    foreign = find_foreign(statement.text, Evidence(sources.words, numbers, f"{sources.text}\n{asked.text}"))
    if foreign:
        return f"{foreign} is not in"
    support = 1.0 if statement.heading else measure_support(statement.text, sources, question)
    return f"{support:.0%} of the words are in" if support < min_support else ""


def cut(text: str) -> str:
    """A sentence as far as a line shows it."""
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
