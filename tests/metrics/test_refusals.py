"""Refusals are told from answers, in the prompt's words and in others, whatever stands around them."""

from __future__ import annotations

import pytest

from distill.config import PromptSection
from distill.metrics.refusals import count_refusals, refuses
from distill.metrics.table import TABLE, score_case
from tests.metrics.worlds import REFERENCE, REFUSAL, make_case, score

REFUSES = [
    REFUSAL, REFUSAL.upper(), f"  {REFUSAL.rstrip('.')}\n", f"Unfortunately, {REFUSAL.lower()}",
    f"Thank you for asking. {REFUSAL}",
    f"Conclusion\n{REFUSAL}", f"{REFUSAL} Please ask the manufacturer.", f"{REFUSAL} [Source 1]",
    "The provided documents do not mention the gain.", "The sources don't contain this. Please ask somebody else about it.",
    "I'm sorry, but the context does not specify the gain.", "I cannot find this in the documents.",
]
ANSWERS = [
    "12.5 dBi.", "The antenna gain is 12.5 dBi. The documents do not mention its polarisation.", "",
    f"If the sources do not hold the answer, reply: {REFUSAL}", "The documents are stored in the cabinet.",
    "The relay does not contain mercury.",
]


@pytest.mark.parametrize("text", REFUSES)
def test_refuses(text: str) -> None:
    assert refuses(make_case(text)) and score("wrong_refusal", text) == 1.0 and score("refusal_right", text) == 0.0
    assert score("right_refusal", text) is None


@pytest.mark.parametrize("text", ANSWERS)
def test_answers(text: str) -> None:
    assert not refuses(make_case(text)) and score("wrong_refusal", text) == 0.0 and score("refusal_right", text) == 1.0


@pytest.mark.parametrize(("text", "expected"), [
    (REFUSAL, 1.0), ("The documents do not mention the gain.", 1.0), ("The gain is 12.5 dBi.", 0.0),
    ("The documents do not mention the gain. It is probably 12 dBi for antennas of this size.", 0.0),
])
def test_where_the_reference_refuses(text: str, expected: float) -> None:
    assert score("right_refusal", text, REFUSAL) == score("refusal_right", text, REFUSAL) == expected
    assert score("wrong_refusal", text, REFUSAL) is None


@pytest.mark.parametrize("text", [
    "The price of the X100 is not specified in the provided documents.", "None of the provided sources state the price.",
    "The documents provided do not contain information about the price.", "The price is not mentioned in the sources.",
    "Based on the provided sources, the price is not stated.", "The sources do not say what the X100 costs.",
    f"{REFUSAL} Please consult the manufacturer.", f"{REFUSAL} The sources only describe the antenna.",
])
def test_a_right_refusal_in_any_words(text: str) -> None:
    assert score("refusal_right", text, REFUSAL) == score("correctness", text, REFUSAL) == 1.0


@pytest.mark.parametrize("text", [
    f"{REFUSAL}\n\nThe price of the X100 is 500 USD, and shipping takes two weeks [Source 1].",
    f"{REFUSAL} The X100 is sold by every dealer in the region.",
    "The documents do not mention the price. It is 500 USD.", "The documents do not mention the price, which is 500 USD.",
    "I cannot determine the exact price, which is about 500 USD.", "It is 500 USD. The documents do not mention the price.",
])
def test_a_refusal_beside_an_invention_is_none_where_the_reference_refuses(text: str) -> None:
    assert score("refusal_right", text, REFUSAL) == score("correctness", text, REFUSAL) == 0.0


@pytest.mark.parametrize(("text", "expected"), [
    ("Thank you. Not in my papers.", True), ("Sorry, that is not in my papers.", True), ("Not in my papers, friend.", True),
    ("Who finds nothing is told to write not in my papers and no more.", False), ("Rule: not in my papers.", False),
])
def test_the_prompts_own_sentence_with_a_few_words_around_it(text: str, expected: bool) -> None:
    assert refuses(make_case(text, prompt=PromptSection(refusal="Not in my papers."))) is expected


def test_nothing_is_a_refusal_where_none_is_configured() -> None:
    prompt = PromptSection(refusal="")
    names = ("refusal_right", "right_refusal", "wrong_refusal")
    assert {score(name, REFUSAL, prompt=prompt) for name in names} == {None}


def test_counts_refusals_both_ways() -> None:
    rows = [("12.5 dBi", REFERENCE), (REFUSAL, REFERENCE), (REFUSAL, REFUSAL), ("9 dBi", REFUSAL)]
    scores = [score_case(make_case(text, reference)) for text, reference in rows]
    assert count_refusals([*scores, dict.fromkeys(TABLE)]) == {
        "right_refusals": 1, "wrong_refusals": 1, "right_answers": 1, "missed_refusals": 1
    }
