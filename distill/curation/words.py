"""Texts as words: what the checks and the search for near-duplicates compare.

Numbers and names are compared exactly, other words by their stems. Made for English; other languages are compared without
a list of words that do not matter.
"""

from __future__ import annotations

import re
import unicodedata

WORDS_OF_GRAMMAR = """
a about all also am an and any are aren as at be been being both but by can could couldn did didn do does doesn doing don
each either for from further given had hadn has hasn have haven having he her here hers him his i if in into is isn it its
itself just let may me might more most much must my of on only onto or other our ours own per please same shall she should
so some such than that the their them then there these they this those through thus to too until up upon us very was wasn we
were weren will with within would wouldn you your
"""
STOP_WORDS = frozenset(WORDS_OF_GRAMMAR.split())
# Stripped from a word's end as often as one leaves FEWEST_LETTERS: calculate, calculated and calculation become calculat.
SUFFIXES = (
    "ings", "ing", "edly", "ed", "ions", "ion", "ors", "or", "ies", "ied", "es", "ers", "er", "ments", "ment", "ly", "s", "e",
    "y",
)
FEWEST_LETTERS = 3
ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
TENS = ("", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(TENS[2:])})(?:[- ](?P<digit>{'|'.join(ONES[1:10])}))?|(?P<ones>{'|'.join(ONES)}))"
    r"(?:[- ](?P<times>hundred|thousand))?\b",
    re.IGNORECASE,
)
VOWELS = re.compile(r"[aeiouy]")
WORD = re.compile(r"[^\W\d_]{2,}")
THOUSANDS = re.compile(r"(?<=\d)[,'\u2019\u2009\u202f\u00a0](?=\d{3}(?!\d))")
# A minus sign stands before a number and after nothing that could make it a hyphen or a range.
MINUS = re.compile(r"(?:(?<![\w)\].%\u00b1])[-\u2212\u2013]|\b(?:minus|negative)\s+)(?=\d)", re.IGNORECASE)
PLUS_MINUS = re.compile(r"\+\s?/?\s?[-\u2212\u2013](?=\s?\d)")
SUPERSCRIPT = re.compile(r"[\u00b2\u00b3\u00b9\u2070-\u207b]+")
# Chinese and Japanese put no blanks between words: each sign counts as one, and a number may follow directly.
SIGN = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
BORDER = re.compile(rf"(?<={SIGN})(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])(?={SIGN})")
DASHES = re.compile(r"[\u2010-\u2015\u2212]")
# \u2044 is what a fraction such as one half becomes.
FOLDED_SIGNS = str.maketrans({"\u2044": "/", "\u2019": "'", "\u03bc": "u", "\u00ad": None})


def fold_signs(text: str) -> str:
    """One form for each sign: NFKC, plain hyphens, a minus sign directly before its number, no thousands separators,
    +/- as one sign, blanks between Chinese or Japanese signs and what is none."""
    text = SUPERSCRIPT.sub(r"^\g<0>", THOUSANDS.sub("", text))
    text = PLUS_MINUS.sub("\u00b1", unicodedata.normalize("NFKC", text).translate(FOLDED_SIGNS))
    return BORDER.sub(" ", DASHES.sub("-", MINUS.sub("-", text)))


def count_words(text: str) -> int:
    """Words between blanks; of Chinese and Japanese each sign is one."""
    return len(re.findall(rf"{SIGN}|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+", text))


def fold_word(word: str) -> str:
    """A word in lower case without its endings; not a dictionary's stem, but one for a word's usual forms."""
    folded = word.lower()
    for suffix in SUFFIXES:
        stem = folded.removesuffix(suffix)
        if stem != folded and len(stem) >= FEWEST_LETTERS and VOWELS.search(stem) and not folded.endswith("ss"):
            # stopped and stop; but ss, ll and zz stay, as in passed and filled
            doubled = len(stem) > FEWEST_LETTERS and stem[-1] == stem[-2] and stem[-1] not in "lsz"
            return fold_word(stem[:-1] if doubled else stem)
    return folded


def list_content_words(text: str) -> list[str]:
    """The stems of a text's words in their order, without those that say nothing by themselves. `text` has folded signs."""
    return [fold_word(word) for word in WORD.findall(text) if word.lower() not in STOP_WORDS]


def read_number_words(text: str, above: int = -1) -> str:
    """The text with its number words larger than `above` as digits: eighty five, two, three hundred become 85, 2, 300."""

    def read(match: re.Match[str]) -> str:
        tens, digit, ones = ((match[name] or "").lower() for name in ("tens", "digit", "ones"))
        value = 10 * TENS.index(tens) + ONES.index(digit or ones or "zero")
        value *= {"hundred": 100, "thousand": 1000}.get((match["times"] or "").lower(), 1)
        return str(value) if value > above else match[0]

    return NUMBER_WORDS.sub(read, text)


def fold_number(digits: str) -> str:
    """One form for each value: 5.0 and 05 are 5; the sign stays."""
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    whole, _, decimals = digits.partition(".")
    decimals = decimals.rstrip("0")
    return sign + (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")
