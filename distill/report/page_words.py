"""What a reader should see first in an answer: the words that the other answer does not have, and the citations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import groupby
from typing import NamedTuple

from distill.config import PromptSection
from distill.prompts import citation_pattern

# A word with what joins its parts (3.5, 4,096, X-200/7, don't), or all that stands between two words.
TOKEN = re.compile(r"(\w+(?:[.,:/'\u2019-]\w+)*)|(\W+)")
# Words from here on are shown unmarked: comparing takes time that grows with the product of both lengths.
MOST_WORDS = 1_000


class Span(NamedTuple):
    """A piece of an answer. `is_word`: neither a citation nor what stands between words, so that it counts in a comparison.

    `changed`: not in the other answer; `cited`: the source numbers of a citation, else empty.
    """

    text: str
    is_word: bool = False
    changed: bool = False
    cited: tuple[int, ...] = ()


def split_spans(prompt: PromptSection, text: str) -> list[Span]:
    """An answer in words, what stands between them, and whole citations; joined they are the answer again."""
    spans, end = [], 0
    for match in citation_pattern(prompt).finditer(text):
        numbers = tuple(int(number) for number in re.findall(r"\d+", match[1]))
        spans += [*split_words(text[end : match.start()]), Span(match[0], cited=numbers)]
        end = match.end()
    return [*spans, *split_words(text[end:])]


def split_words(text: str) -> list[Span]:
    """A text without citations."""
    return [Span(word or between, bool(word)) for word, between in TOKEN.findall(text)]


def mark_both(prompt: PromptSection, first: str, second: str) -> tuple[list[Span], list[Span]]:
    """Two answers, each with the words marked that the other one does not have at that place; case does not matter."""
    sides = [split_spans(prompt, text) for text in (first, second)]
    words = [[span.text.casefold() for span in side if span.is_word][:MOST_WORDS] for side in sides]
    same: tuple[set[int], set[int]] = (set(), set())
    # In long answers words that come again and again would take most of the time: difflib's shortcut leaves them out.
    for block in SequenceMatcher(None, *words, autojunk=max(map(len, words)) > MOST_WORDS // 2).get_matching_blocks():
        same[0].update(range(block.a, block.a + block.size))
        same[1].update(range(block.b, block.b + block.size))
    first_spans, second_spans = (mark(side, known) for side, known in zip(sides, same))
    return first_spans, second_spans


def mark(spans: Sequence[Span], same: set[int]) -> list[Span]:
    """The spans with every compared word marked that is not among the `same` ones, counted in words."""
    places = [place for place, span in enumerate(spans) if span.is_word][:MOST_WORDS]
    changed = {place for number, place in enumerate(places) if number not in same}
    # What stands between two changed words of a line is marked with them.
    bridges = {
        place + 1 for place in changed
        if place + 2 in changed and not spans[place + 1].cited and "\n" not in spans[place + 1].text
    }
    return join_spans([span._replace(changed=place in changed or place in bridges) for place, span in enumerate(spans)])


def join_spans(spans: Sequence[Span]) -> list[Span]:
    """Neighbours of one kind as one span."""
    runs = groupby(spans, key=lambda span: (span.changed, span.cited))
    return [Span("".join(span.text for span in run), False, changed, cited) for (changed, cited), run in runs]
