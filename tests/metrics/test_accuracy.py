"""Scores against the reference answer: hand-made answers from the best to the worst, and exact values."""

from __future__ import annotations

from itertools import pairwise

import pytest

from distill.cases.case_set import Source
from tests.metrics.worlds import QUESTION, REFERENCE, REFUSAL, score, show

MODES = Source("x100.pdf", "The X100 transmits 5 W in normal mode and 20 W in boost mode. Boost mode ends after 30 seconds.")
CACHE = Source("cache.md", "The cache is cleared at night because stale entries would otherwise be served to readers.")
CLASS_B = Source("safety.md", "The X100 is not rated for Class B areas. Class A areas need a permit.")
# Each: question, reference, source, answers from the best to the worst.
ORDERED = [
    (QUESTION, REFERENCE, None, [
        "The gain is 12.5 dBi at 2400 MHz and falls by 3 dB at the band edges.",
        "The antenna gain is 12.5 dBi at 2.4 GHz.",
        "The antenna gain is 11.5 dBi at 2.4 GHz.",
        "The antenna gain is 11.5 dBi at 5.8 GHz.",
    ]),
    ("How much power does the X100 send?", "It transmits 5 W in normal mode and 20 W in boost mode.", MODES, [
        "5 W in normal mode, 20 W in boost mode.", "In normal mode it transmits 5 W.", "In normal mode it transmits 6 W.",
        "It is a radio.",
    ]),
    ("How much power does the X100 send?", "It transmits 5 W in normal mode and 20 W in boost mode.", MODES, [
        "It sends 5 W in normal and 20 W in boost mode.", "It sends 20 W in normal mode and 5 W in boost mode.",
    ]),
    ("Why is the cache cleared?", "Stale entries would be served to readers otherwise [Source 1].", CACHE, [
        "Because stale entries would be served to readers.", "Stale entries are the reason.", "To save disk space.",
    ]),
    ("May the X100 be used in Class B areas?", "No, it is not rated for Class B areas.", CLASS_B, [
        "No, the X100 is not rated for them.", "No.", "Yes, the X100 is rated for Class B areas.",
    ]),
    ("Which standard applies?", "MIL-STD-810H applies, and IP67.", None, [
        "MIL-STD-810H and IP67.", "MIL-STD-810H applies.", "MIL-STD-461G applies.",
    ]),
]


@pytest.mark.parametrize("metric", ["correctness", "completeness"])
@pytest.mark.parametrize(("question", "reference", "source", "answers"), ORDERED)
def test_orders_answers(metric: str, question: str, reference: str, source: Source | None, answers: list[str]) -> None:
    scores = show(answers, reference, question, (source,) if source else (), metric=metric)
    assert all(better > worse for better, worse in pairwise(scores)), scores
    assert scores[0] > 0.7


NUMBERS = [
    ("12.5 dBi at 2.4 GHz, 3 dB less at the edges of the band.", "12.5 dBi at 2.4 GHz.", "12.5 at 2.4 GHz.", "2.4 GHz.",
     "11 dBi."),
    ("It is 12.5 dBi at 2.4 GHz and falls by 3 dB.", "It is 12.5 dBi at 2.4 GHz and falls by 4 dB.",
     "It is 12 dBi at 2.4 GHz and falls by 4 dB.", "It is 12 dBi at 2.5 GHz and falls by 4 dB."),
    ("It is 12.5 dBi at 2.4 GHz and falls by 3 dB.", "It is 12.5 dBi at 2.4 GHz, falls by 3 dB, meets IP67 and weighs 9 kg.",
     "It is 12 dBi at 2.3 GHz, falls by 2 dB, meets IP67 and weighs 9 kg."),
]


@pytest.mark.parametrize("answers", NUMBERS)
def test_technical_accuracy_orders_answers(answers: tuple[str, ...]) -> None:
    scores = show(list(answers), metric="technical_accuracy")
    assert all(better > worse for better, worse in pairwise(scores)), scores


EXACT = [
    ("correctness", REFERENCE, REFERENCE, 1.0),
    ("correctness", "", REFERENCE, 0.0),
    ("correctness", REFUSAL, REFERENCE, 0.0),
    ("correctness", REFUSAL, REFUSAL, 1.0),
    ("correctness", "The gain is 12.5 dBi.", REFUSAL, 0.0),
    ("correctness", "The provided documents do not mention the gain.", REFUSAL, 1.0),
    ("technical_accuracy", REFERENCE, REFERENCE, 1.0),
    ("technical_accuracy", REFUSAL, REFERENCE, 0.0),
    ("technical_accuracy", "12.5 dBi", REFUSAL, None),
    ("technical_accuracy", "12.5 dBi", "It depends on the wind.", None),
    ("completeness", REFERENCE, REFERENCE, 1.0),
    ("completeness", REFUSAL, REFERENCE, 0.0),
    ("completeness", "12.5 dBi", REFUSAL, None),
    ("completeness", "At the edges it falls by 3 dB.", REFERENCE, 0.5),
    ("completeness", "12 kg.", "The pump weighs 12 kg.", 3 / 5),  # a value weighs as three words
    ("completeness", "The pump weighs.", "The pump weighs 12 kg.", 2 / 5),
    ("correctness", f"{REFUSAL} {REFERENCE}", REFERENCE, 0.0),  # answers and refuses in one
]


@pytest.mark.parametrize(("metric", "answer", "reference", "expected"), EXACT)
def test_exact_value(metric: str, answer: str, reference: str, expected: float | None) -> None:
    found = score(metric, answer, reference)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-6))


def test_completeness_looks_no_further_than_its_budget() -> None:
    long = " ".join(f"Cats number {count} sleep." for count in range(60))
    assert score("completeness", f"{long} {REFERENCE}") < score("completeness", REFERENCE) == 1.0


def test_repeating_the_question_earns_nothing() -> None:
    assert score("correctness", QUESTION) == score("completeness", QUESTION) == 0.0


def test_an_answer_that_is_all_in_the_question_is_told_by_its_order() -> None:
    question, reference = "Does pump A feed tank B, or does tank B feed pump A?", "Pump A feeds tank B."
    answers = ("Pump A feeds tank B.", "Tank B feeds pump A.")
    right, wrong = (score("correctness", answer, reference, question, ()) for answer in answers)
    assert right == 1.0 > wrong
    assert score("correctness", "The first: pump A feeds tank B.", reference, question, ()) > wrong


@pytest.mark.parametrize(("reference", "opposite"), [
    ("The valve must not be opened while the pump runs hot.", "The valve must be opened while the pump runs hot."),
    ("The valve may be opened while the pump runs.", "The valve may never be opened while the pump runs."),
    ("Yes, the housing withstands salt water.", "No, the housing withstands salt water badly."),
])
def test_the_opposite_is_wrong_however_alike_it_sounds(reference: str, opposite: str) -> None:
    assert score("correctness", opposite, reference, "What does the manual say?", ()) == 0.0
    assert score("correctness", reference, reference, "What does the manual say?", ()) == 1.0


def test_words_besides_the_right_ones_cost_a_little() -> None:
    reference = "Stale entries would otherwise be served to readers."
    more = f"{reference} Purple elephants wander through southern grassland seeking shade."
    concise, rambling = (score("correctness", answer, reference, "Why?", ()) for answer in (reference, more))
    assert concise == 1.0 > rambling > 0.6


def test_a_number_of_something_else_is_no_answer() -> None:
    question, reference = "How much signal does the pointing error cost?", "It costs 3 dB of signal."
    assert score("correctness", "A link margin of 3 dB is the usual target in clear sky.", reference, question, ()) == 0.0
    assert score("correctness", "3 dB.", reference, question, ()) > 0.9


def test_a_reference_without_a_telling_word_can_only_be_repeated() -> None:
    assert score("correctness", "It is.", "It is!", "Which?", ()) == 0.0
    assert score("correctness", "It is!", "It is!", "Which?", ()) == 1.0
