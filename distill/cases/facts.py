"""Does an answer hold a key fact? Compared as words, numbers and signs, so that spelling decides nothing.

"12" is not in "112" nor in "-12"; "5 V" is in "5V" and "5 volts", "180 days" in "a 180-day cycle". What the answer denies in
the same breath ("30 days, not 90 days") it does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from distill.curation.words import fold_signs, read_number_words

# Facts are looked for among so many words: a model that copies all its sources has every fact, and has answered nothing.
WINDOW_WORDS = 150
PIECE = re.compile(r"(?:(?<![\w)\].%])-)?\d+(?:\.\d+)*|[^\W\d_]+|\u00b1")
TIMES = re.compile(r"(?<=[^\W\d_])[*\u00b7\u22c5](?=[^\W\d_])")  # N*m is Nm
NEWTON_METRE = re.compile(r"\bnewton[- ]?met(?:re|er)s?\b", re.IGNORECASE)
VERSION = re.compile(r"(?<=[^\W\d_])v(?=\d+\.\d)", re.IGNORECASE)  # TLSv1.3 is TLS 1.3
CURRENT = re.compile(r"(?<![^\W\d_])([mk]?v)([ad]c)\b", re.IGNORECASE)  # 5 Vdc is 5 V DC
# A no before a comma or a stop answers a question; it denies nothing that follows. One before a digit is short for number.
DENIAL = re.compile(
    r"\b(?:not|never|nor|without|(?:no|neither)(?!\s+\d))(?=\s)|(?<=n)['\u2019]t(?=\s)|(?<=can)not(?=\s)", re.IGNORECASE
)
DENIED = "not"
# What may stand between a denial and what it denies; "not more than 5 V" and "must not exceed 5 V" do not deny 5 V.
BETWEEN = frozenset(("a", "an", "the", "any", "at", "in", "on", "of", "for", "to", "by", "be", "every", "after", "with"))
ENDING = r"(?:(?:(?<=[cs]h)|(?<=ss)|(?<=x))e|d|ed|ings?|ions?|ations?|ments?|ly|(\w)(?:ed|ings?))"
PREFIX_LETTERS = 4
DEGREE = "degree"
SCALES = {"c": "celsius", "celsius": "celsius", "centigrade": "celsius", "f": "fahrenheit", "fahrenheit": "fahrenheit"}
UNITS = {
    short: names.split()[-1]
    for names in (
        "v volt", "mv millivolt", "kv kilovolt", "a amp ampere", "ma milliamp milliampere", "w watt", "kw kilowatt", "hz hertz",
        "khz kilohertz", "mhz megahertz", "ghz gigahertz", "\u03c9 ohm", "m meter metre", "mm millimeter millimetre",
        "cm centimeter centimetre", "km kilometer kilometre", "g gram", "kg kilogram", "l liter litre",
        "ml milliliter millilitre", "s sec second", "ms millisecond", "min minute", "h hr hour", "kb kilobyte", "mb megabyte",
        "gb gigabyte", "tb terabyte", "db decibel", "pa pascal", "kpa kilopascal", "deg degree",
    )
    for short in names.split()
}


def split_fact(text: str) -> list[str]:
    """The words, numbers and plus-minus signs of a text in one form, in order; behind a number, units by their names."""
    pieces: list[str] = []
    for found in PIECE.findall(fold_units(read_number_words(fold_signs(text)))):
        pieces += name_unit(found.casefold(), pieces[-1] if pieces else "")
    return pieces


def fold_units(text: str) -> str:
    """Units that are written in several ways in one."""
    text = CURRENT.sub(r"\1 \2", NEWTON_METRE.sub("Nm", TIMES.sub("", VERSION.sub(" ", text))))
    return text.replace("%", " percent ").replace("\u00b0", f" {DEGREE} ")


def name_unit(piece: str, before: str) -> list[str]:
    """A piece without its plural; behind a number a unit's name: 5 V is 5 volt, 40 C is 40 degree celsius."""
    word, behind_number = fold_plural(piece), before[-1:].isdigit()
    if piece in SCALES and (behind_number or before == DEGREE):
        return [SCALES[piece]] if before == DEGREE else [DEGREE, SCALES[piece]]
    return [UNITS.get(word, word) if behind_number else word]


def fold_plural(word: str) -> str:
    """A longer word without the s at its end: days and day."""
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word.isalpha() else word


def holds_fact(text: str, fact: str) -> bool:
    """Whether the text has the fact's pieces in a row and does not deny them; its last word may have another ending."""
    pieces = split_fact(DENIAL.sub(f" {DENIED}", text))
    return any(not is_denied(pieces[:start]) for start in find_places(pieces, split_fact(DENIAL.sub(f" {DENIED}", fact))))


def names_fact(text: str, fact: str) -> bool:
    """Whether the text has the fact's pieces in a row, were it to deny them."""
    return any(True for _ in find_places(split_fact(text), split_fact(fact)))


def find_places(pieces: Sequence[str], wanted: Sequence[str]) -> Iterator[int]:
    """Where the wanted pieces begin."""
    for start in range(len(pieces) - len(wanted) + 1 if wanted else 0):
        last = start + len(wanted) - 1
        if pieces[start:last] == wanted[:-1] and is_same(pieces[last], wanted[-1]):
            yield start


def is_denied(before: Sequence[str]) -> bool:
    """Whether the pieces before a fact end in a denial, or in one and words that say nothing."""
    kept = next((piece for piece in reversed(before) if piece not in BETWEEN), "")
    return kept == DENIED


def is_same(piece: str, wanted: str) -> bool:
    """Whether a piece is the one wanted, or a longer form of a word: encrypted and encrypt, but not portable and port."""
    if piece == wanted or not wanted.isalpha() or len(wanted) < PREFIX_LETTERS:
        return piece == wanted
    found = re.fullmatch(wanted + ENDING, piece)
    return bool(found) and found[1] in (None, wanted[-1])


def measure_facts(text: str, facts: Sequence[Sequence[str]]) -> float | None:
    """The share of the facts, each a list of alternatives, that stand among the first words of a text; None without facts."""
    early = " ".join(text.split()[:WINDOW_WORDS])
    held = sum(any(holds_fact(early, each) for each in alternatives) for alternatives in facts)
    return held / len(facts) if facts else None
