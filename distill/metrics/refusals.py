"""Whether an answer declines, and whether it should have."""

from __future__ import annotations

from collections.abc import Sequence

from distill.cases.case_set import Scores
from distill.config import PromptSection
from distill.curation.statements import ENDS, FEWEST_WORDS, list_statements, tells_nothing
from distill.curation.words import fold_signs, list_content_words
from distill.metrics.case import Case, Row
from distill.prompts import is_refusal, normalise

MOST_AROUND = 4  # words around the prompt's sentence: "Unfortunately, ..." is a refusal, a repeated prompt is none


def refusal_right(case: Case) -> float | None:
    """1 if the answer refuses exactly when the reference answer refuses, else 0.

    Not where no refusal is configured.
    """
    return float(refuses(case) == expects_refusal(case.row)) if case.row.prompt.refusal else None


def right_refusal(case: Case) -> float | None:
    """1 if the answer refuses, else 0, on questions whose reference answer refuses alone."""
    return float(refuses(case)) if expects_refusal(case.row) else None


def wrong_refusal(case: Case) -> float | None:
    """1 if the answer refuses, else 0, on questions that the reference answer answers alone; lower is better."""
    return float(refuses(case)) if case.row.prompt.refusal and not expects_refusal(case.row) else None


def expects_refusal(row: Row) -> bool:
    """Whether the reference answer refuses."""
    return is_refusal(row.prompt, row.reference)


def refuses(case: Case) -> bool:
    """Whether an answer declines: it says the prompt's sentence, or in words of its own that the sources do not tell.

    In words of its own it refuses only if nothing else in it answers: nothing that the reference answer says, and, where that
    refuses, nothing at all. False where no refusal is configured.
    """
    if "refuses" not in case.notes:
        case.notes["refuses"] = bool(case.row.prompt.refusal) and declines(case.row.prompt, case)
    return case.notes["refuses"]


def declines(prompt: PromptSection, case: Case) -> bool:
    """See `refuses`."""
    statements = [statement.text for statement in list_statements(prompt, case.said) if statement.text]
    texts = [*statements, *map(str.strip, case.said.splitlines())]  # a line behind a title or a list is no new paragraph
    if is_refusal(prompt, case.text) or any(is_prescribed(prompt, text) for text in texts):
        return True
    if not any(tells_nothing(text) for text in texts):
        return False
    if expects_refusal(case.row):
        return not any(says_something(text) for text in statements)
    return not case.match.related


def is_prescribed(prompt: PromptSection, text: str) -> bool:
    """Whether a sentence is the prompt's refusal, with a few words around it at most."""
    refusal, said = normalise(prompt.refusal).strip(ENDS), normalise(text).strip(ENDS + "\"'")
    return refusal in said and len(said.split()) - len(refusal.split()) <= MOST_AROUND and ": " not in said


def says_something(text: str) -> bool:
    """Whether a sentence states anything, beside that the sources do not tell."""
    return not tells_nothing(text) and len(list_content_words(fold_signs(text))) >= FEWEST_WORDS


def count_refusals(scores: Sequence[Scores]) -> dict[str, int]:
    """How often each of the four things happened: refused or answered, rightly or wrongly; a failed call is none of them.

    `scores` hold right_refusal and wrong_refusal of each answer.
    """
    return {
        "right_refusals": sum(each["right_refusal"] == 1 for each in scores),
        "wrong_refusals": sum(each["wrong_refusal"] == 1 for each in scores),
        "right_answers": sum(each["wrong_refusal"] == 0 for each in scores),
        "missed_refusals": sum(each["right_refusal"] == 0 for each in scores),
    }
