"""Which questions are nearly the same: MinHash finds candidates quickly, and the exact figure decides.

A question is the set of its shingles: the stems of its content words and of each two neighbours among them. Question words
(what, why, how) are content words. Questions that differ in a number, a name with a digit, a Roman numeral, a single capital
letter, an abbreviation (TCP, UDP), or a word that has an opposite (maximum, uplink, increases) are never taken for the same,
however alike they are otherwise.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from distill.curation.words import STOP_WORDS, fold_number, fold_signs, fold_word

T = TypeVar("T", str, bytes)
TOKEN = re.compile(r"-?\d+(?:\.\d+)*(?![^\W_])|[^\W_]+(?:[-._/][^\W_]+)*[+#]*")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
ROMAN = re.compile(r"[IVX]{2,}")
# One of these more or less makes another question, in any of its forms.
TELLING_WORDS = """
no not never without except max maximum min minimum before after above below over under first last least receive transmit
increase decrease enable disable allowed forbidden uplink downlink input output install remove open close start stop upper lower
high low rising falling left right internal external inner outer front rear north south east west horizontal vertical positive
negative inbound outbound upload download upstream downstream primary secondary series parallel active passive analog digital
advantage disadvantage encrypt decrypt encode decode client server read write connect disconnect forward reverse
"""
TELLING = frozenset(fold_word(word) for word in TELLING_WORDS.split())
LABEL = re.compile(r"(?:^|\n)[ \t*_#]*(?:user )?(?:question|query)[ \t*_]*:[ \t*_]*\n?([^\n]*\S[^\n]*)", re.IGNORECASE)
LONGER = 2.0
PERMUTATIONS = 256
SEED = 1
MISSED = 0.001  # chance that a pair exactly at the threshold is no candidate


@dataclass(frozen=True)
class Shingles:
    """A text as `words` to compare, `names`, which must be equal before they are, and the stems of its `abbreviations`.

    Those must stand in the other text, too, but there in any case.
    """

    names: frozenset[str]
    words: frozenset[str]
    abbreviations: frozenset[str] = frozenset()

    def encode(self) -> list[bytes]:
        """The elements of its MinHash: texts with other names share none of them."""
        key = " ".join(sorted(self.names))
        return [f"{key}|{word}".encode() for word in sorted(self.words)]


def make_shingles(text: str) -> Shingles:
    """See the head of this module. A text without content words is compared by all its words, or else as it is."""
    tokens = TOKEN.findall(fold_signs(text))
    names = frozenset(fold_name(token) for place, token in enumerate(tokens) if is_name(token, place, tokens))
    content = [fold_token(token) for token in tokens if token.lower() not in STOP_WORDS] or [token.lower() for token in tokens]
    content = content or [text.strip()]
    shouted = all(token.isupper() for token in tokens)
    abbreviations = frozenset(fold_token(token) for token in tokens if not shouted and is_abbreviation(token))
    return Shingles(names, frozenset([*content, *map(" ".join, pairwise(content))]), abbreviations)


def is_name(token: str, place: int, tokens: Sequence[str]) -> bool:
    """Whether a token tells one question from another by itself."""
    if any(character.isdigit() for character in token) or fold_word(token) in TELLING or ROMAN.fullmatch(token):
        return True
    letter = token.rstrip("+#")
    article = token == "I" or (token == "A" and (place == 0 or all(other.isupper() for other in tokens)))
    return len(letter) == 1 and letter.isupper() and not article


def is_abbreviation(token: str) -> bool:
    """Two capital letters or more, with or without the s of a plural: TCP, PDFs."""
    letters = token.removesuffix("s")
    return len(letters) >= 2 and letters.isalpha() and letters.isupper() and token.lower() not in STOP_WORDS


def fold_name(token: str) -> str:
    """X-100 and x100 are one name, 5.0 and 5 one number, increases and increased one word."""
    if fold_word(token) in TELLING:
        return fold_word(token)
    if NUMBER.fullmatch(token):
        return fold_number(token)
    return token.lower() if token[0] == "-" else re.sub(r"[-_/]", "", token.lower())


def fold_token(token: str) -> str:
    """A name as names are compared, another word as its stem."""
    if any(character.isdigit() for character in token):
        return fold_name(token)
    return fold_word(token.removesuffix("s") if is_abbreviation(token) else token)


def measure_likeness(first: Shingles, second: Shingles) -> float:
    """Jaccard: shared shingles over all of them, 0 to 1; 0 where the names differ."""
    if first.names != second.names or not (first.abbreviations <= second.words and second.abbreviations <= first.words):
        return 0.0
    return len(first.words & second.words) / len(first.words | second.words)


# -----------------------------------------------------------------------------
# Among the texts of one list


def find_near_duplicates(texts: Sequence[str], threshold: float) -> list[int]:
    """For each text the index of the earlier kept text that it repeats, or -1: a likeness (0 to 1) of at least `threshold`.

    Of several, the most alike, then the first. A text that repeats another is not kept, so nothing repeats it.
    """
    shingles = [make_shingles(text) for text in texts]
    kept = Candidates(threshold)
    found = [-1] * len(texts)
    for number, minhash in make_minhashes(shingles, threshold):
        alike = [(-measure_likeness(shingles[number], shingles[other]), other) for other in kept.find(minhash)]
        likeness, other = min(alike, default=(0.0, -1))
        if alike and -likeness >= threshold:
            found[number] = other
        else:
            kept.add(number, minhash)
    return found


def group_similar(texts: Sequence[str], threshold: float) -> list[int]:
    """A group number for each text: the index of the group's first text. Whatever is alike, directly or not, is a group."""
    shingles = [make_shingles(text) for text in texts]
    groups = Groups(len(texts))
    seen = Candidates(threshold)
    first: dict[Shingles, int] = {}
    for number, minhash in make_minhashes(shingles, threshold):
        each = shingles[number]
        if first.setdefault(each, number) != number:
            groups.join(first[each], number)
            continue
        for other in seen.find(minhash):
            if groups.find(other) != groups.find(number) and measure_likeness(each, shingles[other]) >= threshold:
                groups.join(other, number)
        seen.add(number, minhash)
    return [groups.find(number) for number in range(len(texts))]


class Groups:
    """Which of the numbers 0 to n - 1 belong together (union-find); a group is known by its smallest number."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def find(self, number: int) -> int:
        """The smallest number of a number's group."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def join(self, first: int, second: int) -> None:
        """Make two groups one."""
        low, high = sorted((self.find(first), self.find(second)))
        self._parents[high] = low


class Candidates:
    """Texts that may be alike, by locality-sensitive hashing over MinHashes; a pair at the threshold is missed by MISSED."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=choose_bands(threshold))

    def add(self, number: int, minhash: object) -> None:
        """Let later texts find this one."""
        self._lsh.insert(number, minhash, check_duplication=False)

    def find(self, minhash: object) -> list[int]:
        """The numbers of earlier texts that may be alike, ascending."""
        return sorted(self._lsh.query(minhash))


def choose_bands(threshold: float) -> tuple[int, int]:
    """The longest bands, and how many, with which a pair at the threshold t is missed with a chance of at most MISSED.

    A pair is missed when none of b bands of r rows agrees: (1 - t^r)^b.
    """
    for rows in range(PERMUTATIONS // 2, 1, -1):
        bands = PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= MISSED:
            return bands, rows
    return PERMUTATIONS, 1


def make_minhashes(shingles: Sequence[Shingles], threshold: float) -> Iterator[tuple[int, object]]:
    """The number and MinHash of each text that may be alike to another one, the same on every machine.

    Set aside first is each text whose rarest shingles are no other text's rarest (see list_rare): many questions of one form,
    each about another thing, would otherwise all be candidates of one another.
    """
    from datasketch import MinHash

    elements = [each.encode() for each in shingles]
    rare = list_rare(elements, threshold)
    frequencies = Counter(element for each in rare for element in each)
    numbers = [number for number, each in enumerate(rare) if any(frequencies[element] > 1 for element in each)]
    yield from zip(numbers, MinHash.generator((elements[number] for number in numbers), num_perm=PERMUTATIONS, seed=SEED))


def list_rare(sets: Sequence[Collection[T]], share: float) -> list[list[T]]:
    """Of each set the rarest elements, so many that whoever holds `share` of it holds one of them.

    Of n elements at least k = ceil(share x n) are held then, so that not all of any n - k + 1 can be missing. Two sets whose
    Jaccard is `share` hold `share` of one another, and the rarest of what they share is among the rarest of both.
    """
    frequencies = Counter(element for each in sets for element in each)
    rare = []
    for each in sets:
        needed = max(1, math.ceil(share * len(each) - 1e-9))
        rare.append(sorted(each, key=lambda element: (frequencies[element], element))[: len(each) - needed + 1])
    return rare


# -----------------------------------------------------------------------------
# Between two lists


def find_overlaps(texts: Sequence[str], others: Sequence[str], share: float) -> list[int]:
    """For each text the index of one of `others` that it overlaps with, or -1; of several the one it holds most of.

    It overlaps when it holds at least `share` (0 to 1) of the other's shingles and all of its names, and is not a question of
    about that length (at most LONGER times as many shingles) with names of its own. So a long prompt that holds a question
    overlaps with it, while two questions about two things do not. Of others that are whole prompts, the question counts.
    """
    wanted = [make_shingles(find_question(other)) for other in others]
    places: dict[str, list[int]] = {}
    for number, rare in enumerate(list_rare([each.words for each in wanted], share)):
        for word in rare:
            places.setdefault(word, []).append(number)
    found = []
    for text in texts:
        each = make_shingles(text)
        candidates = sorted({number for word in each.words for number in places.get(word, ())})
        overlaps = [(-measure_overlap(each, wanted[number]), number) for number in candidates]
        best = min(overlaps, default=(0.0, -1))
        found.append(best[1] if overlaps and -best[0] >= share else -1)
    return found


def measure_overlap(text: Shingles, other: Shingles) -> float:
    """The share of the other's shingles that the text holds, 0 to 1; 0 where their names tell them apart."""
    if not other.names <= text.names or not other.abbreviations <= text.words:
        return 0.0
    more = text.names != other.names or not text.abbreviations <= other.words
    if more and len(text.words) <= LONGER * len(other.words):
        return 0.0
    return len(text.words & other.words) / len(other.words)


def find_question(text: str) -> str:
    """What a prompt asks: the line of its last label such as "Question:", else its last line with a question mark.

    A text of one line, or without either, is taken whole.
    """
    labels = LABEL.findall(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    asked = labels or [line for line in lines if line.endswith("?")]
    return asked[-1].strip() if asked and len(lines) > 1 else text
