"""Courtesies say nothing, but what stands behind them does; a source's number is no value, the value behind it is one."""

from __future__ import annotations

import pytest

from distill.metrics.passages import list_subject_matter
from distill.metrics.reading import read_facts
from tests.metrics.worlds import REFERENCE, score


@pytest.mark.parametrize(("text", "left"), [
    ("Sure, the gain is 12.5 dBi.", ["the gain is 12.5 dBi."]),
    ("Of course: the gain is 12.5 dBi.", ["the gain is 12.5 dBi."]),
    ("Certainly! It weighs 4 kg.", ["It weighs 4 kg."]),
    ("If you need the gain, it is 12.5 dBi.", ["it is 12.5 dBi."]),
    ("Please note that the above is wrong: it is 9999 W.", ["the above is wrong: it is 9999 W."]),
    ("Please note that this answer may be incomplete.", []),
    ("Thank you, it is 9999 W.", ["Thank you, it is 9999 W."]),
    ("I hope this helps. Let me know if you have questions.", []),
    ("Here are the steps:", []),
    ("The answer stands on the label.", ["The answer stands on the label."]),
])
def test_only_the_courtesy_is_left_out(text: str, left: list[str]) -> None:
    assert list_subject_matter(text) == left


@pytest.mark.parametrize("opening", ["Sure, ", "Of course: ", "Certainly, ", "If you need it, "])
def test_a_courtesy_neither_costs_a_right_answer_nor_hides_a_wrong_one(opening: str) -> None:
    right = "The antenna gain is 12.5 dBi [Source 1]."
    assert score("correctness", opening + right) == score("correctness", right) > 0
    assert score("grounding", f"{opening}it transmits 9999 W and weighs 7 tons.") < 1


@pytest.mark.parametrize(("text", "values"), [
    ("According to Source 1, 12.5 dBi is the gain.", [12.5]), ("As stated in Document 1, 12 V.", [12]),
    ("Sources 1, 2 and 3 agree.", []), ("Sources 1 and 2, 12.5 dBi", [12.5]), ("Source 1 and 2 agree.", []),
    ("From source 1, 9999 W", [9999]), ("Source #2 says 5 V.", [5]),
])
def test_a_value_behind_a_named_source_is_read(text: str, values: list[float]) -> None:
    assert [float(value.number) for value in read_facts(text).values] == values


def test_a_wrong_value_behind_a_named_source_is_no_support() -> None:
    assert score("correctness", "According to Source 1, 12.5 dBi.") >= score("correctness", "12.5 dBi.") > 0
    assert score("grounding", "According to Source 1, 99 dBi is the gain [Source 1].") < 1 and REFERENCE
