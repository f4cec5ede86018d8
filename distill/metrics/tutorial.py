"""The tutorial's heuristics, computed as its score_answer does: they reward length and never decide."""

from __future__ import annotations

from statistics import fmean

from distill.metrics.case import Case

# The tutorial's list; it does not know the refusal sentence that the prompt asks for.
REFUSALS = ("i cannot", "i'm not able", "i don't have", "as an ai")


def tutorial_length(case: Case) -> float | None:
    """1 for more than 100 characters, 0.5 for more than 50, else 0."""
    length = len(case.text)
    return 1.0 if length > 100 else 0.5 if length > 50 else 0.0


def tutorial_terminology(case: Case) -> float | None:
    """Five times the share of the prompt's different words that the answer uses, at most 1."""
    words, used = (set(text.lower().split()) for text in (case.row.instruction, case.text))
    return min(5 * len(words & used) / max(len(words), 1), 1.0)


def tutorial_no_refusal(case: Case) -> float | None:
    """1 unless the answer holds "I cannot", "I'm not able", "I don't have" or "as an AI"; punishes right refusals too."""
    return float(not any(phrase in case.text.lower() for phrase in REFUSALS))


def tutorial_structure(case: Case) -> float | None:
    """1 if the answer holds at least two full stops, else 0."""
    return float(case.text.count(".") >= 2)


PARTS = (tutorial_length, tutorial_terminology, tutorial_no_refusal, tutorial_structure)


def tutorial_score(case: Case) -> float | None:
    """Mean of the tutorial's four heuristics."""
    return fmean(part(case) for part in PARTS)
