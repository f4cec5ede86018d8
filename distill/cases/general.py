"""Questions that have nothing to do with the user's documents: did the tuned model forget what its base could?

They stand in general.yaml, each with one check that needs no judge. They are asked with the same system prompt as everything
else: Ollama puts it in front of whatever a user asks the served model, so that this is the model that must still know them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from distill.cases.case_set import CaseSet, Measure, Question, Scores
from distill.cases.checks import CHECKS, Number, Words, list_numbers
from distill.config import Config, PromptSection
from distill.files import read_text, sha256_text
from distill.prompts import is_refusal, strip_citations, to_messages
from distill.records import Answer

FILE = Path(__file__).with_name("general.yaml")
MAX_TOKENS = 160  # the longest right answer has about thirty; a few sentences around it do not matter
IN_SENTENCES = ("says", "word", "number")
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
    """A question with its check: the check's name in CHECKS, and what that compares with. `example` is a right answer."""

    id: str
    category: str
    question: str
    check: str
    expected: Any
    example: str

    def is_right(self, prompt: PromptSection, answer: str) -> bool:
        """Whether an answer passes. A citation after a fact does no harm; where a form is asked for, it is not the form."""
        said = strip_citations(prompt, answer) if self.check in IN_SENTENCES else answer
        return CHECKS[self.check](said, self.expected)


# -----------------------------------------------------------------------------
# The set


@cache
def load_general_questions() -> tuple[GeneralQuestion, ...]:
    """The questions of general.yaml, in its order."""
    return tuple(to_question(entry) for entry in yaml.safe_load(read_text(FILE)))


def to_question(entry: dict[str, Any]) -> GeneralQuestion:
    """One entry of the file; it has exactly one check."""
    (check,) = entry.keys() & CHECKS.keys()
    value = entry[check]
    example = json.dumps(value) if check == "json" else value[0] if check in ("says", "word") else str(value)
    return GeneralQuestion(
        entry["id"], entry["category"], entry["question"], check, read_expected(entry, check), entry.get("example", example)
    )


def read_expected(entry: dict[str, Any], check: str) -> Any:
    """What the entry's check compares with. A number that the question says is no answer to it."""
    value = entry[check]
    if check in ("says", "word"):
        return Words(tuple(value), tuple(entry.get("wrong", ())))
    if check == "number":
        return Number(value, frozenset([*list_numbers(entry["question"]), *entry.get("beside", ())]))
    return value.replace("{one}", f"(?:{'|'.join(entry['one'])})(?:e?s)?") if "one" in entry else value


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
