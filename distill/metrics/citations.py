"""Scores of the source tags. Each different source counts once, so that repeating a tag changes nothing."""

from __future__ import annotations

from distill.metrics.case import Case
from distill.metrics.matching import combine
from distill.prompts import find_citations, wants_citations


def citation_validity(case: Case) -> float | None:
    """Share of the sources that the answer cites which were in its prompt; 0 if it cites none but the reference answer does.

    1 when neither cites. Not for rows without sources, nor where the prompt asks for no tag.
    """
    found = read_citations(case)
    if found is None:
        return None
    cited, expected = found
    return share(sum(1 <= number <= len(case.row.sources) for number in cited), len(cited), expected)


def citation_match(case: Case) -> float | None:
    """F1 of the set of sources that the answer cites against the set that the reference answer cites.

    1 when neither cites. Not for rows without sources, nor where the prompt asks for no tag.
    """
    precision, recall = citation_precision(case), citation_recall(case)
    return None if precision is None or recall is None else combine(precision, recall, 1)


def citation_precision(case: Case) -> float | None:
    """Share of the sources that the answer cites which the reference answer cites; 0 if only the reference answer cites any.

    1 when neither cites. Not for rows without sources, nor where the prompt asks for no tag.
    """
    found = read_citations(case)
    return None if found is None else share(len(found[0] & found[1]), len(found[0]), found[1])


def citation_recall(case: Case) -> float | None:
    """Share of the sources that the reference answer cites which the answer cites; citing every source earns it all.

    1 when the reference answer cites none. Not for rows without sources, nor where the prompt asks for no tag.
    """
    found = read_citations(case)
    if found is None:
        return None
    return len(found[0] & found[1]) / len(found[1]) if found[1] else 1.0


def read_citations(case: Case) -> tuple[set[int], set[int]] | None:
    """The sources that answer and reference answer cite; None where there is nothing to cite."""
    if not case.row.sources or not wants_citations(case.row.prompt):
        return None
    cited, expected = (set(find_citations(case.row.prompt, text)) for text in (case.text, case.row.reference))
    return cited, expected


def share(good: int, cited: int, expected: set[int]) -> float:
    """`good` of `cited`; of none: 1 if none was expected."""
    return good / cited if cited else float(not expected)
