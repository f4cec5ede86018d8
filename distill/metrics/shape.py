"""How an answer looks beside the reference answer and the question: shown, never deciding."""

from __future__ import annotations

import re
from collections import Counter

from distill.curation.words import count_words
from distill.metrics.case import Case
from distill.prompts import strip_citations

# A word, or a number with its decimals: "4.2" is one token, the full stop after a sentence is none.
TOKEN = re.compile(r"\w+(?:[.,]\w+)*")


def relevance(case: Case) -> float | None:
    """Cosine of the sentence embeddings of answer and question, without citation tags; below 0 counts as 0.

    Repeating the question raises it.
    """
    return bound(case.relevance)


def reference_similarity(case: Case) -> float | None:
    """Cosine of the sentence embeddings of answer and reference answer, without citation tags; below 0 counts as 0.

    A wrong number hardly lowers it.
    """
    return bound(case.similarity)


def reference_overlap(case: Case) -> float | None:
    """F1 of the words and numbers that answer and reference answer share, without citation tags.

    The token F1 of SQuAD (Rajpurkar et al. 2016), with articles kept and decimals held together.
    """
    answer, reference = (
        Counter(TOKEN.findall(text.lower())) for text in (case.said, strip_citations(case.row.prompt, case.row.reference))
    )
    shared = (answer & reference).total()
    return 2 * shared / (answer.total() + reference.total()) if reference and shared else 0.0 if reference else None


def length_ratio(case: Case) -> float | None:
    """The shorter by the longer of answer and reference answer, in words; 1 where they are equally long."""
    said, expected = count_words(case.said), count_words(strip_citations(case.row.prompt, case.row.reference))
    return min(said, expected) / max(said, expected) if expected else None


def finished(case: Case) -> float | None:
    """1 if the model ended the answer by itself, 0 if it was cut off at max_tokens."""
    return float(case.finish_reason != "length")


def bound(cosine: float | None) -> float | None:
    """A cosine as a score."""
    return None if cosine is None else min(max(cosine, 0.0), 1.0)
