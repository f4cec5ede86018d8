"""Questions that have nothing to do with the user's documents: did the tuned model forget what its base could?

They stand in general.yaml, each with one check that needs no judge. They are asked with the same system prompt as everything
else: Ollama puts it in front of whatever a user asks the served model, so that this is the model that must still know them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from distill.cases.case_set import CaseSet, Measure, Question, Scores
from distill.config import Config, PromptSection
from distill.curation.words import fold_signs, read_number_words
from distill.files import read_text, sha256_text
from distill.prompts import is_refusal, strip_citations, to_messages
from distill.records import Answer

FILE = Path(__file__).with_name("general.yaml")
MAX_TOKENS = 160  # the longest right answer has about thirty; a few sentences around it do not matter
FIRST_WORDS = 40  # a right answer comes early; what stands later may be anything
WORD = re.compile(r"\w+")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\d)")
RESULT = re.compile(r"=\s*\**\s*(-?\d+(?:\.\d+)?)")
FENCE = re.compile(r"```\w*\s*\n(.*?)\n?\s*```", re.DOTALL)
QUOTES = "\"'`*\u201c\u201d\u2018\u2019 \t\n"
MEASURES = {
    "general_right": Measure(
        "1 where the answer to a general question passes its check, else 0. The questions are this project's own: language, "
        "arithmetic, common knowledge, following instructions, keeping to a format.",
        decides=True,
    ),
    "general_refused": Measure(
        "1 where the model gives the refusal to a general question, which is never right: it learnt to refuse too often.",
        higher_is_better=False,
    ),
}


@dataclass(frozen=True)
class GeneralQuestion:
    """A question with its check: the check's name in CHECKS, and what it expects. `example` is a right answer."""

    id: str
    category: str
    question: str
    check: str
    expected: Any
    example: str

    def is_right(self, prompt: PromptSection, answer: str) -> bool:
        """Whether an answer passes. A citation after a fact does no harm; where a form is asked for, it is not the form."""
        said = strip_citations(prompt, answer) if self.check in ("says", "number") else answer
        return CHECKS[self.check](said, self.expected)


# -----------------------------------------------------------------------------
# Checks: an answer and what is expected


def says(answer: str, expected: Sequence[str]) -> bool:
    """Whether one of the words or phrases stands among the first words; case and punctuation do not matter."""
    words = WORD.findall(answer.casefold())[:FIRST_WORDS]
    phrases = [WORD.findall(phrase.casefold()) for phrase in expected]
    return any(words[start : start + len(phrase)] == phrase for phrase in phrases for start in range(len(words)))


def has_number(answer: str, expected: float) -> bool:
    """Whether the answer's number, as find_number sees it, has this value."""
    found = find_number(fold_signs(answer).strip())
    return found is not None and abs(found - expected) < 1e-9


def find_number(text: str) -> float | None:
    """The number that an answer gives: the only one of its first line, or else the last after an equals sign, or the last.

    Number words count where there are no digits.
    """
    if not NUMBER.search(text):
        text = read_number_words(text)
    first = {float(number) for number in NUMBER.findall(text.split("\n")[0])}
    last = RESULT.findall(text) or NUMBER.findall(text)
    return first.pop() if len(first) == 1 else float(last[-1]) if last else None


def is_text(answer: str, expected: str) -> bool:
    """Whether the answer is this text, but for what may stand around it."""
    return expected in (answer.strip(), unwrap(answer), unfence(answer).strip(f".{QUOTES}"))


def matches(answer: str, expected: str) -> bool:
    """Whether the whole answer matches, with or without what may stand around it."""
    return any(re.fullmatch(expected, text) for text in (answer.strip(), unwrap(answer)))


def is_json(answer: str, expected: Any) -> bool:
    """Whether the answer is JSON of this value, each part of the same type."""
    try:
        return json.dumps(json.loads(unfence(answer)), sort_keys=True) == json.dumps(expected, sort_keys=True)
    except (ValueError, RecursionError):
        return False


def unfence(answer: str) -> str:
    """What stands in the code fence, where the whole answer is one."""
    found = FENCE.fullmatch(answer.strip())
    return found[1] if found else answer.strip()


def unwrap(answer: str) -> str:
    """The answer without a code fence, quotation marks or emphasis around it."""
    return unfence(answer).strip(QUOTES)


CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "says": says, "number": has_number, "exact": is_text, "pattern": matches, "json": is_json,
}


# -----------------------------------------------------------------------------
# The set


@cache
def load_general_questions() -> tuple[GeneralQuestion, ...]:
    """The questions of general.yaml, in its order."""
    return tuple(to_question(entry) for entry in yaml.safe_load(read_text(FILE)))


def to_question(entry: dict[str, Any]) -> GeneralQuestion:
    """One entry of the file; it has exactly one check."""
    (check,) = entry.keys() & CHECKS.keys()
    expected = entry[check]
    example = json.dumps(expected) if check == "json" else expected[0] if check == "says" else str(expected)
    return GeneralQuestion(
        entry["id"], entry["category"], entry["question"], check, expected, entry.get("example", example)
    )


def make_general_set(config: Config) -> CaseSet:
    """The general questions as a set; each stands for itself, so that they vary independently."""
    asked = {each.id: each for each in load_general_questions()}
    questions = [
        Question(
            "general", each.id, tuple(to_messages(config.prompt.system, each.question)), category=each.category, group=each.id,
            max_tokens=min(MAX_TOKENS, config.evaluate.max_tokens), text=each.question, reference=each.example,
        )
        for each in asked.values()
    ]

    def score(answers: Sequence[Answer]) -> list[Scores]:
        return [score_answer(config.prompt, asked[answer.example_id], answer) for answer in answers]

    # Figures of two runs compare where this is the same; git may write the file with Windows line ends.
    version = sha256_text(read_text(FILE).replace("\r\n", "\n"))[:12]
    return CaseSet("general", "General questions", questions, MEASURES, "general_right", score, {"version": version})


def score_answer(prompt: PromptSection, question: GeneralQuestion, answer: Answer) -> Scores:
    """The measures of one answer."""
    if answer.error:
        return dict.fromkeys(MEASURES)
    right = question.is_right(prompt, answer.text)
    return {"general_right": float(right), "general_refused": float(is_refusal(prompt, answer.text))}
