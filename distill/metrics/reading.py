"""What a passage states, in a form that can be compared: values, names and words.

A value is a number with its unit; 2.4 GHz and 2400 MHz are the same, 5 V and 5 mV are not. A name is a part number, standard,
acronym or identifier (MIL-STD-810H, X100, TDMA, max_size), in any case and however it is joined. A word is the stem of a word
that says something by itself; behind a negation it is another word: "not rated".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

from distill.curation.support import IGNORED, NAMED_SOURCE, NO_VALUE, RUNS
from distill.curation.units import NUMBER_WITH_UNIT, name_unit, scale_unit
from distill.curation.words import STOP_WORDS, fold_number, fold_signs, fold_word, read_number_words

# A count of what the sentence lists itself: "two reasons" need not stand in a source.
LISTED = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten)\s+(?:\w+\s+)?(?:reason|step|way|type|kind|thing|factor|method|part|option|"
    r"source|categor|condition|case|point|aspect|benefit|advantage|difference|purpose|function|key|main)\w*", re.IGNORECASE
)
# 2,000 operating hours
PARTED = re.compile(
    r"(?<=\d) (operating|running|working|flight|flying|continuous|consecutive|calendar|business|full|metric) "
    r"(hours?|days?|minutes?|months?|years?|seconds?|weeks?)(?![^\W_])"
)
# 28VDC and 28 V DC
THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}) (?=\d{3}(?![\d.]))")  # 36 000 km
TORQUE = re.compile(r"(?<=\d)(\s?)N[ .*\u00b7\u22c5-]m(?![^\W_])")  # N m and N.m are Nm
JOINED = re.compile(r"(?<=\d)\s?(V|A|mV|kV|mA)(DC|AC|dc|ac|rms|RMS|pp)(?![^\W_])")
ITEM_NUMBER = re.compile(r"^\s*\(?\d{1,2}[.)]\s+|\(\d{1,2}\)(?=\s+\w)")
CODE_NAME = r"[^\W\d_]\w*_\w+|_\w+"
CLASS_NAME = (
    r"(?i:type|class|grade|phase|pin|port|channel|category|layer|mode|zone|level|annex|appendix|figure|band|group|revision|rev|"
    r"version|part|schedule|bay|slot)\s+[A-Z](?![^\W_])"
)
TOKEN = re.compile(
    rf"(?P<name>{CLASS_NAME}|{CODE_NAME}|[^\W_]+(?:[-._/:][^\W_]+)*)|(?P<border>[,;]|\s-\s)"
)
# A number in one of these is no value; sub-6 GHz and mid-2024 are none.
JOINED_NAME = re.compile(r"(?<![^\W_])(?![a-z]{3,}-)(?=[-._/\w]*\d)[^\W\d_][^\W_]*(?:[-._/][^\W_]+)+")
ACRONYM = re.compile(r"[A-Z][A-Z&]*[A-Z]s?")
VERDICT = re.compile(r"\W*(yes|no)\b(?=\W*$|[,.;:!]|\s+[-\u2013])", re.IGNORECASE)  # at a passage's beginning
# Where a sentence puts numbers together, it does not tell which words stand with which number.
COMBINES = re.compile(r"[=\u2248]|\b(?:respectively|together|combined|total|sum|altogether|both|each)\b", re.IGNORECASE)
NEGATIONS = frozenset(("not", "no", "never", "without", "cannot", "nor", "neither"))
CONTRACTED = ((re.compile(r"\bcan(?:'t|not)\b", re.I), "can not"), (re.compile(r"\bwon't\b", re.I), "will not"),
              (re.compile(r"n't\b", re.I), " not"), (re.compile(r"\bnot only\b", re.I), ""))
CONJUNCTIONS = frozenset(("and", "but", "while", "whereas", "or"))
# These stand before any value: they say nothing of their own; those below say nothing of which value it is.
EMPTY_WORDS = """
between every per about approximately roughly around nearly almost least there exactly only
"""
EMPTY = IGNORED | {fold_word(word) for word in EMPTY_WORDS.split()}
LOOSE = frozenset(map(fold_word, ("after", "before", "above", "below", "under", "over", "within", "during", "since")))
BETWEEN = re.compile(r"\s*(?:-|to|and|or|through|\u00b1|\.\.\.?|\u2026)\s*")
WEIGHTS = {"word": 1.0, "name": 2.0, "value": 4.0}  # how much it tells that something stands with a value
CLEARLY = 1.5  # times as much
NEIGHBOURS = 3  # values on each side

Token = tuple[str, str]  # the text; "value", "name", "word" or "border"


@dataclass(frozen=True)
class Value:
    """A number as `fold_number` writes it, and the name of its unit, "" for none."""

    number: str
    unit: str

    @cached_property
    def scaled(self) -> tuple[str, Fraction]:
        """In the unit without prefix: 2400 MHz and 2.4 GHz are equal."""
        base, factor = scale_unit(self.unit)
        return base, Fraction(self.number) * factor

    def equals(self, other: Value) -> float:
        """1 for the same value, 0.5 for the same number where one has no unit, else 0."""
        if self.scaled == other.scaled:
            return 1.0
        return 0.5 if self.number == other.number and not (self.unit and other.unit) else 0.0

    def compares(self, other: Value) -> bool:
        """Whether `other` measures the same kind of thing; without a unit of its own a value may be anything."""
        return not self.unit or (bool(other.unit) and self.scaled[0] == other.scaled[0])


@dataclass(frozen=True)
class Occurrence:
    """A value where it stands; `near` is what stands with it, with its weight."""

    value: Value
    near: dict[str, float]


@dataclass(frozen=True)
class Facts:
    """What a passage states. `text` is the passage with folded signs."""

    text: str
    values: tuple[Value, ...]
    names: frozenset[str]
    words: frozenset[str]
    occurrences: tuple[Occurrence, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is stated."""
        return not (self.values or self.names or self.words)

    def without(self, other: Facts) -> Facts:
        """What is not in `other`, too."""
        values = tuple(value for value in self.values if not any(value.equals(each) for each in other.values))
        kept = tuple(each for each in self.occurrences if each.value in values)
        return Facts(self.text, values, self.names - other.names, self.words - other.words, kept)


def fold(text: str) -> str:
    """One form of signs, numbers and contractions; numbers of list items and of sources in prose are gone."""
    text = TORQUE.sub(r"\1Nm", text)
    text = JOINED.sub(r" \1 \2", fold_signs(THOUSANDS.sub(r"\1", NAMED_SOURCE.sub(" ", ITEM_NUMBER.sub(" ", text)))))
    text = PARTED.sub(r" \2 \1", text)
    for pattern, replacement in CONTRACTED:
        text = pattern.sub(replacement, text)
    return read_number_words(LISTED.sub(lambda match: match[0].split(maxsplit=1)[1], text), above=1)


@lru_cache(maxsize=50_000)
def read_facts(passage: str) -> Facts:
    """What one passage states."""
    text = fold(passage)
    names = [match.span() for match in JOINED_NAME.finditer(text)]
    matches = [
        match for match in NUMBER_WITH_UNIT.finditer(text)
        if not any(start <= match.start("number") < end for start, end in names)
    ]
    tokens = list(list_tokens(text, matches))
    values = [read_value(text, matches, index) for index in range(len(matches))]
    words, named = (frozenset(token for token, kind in tokens if kind == wanted) for wanted in ("word", "name"))
    verdict = VERDICT.match(text)
    words |= {verdict[1].lower()} if verdict else set()
    occurrences = tuple(
        Occurrence(value, near) for value, near in zip(values, list_neighbours(tokens, values))
    )
    return Facts(text, tuple(dict.fromkeys(values)), named, words, occurrences)


def read_value(text: str, matches: list[re.Match[str]], index: int) -> Value:
    """A number with its unit; in 5-10 V and 5 +/- 0.1 V the first one has the second one's."""
    match = matches[index]
    unit = name_unit(match["unit"])
    following = matches[index + 1] if not unit and index + 1 < len(matches) else None
    if following and BETWEEN.fullmatch(text[match.end() : following.start()]):
        unit = name_unit(following["unit"])
    return Value(fold_number(match["number"]), unit)


def list_tokens(text: str, matches: list[re.Match[str]]) -> Iterable[Token]:
    """The tokens of a folded text in order as (token, "value" | "name" | "word" | "border")."""
    verdict = VERDICT.match(text)
    start, negated = verdict.end() if verdict else 0, False
    for match in [*matches, None]:
        for token in TOKEN.finditer(text, start, match.start() if match else len(text)):
            for piece, kind in classify(token):
                if kind == "negation":
                    negated = True
                elif kind == "word":
                    yield f"not {piece}" if negated else piece, kind
                    negated = False
                elif kind != "none":
                    yield piece, kind
        if match:
            yield match[0], "value"
            start = match.end()


def classify(token: re.Match[str]) -> list[Token]:
    """The kinds of one token; a joined word such as ground-wave is two words."""
    if token["border"]:
        return [("", "border")]
    text = token["name"]
    if re.search(r"\d|_", text) or " " in text or ACRONYM.fullmatch(text):
        plain = text.lower() in STOP_WORDS | NEGATIONS
        if not plain and not NO_VALUE.fullmatch(text):
            return [(fold_name(text), "name")]
    return [classify_word(word) for word in re.findall(r"[^\W\d_]{2,}", text)]


def classify_word(word: str) -> Token:
    """A word's stem and kind."""
    lower = word.lower()
    if lower in NEGATIONS:
        return "", "negation"
    if lower in CONJUNCTIONS:
        return "", "border"
    stem = fold_word(lower)
    return stem, "none" if lower in STOP_WORDS or stem in EMPTY else "word"


def fold_name(name: str) -> str:
    """One form for each name: X-100 and x100 are x-100, ACLs are acl."""
    plain = name[:-1] if re.fullmatch(r"[A-Z]{2,}s", name) else name
    return "-".join(RUNS.findall(plain)).lower()


def list_neighbours(tokens: Sequence[Token], values: Sequence[Value]) -> list[dict[str, float]]:
    """What stands with each value in its part of the passage, with its weight: words, names, the other values.

    A comma, a semicolon or a conjunction ends a part; one without a value belongs to the next part. Where nothing stands before
    the value, as in "5 W in normal mode and 20 W in boost mode", what stands before the first value of the part before does.
    """
    parts = cut_parts(tokens)
    found: list[dict[str, float]] = []
    head: list[Token] = []
    for part in parts:
        places = [at for at, (_, kind) in enumerate(part) if kind == "value"]
        own = [token for token in part[: places[0]] if is_telling(token)] if places else []
        head = own or head
        here = values[len(found) : len(found) + len(places)]
        around = {token: WEIGHTS[kind] for token, kind in filter(is_telling, [*head, *part])}
        for at in range(len(places)):
            others = [*here[max(0, at - NEIGHBOURS) : at], *here[at + 1 : at + 1 + NEIGHBOURS]]
            found.append(around | {f"={value.scaled}": WEIGHTS["value"] for value in others})
    return found


def is_telling(token: Token) -> bool:
    """Whether a token tells which value stands with it."""
    return token[1] == "name" or (token[1] == "word" and token[0] not in LOOSE)


def cut_parts(tokens: Sequence[Token]) -> list[list[Token]]:
    """The tokens between borders; each part but the last has a value, and the last one only lacks it where none has any."""
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token[1] == "border" and any(kind == "value" for _, kind in parts[-1]):
            parts.append([])
        parts[-1].append(token)
    if len(parts) > 1 and not any(kind == "value" for _, kind in parts[-1]):
        parts[-2:] = [parts[-2] + parts[-1]]
    return parts


def contradicts(facts: Facts, other: Facts) -> bool:
    """Whether a word is negated in one and, wherever it stands, not negated in the other; or one says yes, the other no."""
    if {"yes", "no"} <= (facts.words ^ other.words):
        return True
    return any(negate(word) in other.words for word in facts.words - other.words)


def negate(word: str) -> str:
    """From "not rated" to "rated" and back."""
    return word.removeprefix("not ") if word.startswith("not ") else f"not {word}"


def is_misplaced(occurrence: Occurrence, places: Iterable[Occurrence]) -> bool:
    """Whether what stands with a value stands, in `places`, with another value of its kind: two numbers were swapped.

    That is so where, whichever place of the value is taken, another value has clearly more of what tells the two apart. False
    where the value is in none of `places`.
    """
    rivals = [place for place in places if occurrence.value.compares(place.value)]
    same = [place for place in rivals if occurrence.value.equals(place.value)]
    others = [place for place in rivals if not occurrence.value.equals(place.value)]
    return bool(same) and all(any(fits_better(occurrence, other, place) for other in others) for place in same)


def fits_better(occurrence: Occurrence, other: Occurrence, place: Occurrence) -> bool:
    """Whether of what stands with a value, the part that is with one of both places alone is rather with `other`."""
    rival = sum(weight for token, weight in occurrence.near.items() if token in other.near and token not in place.near)
    own = sum(weight for token, weight in occurrence.near.items() if token in place.near and token not in other.near)
    return rival > CLEARLY * own
