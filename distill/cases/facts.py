"""Does an answer hold a key fact? Compared as words, numbers and signs, so that spelling decides nothing.

"12" is not in "112" nor in "-12"; "5 V" is in "5V" and "180 days" in "a 180-day cycle".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from distill.curation.words import fold_signs, read_number_words

# Facts are looked for among so many words: a model that copies all its sources has every fact, and has answered nothing.
WINDOW_WORDS = 150
PIECE = re.compile(r"(?:(?<![\w)\].%])-)?\d+(?:\.\d+)*|[^\W\d_]+|\u00b1")
TIMES = re.compile(r"(?<=[^\W\d_])[*\u00b7\u22c5](?=[^\W\d_])")  # N*m is Nm
VERSION = re.compile(r"(?<=[^\W\d_])v(?=\d+\.\d)", re.IGNORECASE)  # TLSv1.3 is TLS 1.3
PREFIX_LETTERS = 4


def split_fact(text: str) -> list[str]:
    """The words, numbers and plus-minus signs of a text in one form, in order."""
    folded = TIMES.sub("", VERSION.sub(" ", read_number_words(fold_signs(text)))).replace("%", " percent ")
    return [fold_plural(piece.casefold()) for piece in PIECE.findall(folded)]


def fold_plural(word: str) -> str:
    """A longer word without the s at its end: days and day."""
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word.isalpha() else word


def holds_fact(text: str, fact: str) -> bool:
    """Whether the text has the fact's pieces in a row; its last word may go on, as encrypt does in encrypted."""
    pieces, wanted = split_fact(text), split_fact(fact)
    ends = range(len(wanted), len(pieces) + 1) if wanted else ()
    return any(
        pieces[end - len(wanted) : end - 1] == wanted[:-1] and is_same(pieces[end - 1], wanted[-1]) for end in ends
    )


def is_same(piece: str, wanted: str) -> bool:
    """Whether a piece is the one wanted, or a longer form of a word."""
    return piece == wanted or (wanted.isalpha() and len(wanted) >= PREFIX_LETTERS and piece.startswith(wanted))


def measure_facts(text: str, facts: Sequence[Sequence[str]]) -> float | None:
    """The share of the facts, each a list of alternatives, that stand among the first words of a text; None without facts."""
    early = " ".join(text.split()[:WINDOW_WORDS])
    held = sum(any(holds_fact(early, each) for each in alternatives) for alternatives in facts)
    return held / len(facts) if facts else None
