"""Differing words are marked, and nothing else; no letter of an answer is lost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import PromptSection
from distill.report.page_words import MOST_WORDS, Span, mark_both, split_spans

PROMPT = PromptSection()
PIECES = ["gain", "is", "3.5", "dB", "[Source 1]", "[Source 2, 9]", ",", ".", "\n", " ", "\u00e9t\u00e9", "x-200/7"]
WORDS = st.lists(st.sampled_from(PIECES))


def changed(spans: list[Span]) -> list[str]:
    return [span.text for span in spans if span.changed]


@pytest.mark.parametrize(
    ("first", "second", "left", "right"),
    [
        ("The gain is 3.5 dB.", "The gain is 4.5 dB.", ["3.5"], ["4.5"]),
        ("The gain is 3.5 dB.", "the Gain is 3.5 dB", [], []),
        ("It is stable.", "It is not stable.", [], ["not"]),
        ("A b c", "A x y c", ["b"], ["x y"]),
        ("one", "two three, four", ["one"], ["two three, four"]),
        ("one\ntwo", "", ["one", "two"], []),
        ("Gain [Source 1].", "Gain [Source 2].", [], []),
        ("4,096 tokens", "4.096 tokens", ["4,096"], ["4.096"]),
        ("", "", [], []),
    ],
)
def test_what_the_other_does_not_have_is_marked(first: str, second: str, left: list[str], right: list[str]) -> None:
    a, b = mark_both(PROMPT, first, second)
    assert (changed(a), changed(b)) == (left, right)


def test_citations_keep_their_numbers() -> None:
    assert [span.cited for span in split_spans(PROMPT, "a [Source 3] b [Sources 1 and 9]") if span.cited] == [(3,), (1, 9)]
    none = PROMPT.model_copy(update={"citation": ""})
    assert not any(span.cited for span in split_spans(none, "a [Source 3]"))


@given(first=WORDS | st.text(), second=WORDS | st.text())
def test_no_letter_is_lost_and_equal_answers_are_unmarked(first: list[str] | str, second: list[str] | str) -> None:
    first, second = "".join(first), "".join(second)
    a, b = mark_both(PROMPT, first, second)
    assert ("".join(span.text for span in a), "".join(span.text for span in b)) == (first, second)
    assert not any(span.changed and (span.cited or not span.text) for span in (*a, *b))
    assert not any(changed(side) for side in mark_both(PROMPT, first, first))


@pytest.mark.parametrize("texts", [("a " * 5000, "b a " * 5000), ("." * 10_000, "x" * 10_000), ("a. " * 4000, "a, " * 4000)])
def test_long_answers_are_compared_in_a_blink(texts: tuple[str, str]) -> None:
    start = time.perf_counter()
    first, _ = mark_both(PROMPT, *texts)
    assert time.perf_counter() - start < 2
    assert sum(len(span.text.split()) for span in first if span.changed) <= MOST_WORDS


def test_words_beyond_the_limit_are_left_unmarked() -> None:
    same = "word " * MOST_WORDS
    first, _ = mark_both(PROMPT, f"{same}late", same)
    assert not changed(first)
