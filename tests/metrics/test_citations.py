"""Scores of the source tags: hand-made answers from the best to the worst, and exact values."""

from __future__ import annotations

from itertools import pairwise

import pytest

from distill.config import PromptSection
from tests.metrics.worlds import REFERENCE, score, show

ORDERED = {
    "citation_match": ["Both [Source 1] [Source 2].", "One [Source 1].", "None of them [Source 3]."],
    "citation_precision": ["One [Source 1].", "One and another [Source 1, 3].", "Another [Source 3]."],
    "citation_recall": ["Both [Sources 1 and 2].", "One [Source 1].", "Another [Source 3]."],
    "citation_validity": ["There [Source 2].", "There, and not there [Source 1] [Source 3].", "Not there [Source 9]."],
}


@pytest.mark.parametrize("metric", ORDERED)
def test_orders_answers(metric: str) -> None:
    scores = show(ORDERED[metric], metric=metric)
    assert all(better > worse for better, worse in pairwise(scores)), scores


EXACT = [
    ("citation_validity", "no tag", REFERENCE, 0.0), ("citation_validity", "no tag", "no tag either", 1.0),
    ("citation_validity", "[Source 2] [Source 2] [Source 3]", "no tag", 0.5),
    ("citation_validity", "[Source 0]", REFERENCE, 0.0),
    ("citation_match", "no tag", "no tag either", 1.0), ("citation_match", "no tag", REFERENCE, 0.0),
    ("citation_match", "[Source 1] [Source 1]", REFERENCE, 2 / 3), ("citation_match", "[Source 1]", "no tag", 0.0),
    ("citation_precision", "[Source 1] [Source 1] [Source 4]", REFERENCE, 0.5),
    ("citation_precision", "no tag", REFERENCE, 0.0),
    ("citation_precision", "[Source 1]", "no tag", 0.0),
    ("citation_recall", "[Source 1] [Source 2] [Source 3]", REFERENCE, 1.0), ("citation_recall", "no tag", "no tag", 1.0),
    ("citation_recall", "no tag", REFERENCE, 0.0),
]


@pytest.mark.parametrize(("metric", "answer", "reference", "expected"), EXACT)
def test_exact_value(metric: str, answer: str, reference: str, expected: float) -> None:
    assert score(metric, answer, reference) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", ORDERED)
def test_nothing_to_cite(metric: str) -> None:
    assert score(metric, "[Source 1]", sources=()) is None
    assert score(metric, "[Source 1]", prompt=PromptSection(citation="")) is None
