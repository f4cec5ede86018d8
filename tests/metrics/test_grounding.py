"""Grounding finds claims that the sources do not support, and above all one wrong number in a fluent answer."""

from __future__ import annotations

import pytest

from distill.cases.case_set import Source
from distill.config import PromptSection
from tests.metrics.grounding_pairs import CARE, CODE, LINK, PAIRS, PUMP, RADIO, RULES
from tests.metrics.worlds import REFUSAL, score

ALL = (RADIO, CARE, LINK, CODE, RULES, PUMP)


def ground(answer: str, *sources: Source, question: str = "What does the manual say?", **fields) -> float | None:
    return score("grounding", answer, "It says so.", question, sources, **fields)


@pytest.mark.parametrize("among_others", [False, True])
@pytest.mark.parametrize(("source", "question", "right", "wrong"), PAIRS)
def test_one_wrong_number_ranks_below(source: Source, question: str, right: str, wrong: str, among_others: bool) -> None:
    sources = (source, *(other for other in ALL if other is not source)) if among_others else (source,)
    scores = [ground(answer, *sources, question=question) for answer in (right, wrong)]
    assert scores[0] == 1.0 > scores[1]


def test_there_are_enough_pairs() -> None:
    assert len({(right, wrong) for _, _, right, wrong in PAIRS}) >= 40


SUPPORTED = [
    "The fan is to be inspected every half year (6 months) [Source 1].",
    "Replace the air filter after 2,000 hours; in dusty air do so after 500 hours.",
    "**Storage:** the battery pack is kept between 10 C and 25 C.",
    "The connector and the fan together cause 15% + 40% = 55% of the failures.",
    "I hope this helps! Let me know if you have further questions.",
    "What else would you like to know about torque and calibration of the unit?",
    "Calibration is valid for one year (12 months).",
    "See section 4.2.",
    "",
]
UNSUPPORTED = [
    "The fan is inspected by certified staff from the manufacturer.",
    "Replace the oil filter after 2,000 hours of flight with the engine removed from the aircraft.",
    "The battery pack holds 48 lithium iron phosphate pouch elements made in Norway.",
    "Calibration is not valid for 12 months.",
    "The strap takes 4.5 Nm per ISO 6789.",
    "The fan is inspected every 6 hours.",
]


@pytest.mark.parametrize("answer", SUPPORTED)
def test_supported(answer: str) -> None:
    assert ground(answer, CARE) == 1.0


@pytest.mark.parametrize("answer", UNSUPPORTED)
def test_unsupported(answer: str) -> None:
    assert ground(answer, CARE) == 0.5


def test_each_different_unsupported_claim_costs_once() -> None:
    lies = [
        "The pump runs on kerosene from the tank.", "The bearing was designed by a company in Sweden.",
        "The seal is replaced by robots daily.",
    ]
    assert [ground(" ".join(lies[:count]), PUMP) for count in range(4)] == [1.0, 0.5, pytest.approx(1 / 3, abs=1e-6), 0.25]
    assert ground(" ".join(lies[:1] * 5), PUMP) == 0.5


def test_no_score_for_a_refusal_or_without_sources() -> None:
    assert ground(REFUSAL, CARE) is None
    assert ground("The documents do not mention the price of the battery.", CARE) is None
    assert ground("The fan has 6 blades.") is None


def test_a_marked_sentence_claims_no_source() -> None:
    prompt = PromptSection(general_knowledge="[General Knowledge]")
    text = "Fans usually have bearings made of bronze or steel [General Knowledge]."
    assert ground(text, CARE, prompt=prompt) == 1.0
    assert ground(text, CARE) == 0.5


def test_numbers_of_the_question_need_no_source() -> None:
    question = "Is a torque of 13 Nm right for the mounting bolts?"
    assert ground("13 Nm is too much: the mounting bolts take 12 Nm.", CARE, question=question) == 1.0
    assert ground("13 Nm is too much: the mounting bolts take 11 Nm.", CARE, question=question) == 0.5


def test_the_file_name_and_headings_name_the_subject() -> None:
    source = Source("/docs/falcon_radar_manual.pdf", "# Cooling\n\nThe inlet holds a coarse mesh of steel.")
    assert ground("The cooling inlet of the Falcon radar holds a coarse steel mesh.", source) == 1.0
