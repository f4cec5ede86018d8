"""The general questions: each check tells right from wrong, and nothing that is no answer passes."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from distill.cases.checks import FIRST_WORDS
from distill.cases.general import GeneralQuestion, load_general_questions, make_general_set
from distill.config import Config, PromptSection
from tests.cases.general_answers import ANSWERS, REFUSAL
from tests.cases.worlds import say

QUESTIONS = load_general_questions()
PROMPT = PromptSection()
PAIRS = [(question, answer) for question in QUESTIONS for answer in ANSWERS[question.id][0]]
WRONG_PAIRS = [(question, answer) for question in QUESTIONS for answer in ANSWERS[question.id][1]]


def name_question(value: object) -> str:
    return value.id if isinstance(value, GeneralQuestion) else ""


def test_there_are_enough_questions_and_as_many_of_each_category() -> None:
    counts = Counter(question.category for question in QUESTIONS)
    assert set(counts) == {"language", "arithmetic", "knowledge", "instructions", "format"}
    assert len(QUESTIONS) >= 80 and len(set(counts.values())) == 1


def test_no_two_questions_are_the_same() -> None:
    for values in ([question.id for question in QUESTIONS], [question.question.lower() for question in QUESTIONS]):
        assert len(set(values)) == len(values)


def test_every_question_has_examples_of_both_kinds() -> None:
    assert ANSWERS.keys() == {question.id for question in QUESTIONS}
    assert all(right and len(wrong) >= 2 for right, wrong in ANSWERS.values())


@pytest.mark.parametrize(("question", "answer"), PAIRS, ids=name_question)
def test_a_right_answer_passes(question: GeneralQuestion, answer: str) -> None:
    assert question.is_right(PROMPT, answer)


@pytest.mark.parametrize(("question", "answer"), WRONG_PAIRS, ids=name_question)
def test_a_wrong_answer_fails(question: GeneralQuestion, answer: str) -> None:
    assert not question.is_right(PROMPT, answer)


@pytest.mark.parametrize("question", QUESTIONS, ids=name_question)
def test_what_the_report_shows_as_right_is_right(question: GeneralQuestion) -> None:
    assert question.is_right(PROMPT, question.example)


@pytest.mark.parametrize("question", QUESTIONS, ids=name_question)
def test_no_answer_is_right_that_says_nothing(question: GeneralQuestion) -> None:
    for answer in ("", ".", question.question, REFUSAL, "I am happy to help you with that question.", "[Source 1]"):
        assert not question.is_right(PROMPT, answer), answer


FILLER = (
    "I am glad that you ask.", "Here is what I know about it.\n", "This is an important matter.", "I hope that this helps.",
    "The pump is painted in this colour. It stands in the hall.", "Let me think about that for a moment.",
)


@pytest.mark.parametrize("question", QUESTIONS, ids=name_question)
def test_no_padding_makes_a_wrong_answer_right(question: GeneralQuestion) -> None:
    for answer in ANSWERS[question.id][1]:
        for filler in (*FILLER, " ".join(FILLER), question.question, f"{question.question} {FILLER[0]}", f"{answer} {answer}"):
            for between in (" ", "\n\n"):
                for padded in (f"{filler}{between}{answer}", f"{answer}{between}{filler}"):
                    assert not question.is_right(PROMPT, padded), padded


def test_an_answer_that_comes_after_forty_words_comes_too_late() -> None:
    question = next(question for question in QUESTIONS if question.check == "says")
    late = "well " * FIRST_WORDS
    assert question.is_right(PROMPT, late[: 5 * (FIRST_WORDS - 1)] + question.example)
    assert not question.is_right(PROMPT, late + question.example)


# -----------------------------------------------------------------------------
# The set


def test_the_set_asks_each_question_alone_with_the_system_prompt_of_all() -> None:
    config = Config.model_validate({"prompt": {"system": "Be brief."}})
    cases = make_general_set(config)
    assert [question.text for question in cases.questions] == [question.question for question in QUESTIONS]
    for question in cases.questions:
        assert question.messages == (
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": question.text},
        )
        assert question.set == "general" and question.reference and question.max_tokens == 160 and not question.sources
    assert len({question.group for question in cases.questions}) == len(cases.questions)


def test_without_a_system_prompt_there_is_one_message_and_max_tokens_is_never_above_the_configured() -> None:
    config = Config.model_validate({"prompt": {"system": ""}, "evaluate": {"max_tokens": 64}})
    question = make_general_set(config).questions[0]
    assert [message["role"] for message in question.messages] == ["user"] and question.max_tokens == 64


def test_answers_are_scored_by_their_question_in_the_order_in_which_they_come() -> None:
    cases = make_general_set(Config())
    assert set(cases.measures) == {"general_right", "general_refused"} and cases.primary == "general_right"
    answers = [say("knowledge-01", "Paris"), say("arithmetic-01", "43"), say("language-01", REFUSAL)]
    assert cases.score(answers) == [
        {"general_right": 1.0, "general_refused": 0.0}, {"general_right": 0.0, "general_refused": 0.0},
        {"general_right": 0.0, "general_refused": 1.0},
    ]


def test_a_failed_call_has_no_score() -> None:
    failed = say("knowledge-01", "", error="timeout")
    assert make_general_set(Config()).score([failed]) == [{"general_right": None, "general_refused": None}]


def test_only_the_share_of_right_answers_decides_and_refusing_is_worse() -> None:
    measures = make_general_set(Config()).measures
    assert measures["general_right"].decides and measures["general_right"].higher_is_better
    assert not measures["general_refused"].decides and not measures["general_refused"].higher_is_better


def test_the_version_tells_which_questions_were_asked() -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", make_general_set(Config()).notes["version"])
