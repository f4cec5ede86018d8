"""Scores against the facts of the reference answer; distill.metrics.matching says what counts as a fact and as found."""

from __future__ import annotations

from statistics import fmean

from distill.metrics.case import Case
from distill.metrics.matching import match_answer
from distill.metrics.refusals import expects_refusal, refuses
from distill.prompts import normalise


def correctness(case: Case) -> float | None:
    """Mean of two F2: of the values and names, and of the words, that answer and reference answer share; recall counts twice.

    What the question says already does not count; what is about something else, or says the opposite, counts as wrong. 0 for a
    refusal; where the reference answer refuses, 1 for a refusal and 0 for anything else.
    """
    if expects_refusal(case.row) or refuses(case):
        return float(expects_refusal(case.row) and refuses(case))
    parts = [part for part in (case.match.hard, case.match.soft) if part is not None]
    # A reference without any word that says something by itself can only be repeated.
    return fmean(parts) if parts else float(normalise(case.said) == normalise(case.row.reference))


def technical_accuracy(case: Case) -> float | None:
    """F2 of the values with units and the names (part numbers, standards, acronyms) that answer and reference answer share.

    0 for a refusal. Not where the reference answer refuses, or has neither a value nor a name beyond those of the question.
    """
    if expects_refusal(case.row) or case.match.hard is None:
        return None
    return 0.0 if refuses(case) else case.match.hard


def completeness(case: Case) -> float | None:
    """Mean share of each sentence of the reference answer that the answer tells; a value or a name weighs as three words.

    Only the answer's first 2 n + 50 words count, n those of the reference answer. 0 for a refusal; not where the reference
    answer refuses.
    """
    if expects_refusal(case.row) or not case.row.read.claims:
        return None
    if refuses(case):
        return 0.0
    return fmean(match_answer(case.row.read, case.said, most_words=2 * case.row.read.words + 50).claims)
