"""Whether the sources that a sentence cites support it, as far as words and numbers can tell.

The measure, for a sentence with the stems W of its content words, E those of the chunks it cites (with the names of their
files), Q those of the question:

    support = |W & E| / |W & E or W - Q|        1 where that is empty, or where W has fewer than FEWEST_WORDS

that is, the share found in the sources, where words that merely repeat the question do not count against it. Besides, each
number, each unit behind a number and each name with a digit (X100, foF2) must stand in the cited chunks or in the question, or
be the same in another unit (1500 mm for 1.5 m, 50% for half), or follow from the sentence's other numbers (see follows).

Tolerant of number formats (1,200 and 1200 and 1.200, 5.0 and 5, 80 C and 80 degrees Celsius, 85 and eighty five), of
inflection, of the numbering of lists, of ordinals. Not seen are negation ("is allowed" against "is not allowed"), swapped roles
("A feeds B" against "B feeds A"), and small numbers written as words in the answer.

Measured: of sentences quoted from one document and cited to another of its field, 9% have a support of 0.4, 4% of 0.5; a free
paraphrase of the right source has 0.45 to 0.9.
"""

from __future__ import annotations

import ntpath
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations

from distill.config import PromptSection
from distill.curation.statements import FEWEST_WORDS, Statement, is_ordered, list_statements, tells_nothing
from distill.curation.units import ANY_NUMBER, NUMBER_WITH_UNIT, name_unit, scale_unit
from distill.curation.words import fold_number, fold_signs, fold_word, list_content_words, read_number_words
from distill.records import Chunk

SHOWN_CHARACTERS = 80
WORDS_ABOUT_SOURCES = """
according source sources document documents text chunk chunks section state states note notes noted following follows describe
described specify specified mention mentioned list listed lists include includes including provide provided however therefore
moreover furthermore additionally overall summary example various several key important typically generally usually because
"""
IGNORED = frozenset(fold_word(word) for word in WORDS_ABOUT_SOURCES.split())
SMALL = 12  # up to here an answer's number words are only words: "two reasons" counts what the source may only list
NUMBERED_HEADING = re.compile(r"^#{1,6}\s+(?:\d+(?:\.\d+)*\.?\s+)?")
# "source 1", "sources 1, 2 and 3"; in "according to source 1, 12.5 dBi" the value behind it is none of the numbers.
NAMED_SOURCE = re.compile(
    r"\b(?:sources|chunks|documents)\s*#?\s*\d+(?:\s*(?:,|and|&)\s*\d{1,2}(?![.,]?\d))*"
    r"|\b(?:source|chunk|document)\s*#?\s*\d+(?:\s*(?:and|&)\s*\d(?![.,]?\d)(?=\W*$|\W+[a-z]{4,}))?", re.IGNORECASE,
)
NAME = re.compile(r"[^\W_]+(?:[-._/:][^\W_]+)*")
RUNS = re.compile(r"\d+|[^\W\d_]+")
# log10 is a function, and 2nd a word like second: neither is a value. Larger ordinals are compared.
NO_VALUE = re.compile(r"\d*log(?:10|2|1p)|atan2|expm1|(?:\d|1[0-2])(?:st|nd|rd|th)", re.IGNORECASE)
FUNCTION = re.compile(r"log|ln|exp|sqrt|sin|cos|tan|[\^\u221a()]", re.IGNORECASE)
# Only a sentence with one of these calculates.
CALCULATES = re.compile(
    r"[=\u2248\u00b1\u00d7\u00f7]|\s[-+*/]\s|\d (?:out )?of (?:the |all )?\d|\b(?:less|minus|plus|times|twice|half|double|sum|"
    r"total|altogether|difference|net|ratio|average|mean|margin|leaves?|leaving|that is|i\.e|thus|hence|gives|yields)\b",
    re.IGNORECASE,
)
POINTS_BY_THOUSANDS = re.compile(r"-?[1-9]\d{0,2}\.\d{3}")
SHARES = {"half": "50", "quarter": "25"}  # in percent


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
        for form in list_forms(match["number"]):
            numbers.setdefault(form, set()).add(name_unit(match["unit"]))
    for word, percent in SHARES.items():
        if re.search(rf"\b{word}\b", folded, re.IGNORECASE):
            numbers.setdefault(percent, set()).add("%")
    return Evidence(frozenset(list_content_words(folded)), numbers, folded)


def list_forms(digits: str) -> list[str]:
    """The values that a number may mean: 1.200 is 1200 to a German."""
    german = [fold_number(digits.replace(".", ""))] if POINTS_BY_THOUSANDS.fullmatch(digits) else []
    return [fold_number(digits), *german]


def measure_support(statement: str, evidence: Evidence, question: str = "") -> float:
    """The share defined at the head of this module, 0 to 1."""
    words = {*list_content_words(NUMBER_WITH_UNIT.sub(" ", clean(statement)))} - IGNORED
    found = words & evidence.words
    counted = found | (words - {*list_content_words(fold_signs(question))})
    return len(found) / len(counted) if len(words) >= FEWEST_WORDS and counted else 1.0


def find_foreign(statement: str, evidence: Evidence) -> str:
    """The first number, number with unit, or name with a digit that the evidence does not hold; "" if there is none."""
    text = clean(statement)
    matches = list(NUMBER_WITH_UNIT.finditer(text))
    sourced = [match for match in matches if holds_number(evidence, match)]
    left = [match for match in matches if match not in sourced]
    while found := [match for match in left if follows(text, match, sourced)]:
        sourced += found
        left = [match for match in left if match not in found]
    if left:
        return left[0][0].strip()
    for match in NAME.finditer(NUMBER_WITH_UNIT.sub(" ", text)):
        if re.search(r"\d", match[0]) and not NO_VALUE.fullmatch(match[0]) and not holds_name(evidence.text, match[0]):
            return match[0]
    return ""


def holds_number(evidence: Evidence, match: re.Match[str]) -> bool:
    """Whether the evidence holds a number with its unit, or without one, or the same in another unit."""
    unit, forms = name_unit(match["unit"]), list_forms(match["number"])
    # 20 may stand as -20 in a source, not the other way round.
    forms += [f"-{form}" for form in forms if not form.startswith("-")]
    units = {seen for form in forms for seen in evidence.numbers.get(form, ())}
    if units and (not unit or units & {unit, ""}):
        return True
    wanted = scale(forms[0], unit)
    return any(scale(number, seen) == wanted for number, all_seen in evidence.numbers.items() for seen in all_seen - {unit})


def scale(number: str, unit: str) -> tuple[str, Fraction]:
    """A value in its unit without prefix: 1500 mm and 1.5 m are equal."""
    base, factor = scale_unit(unit)
    return base, Fraction(number) * factor


def follows(text: str, match: re.Match[str], sourced: Sequence[re.Match[str]]) -> bool:
    """Whether a number is calculated in the sentence: the sum, difference, product, ratio or share of two of the `sourced`.

    Also, not calculated again: what stands behind an equals sign and a formula with one of them and a function or power.
    """
    if not CALCULATES.search(text):
        return False
    values = [Fraction(other["number"]) for other in sourced]
    if any(round_like(match["number"], value) for pair in permutations(values, 2) for value in calculate(*pair)):
        return True
    formula = re.search(r"([^=\u2248]*)[=\u2248]\s*$", text[: match.start()])
    if not formula or not FUNCTION.search(formula[1]):
        return False
    return any(formula.start(1) <= other.start() < formula.end(1) for other in sourced)


def calculate(first: Fraction, second: Fraction) -> list[Fraction]:
    """What two numbers give, in this order."""
    values = [first + second, first - second, first * second, first * second / 100]
    return [*values, first / second, 100 * first / second] if second else values


def round_like(digits: str, value: Fraction) -> bool:
    """Whether a value, rounded to the decimals of a number, is that number."""
    decimals = len(digits.partition(".")[2])
    return abs(value - Fraction(digits)) * 10**decimals <= Fraction(1, 2)


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
    prompt: PromptSection, question: str, chunks: Sequence[Chunk], answer: str, min_support: float, exempt_marked: bool,
    orders: Collection[str] = (),
) -> str:
    """What is wrong with the first sentence that its sources do not support, in one line; "" where all are supported.

    Where an answer cites nothing at all, every chunk is taken for its source. With `exempt_marked`, sentences with the mark of
    general knowledge need no support, and none needs any that the prompt itself orders (`orders`, see list_orders). Tags of
    sources that do not exist are another check's.
    """
    asked = read_evidence([question])
    everything = tuple(range(1, len(chunks) + 1))
    for statement in list_statements(prompt, answer):
        if (statement.marked and exempt_marked) or is_ordered(statement, orders):
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
    support = 1.0 if statement.heading or tells_nothing(statement.text) else measure_support(statement.text, sources, question)
    return f"{support:.0%} of the words are in" if support < min_support else ""


def cut(text: str) -> str:
    """A sentence as far as a line shows it."""
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
