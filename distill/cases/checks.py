"""What makes an answer to a general question right: one function for each check that general.yaml names.

Where a check looks for a word or number within an answer, it leaves out what the answer denies: "Lyon, not Paris" does not name
Paris. Where a form is asked for, the whole answer is compared, but for what may stand around it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distill.curation.words import fold_signs, read_number_words

FIRST_WORDS = 40  # a right answer comes early; what stands later may be anything
WORD = re.compile(r"\w+")
MARKS = re.compile(r"[*`_\"'$\u201c\u201d]")
QUOTES = "\"'`\u201c\u201d\u2018\u2019 \t\n"
EMPHASIS = "*_"
FENCE = re.compile(r"```\w*\s*\n(.*?)\n?\s*```", re.DOTALL)
BRACKETS = re.compile(r"\([^()]*\)")

# Parts of a sentence: what is denied in one says nothing of the next.
PART_END = re.compile(r"([,;!?\n]|[.:](?!\d)|\bbut\b)", re.IGNORECASE)
HEDGED = r"(?!.*\b(?:until|before|only)\b)"  # "did not end until 1945" and "not only" deny nothing that follows
DENIED = re.compile(
    rf"\b(?:is|are|was|were|do|does|did|has|have|can|could|will|would|should)(?:n't|\s+not)\b{HEDGED}"
    r"|\b(?:is|are|was|were) (?:wrong|incorrect|false)\b|\bcannot\b",
    re.IGNORECASE,
)
LEFT_OUT = re.compile(rf"\b(?:not|never|rather than|instead of|unlike|nor)\b{HEDGED}.*", re.IGNORECASE)

NUMBER = re.compile(r"(?<![\w.^])-?\d+(?:\.\d+)?(?!\d)")
RESULT = re.compile(r"=[\s*$]*(?:\\boxed\{)?(-?\d+(?:\.\d+)?)(?!\.?\d)(?!\s*[-+*/x\u00d7]\s*\d)")
SO = re.compile(r"\b(?:so|thus|therefore|hence|the (?:final )?answer(?: is)?|in total)\b", re.IGNORECASE)
GROUPS = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?![\d.]*\d)")
EXPONENT = re.compile(r"\s?\^\{?-?\d+\}?")
ROUND = re.compile(r"\b(\d*[1-9]0{2,3})(?: and)?[ -](\d{1,3})\b")
YEAR = re.compile(r"\b([1-9]\d) ([1-9]\d)\b")
POINT = re.compile(r"\b(\d+) point ((?:\d ?)+)\b", re.IGNORECASE)
A_HUNDRED = re.compile(r"\ba (?=hundred|thousand)", re.IGNORECASE)


@dataclass(frozen=True)
class Words:
    """One of the phrases `right` is wanted; one of `wrong` spoils an answer."""

    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Number:
    """The value that is wanted, and those that may stand beside it: what the question says, and other ways to say it."""

    value: float
    beside: frozenset[float] = frozenset()


# -----------------------------------------------------------------------------
# Words


def says(answer: str, expected: Words) -> bool:
    """Whether a right phrase stands among the first words, and no wrong one; case and punctuation do not matter."""
    words = list_words(" ".join(drop_denied(fold_signs(answer), expected).split()[:FIRST_WORDS]))
    return any(holds(words, phrase) for phrase in expected.right) and not any(holds(words, phrase) for phrase in expected.wrong)


def gives_word(answer: str, expected: Words) -> bool:
    """Whether an answer is a right word alone, or gives it as one does: first, behind is, in quotation marks, or last."""
    text = " ".join(drop_denied(fold_signs(answer), expected).split(" ")[:FIRST_WORDS]).casefold()
    word = f"(?:{'|'.join(map(re.escape, expected.right))})"
    article = r"(?:(?:an?|the|to|called|word)\s+)*"
    either = rf"{article}{word}(?:\s+or\s+{article}{word})*"
    behind = r"(?=\s*(?:[.,;:!?()\n-]|$|(?:is|as|means|because|since|from)\b))"
    plain = MARKS.sub("", text).strip()
    return bool(
        re.match(rf"{either}{behind}", plain)
        or re.search(rf"(?:\b(?:is|are|was|becomes?|than)|:)\s+{either}{behind}", plain)
        or re.search(rf"(?<!or )(?<!/)\b{word}\W*?(?:[.!?\n]|$)", plain)
        or re.search(rf"[\"'*`\u201c\u2018]{word}[\"'*`\u201d\u2019]", text)
    )


def list_words(text: str) -> list[str]:
    """The words of a text in lower case, without emphasis."""
    return [word.strip("_") for word in WORD.findall(text.casefold()) if word.strip("_")]


def holds(words: list[str], phrase: str) -> bool:
    """Whether the words have the phrase's in a row."""
    wanted = list_words(phrase)
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))


def drop_denied(text: str, expected: Words | None = None) -> str:
    """A text without what it denies; unchanged where a right answer itself denies something."""
    if expected and any(DENIED.search(phrase) for phrase in expected.right):
        return text
    return "".join("" if DENIED.search(part) else LEFT_OUT.sub("", part) for part in PART_END.split(text))


# -----------------------------------------------------------------------------
# Numbers


def has_number(answer: str, expected: Number) -> bool:
    """Whether the answer's number, as find_number sees it, has this value."""
    found = find_number(fold_signs(answer).strip(), expected.beside)
    return found is not None and abs(found - expected.value) < 1e-9


def find_number(text: str, beside: frozenset[float] = frozenset()) -> float | None:
    """The number that an answer gives, `beside` left out where there is another; None without one. `text` has folded signs.

    The only one of its first line; else, behind the last "so" where there is one, the last after an equals sign, or the last.
    What is denied, in brackets, or an exponent is no answer where there is another. Number words count without digits.
    """
    text = read_digits(drop_denied(text))
    bare = BRACKETS.sub(" ", text)
    text = EXPONENT.sub("", bare if NUMBER.search(bare) else text)
    first = list_numbers(text.split("\n")[0], beside)
    if len(set(first)) == 1:
        return first[0]
    tail = SO.split(text)[-1]
    tail = tail if list_numbers(tail, beside) else text
    results = [float(number) for number in RESULT.findall(tail) if float(number) not in beside]
    every = results or list_numbers(tail, beside) or list_numbers(text)
    return every[-1] if every else None


def list_numbers(text: str, beside: frozenset[float] = frozenset()) -> list[float]:
    """The numbers of a text in their order, without those of `beside`."""
    return [number for number in map(float, NUMBER.findall(text)) if number not in beside]


def read_digits(text: str) -> str:
    """Each number as one piece of digits: 2 400 is 2400 and, in a text without digits, one hundred thirty-two is 132."""
    if NUMBER.search(text):
        return GROUPS.sub(lambda match: match[0].replace(" ", ""), text)
    text = read_number_words(A_HUNDRED.sub("one ", text))
    text = POINT.sub(lambda match: f"{match[1]}.{match[2].replace(' ', '')} ", text)
    text = ROUND.sub(add_up, ROUND.sub(add_up, text))  # twice: two thousand four hundred thirty has three parts
    return YEAR.sub(r"\1\2", text)


def add_up(match: re.Match[str]) -> str:
    """One hundred and 32 as one number; a larger one behind a smaller is another."""
    high, low = int(match[1]), int(match[2])
    return str(high + low) if low < (1000 if high % 1000 == 0 else 100) else match[0]


# -----------------------------------------------------------------------------
# Forms


def is_text(answer: str, expected: str) -> bool:
    """Whether the answer is this text, but for what may stand around it."""
    return expected in list_forms(answer, ".")


def matches(answer: str, expected: str) -> bool:
    """Whether the whole answer matches, with or without what may stand around it."""
    return any(re.fullmatch(expected, text) for text in list_forms(answer))


def is_json(answer: str, expected: Any) -> bool:
    """Whether the answer is JSON of this value, each part of the same type."""
    try:
        return json.dumps(json.loads(unfence(answer)), sort_keys=True) == json.dumps(expected, sort_keys=True)
    except (ValueError, RecursionError):
        return False


def list_forms(answer: str, ends: str = "") -> list[str]:
    """The answer as it stands; without a code fence; without quotation marks and `ends` too; and without emphasis too."""
    inner = unfence(answer)
    return [answer.strip(), inner, inner.strip(ends + QUOTES), inner.strip(ends + QUOTES + EMPHASIS)]


def unfence(answer: str) -> str:
    """What stands in the code fence, where the whole answer is one."""
    found = FENCE.fullmatch(answer.strip())
    return found[1] if found else answer.strip()


CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "says": says, "word": gives_word, "number": has_number, "exact": is_text, "pattern": matches, "json": is_json,
}
