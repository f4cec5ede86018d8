"""Refusing and asking back, as models really word it; and what only looks like it."""

from __future__ import annotations

import pytest

from distill.cases.behaviour import asks_back, refuses
from distill.config import PromptSection

PROMPT = PromptSection()
REFUSAL = PROMPT.refusal
QUESTION = "What is the warranty period of pump 7?"

REFUSALS = [
    REFUSAL,
    f"{REFUSAL} [Source 1]",
    f"{REFUSAL} The sources discuss the log and the colour.",
    "The requested information was not found in the provided documents.",
    "I'm sorry, but the documents do not mention the warranty period.",
    "Unfortunately, the documents don\u2019t say anything about the warranty period.",
    "The provided sources do not specify the warranty. They only mention the PM cycle of 180 days. [Source 1]",
    "The warranty of pump 7 is not stated in the context. Please consult the manufacturer.",
    "Unknown.",
    "I do not know.",
    "There is insufficient information to answer.",
    "The answer cannot be determined from the given text.",
    "Based on the provided sources, there is no information about the warranty period of pump 7.",
    "The sources give no warranty period.",
    "The context lacks information on the warranty.",
    "There is no mention of a warranty in the text.",
    "There's nothing in the documents about the warranty.",
    "The provided context doesn't have the information needed to answer.",
    "No information is available on the warranty of pump 7.",
    "No information about this.",
    "No data is given.",
    "I cannot find the warranty period in the documents.",
    "The warranty period is not provided in the sources.",
    "The context does not seem to specify it.",
    "Not specified.",
    "The warranty period is not explicitly stated.",
    "Neither document mentions the warranty.",
    "None of the documents covers this.\nYou may find it in the contract.",
]
ANSWERS = [
    "",
    "The warranty period is two years.",
    f"{REFUSAL} However, it is usually two years.",
    f"{REFUSAL} The warranty period is 24 months.",
    f"The warranty period is 24 months. {REFUSAL}",
    "The documents do not mention it, but it is two years.",
    "The documents do not name the period, but it is that of the valve.",
    f"{REFUSAL} The documents mention a period of 24 months.",
    "There is not enough information in the documents. The warranty period is two years.",
    "The documents do not state it explicitly, 24 months is given for the valve.",
    "It is unknown to many. The pump has a warranty of two years.",
    f"{REFUSAL} " + "The sources discuss something else. " * 20,
    "No data is stored on the device.",
    "The documentation is not encrypted.",
    "No information is stored on the device.",
    "The data cannot be read by others.",
    "The text on the label is not red.",
    "The files are never deleted.",
    "No details leave the device.",
    "The documents are not kept.",
    "The material is not flammable.",
    "The charger is not included.",
    "A spare seal is not provided with the pump.",
    "The device has no answer button.",
    "A guest cannot find the menu.",
    "The answer is not 5 V.",
    "The pump may run for two years according to its manual.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_in_any_words_is_one(answer: str) -> None:
    assert refuses(PROMPT, QUESTION, answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_with_a_hedge_around_it_is_no_refusal(answer: str) -> None:
    assert not refuses(PROMPT, QUESTION, answer)


def test_the_configured_refusal_counts_in_any_language() -> None:
    prompt = PromptSection(refusal="Dazu steht nichts in den Quellen.")
    assert refuses(prompt, QUESTION, "Dazu steht nichts in den Quellen.")
    assert not refuses(PROMPT, QUESTION, "Dazu steht nichts in den Quellen.")


ASKED = "What is the tolerance?"
BACK = [
    "Which component do you mean, the bracket or the shaft?",
    "Could you please specify which tolerance you need?",
    "The sources give several tolerances. Which one are you asking about?",
    "Please clarify which document you mean.",
    "Are you referring to the bracket or to the RF output?",
    "I need to know which component you mean.",
    "What type of tolerance is meant?",
]
NOT_BACK = [
    "",
    "The tolerance is 5 MHz.",
    "What is the tolerance? The tolerance is 5 MHz.",
    "The tolerance is 5 MHz. Is there anything else?",
    "The tolerance is 5 MHz. Would you like to know which tools are used?",
    "The tolerance is 5 MHz. Which other questions do you have?",
    "The bracket, which is made of aluminium, has a tolerance of 5 mm.",
    "The sources specify 5 MHz.",
    "The tolerance is 5 MHz, right?",
]


@pytest.mark.parametrize("answer", BACK)
def test_a_question_back_is_one(answer: str) -> None:
    assert asks_back(ASKED, answer)


def test_the_words_of_the_question_are_no_question_back() -> None:
    question = "Which tolerance does the bracket have?"
    assert not asks_back(question, f"{question} It has 5 mm.") and not asks_back(question, "Which tolerance the bracket has?")
    assert asks_back(question, "Which tolerance do you mean, that of its holes or that of its length?")


@pytest.mark.parametrize("answer", NOT_BACK)
def test_repeating_the_question_or_being_polite_is_no_question_back(answer: str) -> None:
    assert not asks_back(ASKED, answer)
