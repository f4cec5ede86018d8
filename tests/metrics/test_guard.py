"""HybridRAG3's answer guard, from facts of its source: what it lets through and what it stops."""

from __future__ import annotations

import pytest

from distill.metrics.guard import cut_sentences, list_tokens, passes_guard
from tests.metrics.worlds import score

SOURCE = ["The antenna gain is 12 dBi at 2400 MHz. The supply is 28VDC. The housing resists salt water and sand."]
FOREIGN = "Elephants wander through southern grassland seeking shade."
OWN = ["The antenna gain is 12 dBi.", "The supply is 28 VDC.", "The housing resists sand.", "The housing resists salt water."]


@pytest.mark.parametrize(("answer", "expected"), [
    ("The antenna gain is 12 dBi.", True),
    ("The antenna gain is 13 dBi.", True),  # one wrong number never stops an answer
    (FOREIGN, False),
    ("The gain depends on many strange local things.", False),  # 1 of 6 tokens
    ("The antenna gain depends on many strange things.", True),  # 2 of 6 tokens: a third
    (" ".join([*OWN, FOREIGN]), True),  # 4 of 5: exactly 0.80
    (" ".join([*OWN[:3], FOREIGN]), False),  # 3 of 4
    (f"{FOREIGN[:-1]} [General Knowledge].", True),
    (f"{FOREIGN[:-1]} [general knowledge].", False),
    ("Here elephants wander through southern grassland.", True),  # taken for an introduction
    ("Do elephants wander through southern grassland?", True),  # a question
    ("Elephants wander there.", True),  # three words state nothing
    ("- Elephants wander through southern grassland seeking shade.", True),  # a list item
    ("## Elephants of the southern grassland", True),
    ("**Elephants wander through southern grassland.**", True),
    ("Note: elephants wander through southern grassland.", True),
    ("Notes on elephants wandering southern grassland.", False),
    ("", True),
])
def test_verdicts(answer: str, expected: bool) -> None:
    assert passes_guard(SOURCE, answer) is expected


@pytest.mark.parametrize(("text", "sentences"), [
    ("It works at 300 MHz. It is small.", ["It works at 300 MHz.", "It is small."]),
    ("See Fig. 3 for details.", ["See Fig. 3 for details."]),
    ("Use e.g. the antenna. Yes. (Then stop here.)", ["Use e.g. the antenna.", "(Then stop here.)"]),
    ("one. two and more", ["one. two and more"]),
])
def test_sentences(text: str, sentences: list[str]) -> None:
    assert cut_sentences(text) == sentences


def test_tokens() -> None:
    assert list_tokens("The 28VDC supply of unit-7 is 2.4 GHz") == ["28", "vdc", "supply", "unit", "ghz"]


def test_the_score() -> None:
    assert score("guard_passed", "The antenna gain is 12.5 dBi.") == 1.0
    assert score("guard_passed", FOREIGN) == 0.0
    assert score("guard_passed", FOREIGN, sources=()) is None
