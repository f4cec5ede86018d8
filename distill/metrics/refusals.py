"""Whether an answer declines, and whether it should have."""

from __future__ import annotations

from collections.abc import Sequence

from distill.cases.behaviour import SAYS_NO, belongs_to_refusal, list_numbers
from distill.cases.case_set import Scores
from distill.config import PromptSection
from distill.curation.statements import ENDS, FEWEST_WORDS, TURN, list_statements, tells_nothing
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

    Where the reference refuses, nothing else in the answer may answer: what stands beside may be what the sources hold instead,
    or where else to look. Where the reference answers, only what shares something with it is an answer, so that no filler
    makes a refusal look like one. False where no refusal is configured.
    """
    if "refuses" not in case.notes:
        case.notes["refuses"] = bool(case.row.prompt.refusal) and declines(case.row.prompt, case)
    return case.notes["refuses"]


def declines(prompt: PromptSection, case: Case) -> bool:
    """See `refuses`."""
    statements = [statement.text for statement in list_statements(prompt, case.said) if statement.text]
    texts = [*statements, *map(str.strip, case.said.splitlines())]  # a line behind a title or a list is no new paragraph
    known = set(list_numbers(f"{case.row.question} {prompt.refusal}"))
    prescribed = is_refusal(prompt, case.text) or any(is_prescribed(prompt, text) for text in texts)
    own = (text for text in texts if normalise(prompt.refusal).strip(ENDS) not in normalise(text))  # no repeated instruction
    if not prescribed and not any(says_no(text, known) for text in own):
        return False
    if expects_refusal(case.row):
        return not any(says_something(prompt, text, known) for text in statements)
    return prescribed or not case.match.related


def is_prescribed(prompt: PromptSection, text: str) -> bool:
    """Whether a sentence is the prompt's refusal, with a few words around it at most."""
    refusal, said = normalise(prompt.refusal).strip(ENDS), normalise(text).strip(ENDS + "\"'")
    return refusal in said and len(said.split()) - len(refusal.split()) <= MOST_AROUND and ": " not in said


def says_no(text: str, known: set[str]) -> bool:
    """Whether a sentence says that the sources do not tell, and nothing else: a number beside those `known` is an answer."""
    no = tells_nothing(text) or bool(SAYS_NO.search(text) and not TURN.search(text))
    return no and known.issuperset(list_numbers(text))


def says_something(prompt: PromptSection, text: str, known: set[str]) -> bool:
    """Whether a sentence answers: more than that the sources do not tell, what they hold instead, or where else to look."""
    if is_prescribed(prompt, text) or says_no(text, known) or belongs_to_refusal(text, known):
        return False
    return bool(set(list_numbers(text)) - known) or len(list_content_words(fold_signs(text))) >= FEWEST_WORDS


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
