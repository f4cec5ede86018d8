"""Whether the sources support what an answer claims, as far as words and numbers can tell.

A claim is a sentence, list item or table row of the answer that states something. It is supported where

- each of its values stands in the sources or in the question, in whatever unit, or follows from its other values (a sum, a
  difference, a product, a ratio), and each of its names does;
- no value stands there beside other words, while those beside it in the claim, or in the question, stand beside another value:
  swapped numbers;
- one window of three neighbouring passages of a source holds half of its words, with the headings above and the file's name, or
  all sources together hold three quarters; words that only repeat the question neither help nor harm;
- that window does not hold a word that the claim negates without a negation, nor the other way round.
"""

from __future__ import annotations

import ntpath
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from distill.cases.case_set import Source
from distill.config import PromptSection
from distill.curation.statements import FEWEST_WORDS, list_statements, tells_nothing
from distill.curation.support import follows
from distill.curation.units import NUMBER_WITH_UNIT
from distill.curation.words import fold_number
from distill.metrics.case import Case
from distill.metrics.matching import NOTHING, find_names, find_values, merge
from distill.metrics.passages import list_passages, list_subject_matter
from distill.metrics.reading import COMBINES, Facts, Occurrence, Value, contradicts, is_misplaced, read_facts
from distill.metrics.refusals import refuses
from distill.prompts import strip_citations

WINDOW = 3  # passages
NEAR, ANYWHERE = 0.5, 0.75  # shares of a claim's words
FAINT = 0.5  # of a word's weight
SHARES = {"half": "50", "quarter": "25"}  # in percent
HEADING = re.compile(r"^\s*#{1,6}\s+(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Evidence:
    """What the sources of one question hold in each window and as a whole, what the question says, and what both know."""

    windows: tuple[Facts, ...]
    whole: Facts
    asked: Facts
    known: Facts


def grounding(case: Case) -> float | None:
    """1 / (1 + n), n the number of different claims in the answer that its sources do not support, in words or in numbers.

    Not for rows without sources, nor for a refusal. See distill.metrics.grounding for what supports a claim.
    """
    if not case.row.sources or refuses(case):
        return None
    return 1 / (1 + len(find_unsupported(case.row.prompt, read_row(case), case.text)))


def read_row(case: Case) -> Evidence:
    """The evidence of a row, read once."""
    notes = case.row.notes
    if "evidence" not in notes:
        notes["evidence"] = read_evidence(case.row.question, case.row.sources)
    return notes["evidence"]


def read_evidence(question: str, sources: Sequence[Source]) -> Evidence:
    """Windows of neighbouring passages of each source, with its headings and its file's name."""
    windows, every = [], []
    for source in sources:
        title = merge(map(read_facts, [ntpath.splitext(ntpath.basename(source.name))[0], *HEADING.findall(source.text)]))
        passages = [read_passage(passage) for passage in list_passages(source.text)]
        windows += [merge([title, *passages[at : at + WINDOW]]) for at in range(max(1, len(passages) - WINDOW + 1))]
        every += [title, *passages]
    whole = merge(every)
    asked = merge(map(read_facts, list_passages(question)))
    return Evidence(tuple(windows), whole, asked, merge([whole, asked]))


def read_passage(passage: str) -> Facts:
    """A source's passage; half and a quarter are values, too."""
    facts = read_facts(passage)
    shares = tuple(Value(number, "%") for word, number in SHARES.items() if re.search(rf"\b{word}\b", passage, re.IGNORECASE))
    return Facts(facts.text, facts.values + shares, facts.names, facts.words, facts.occurrences) if shares else facts


def find_unsupported(prompt: PromptSection, evidence: Evidence, answer: str) -> list[str]:
    """The different claims that nothing supports, in their order; those with the mark of general knowledge claim no source."""
    found: dict[tuple[frozenset[str], ...], str] = {}
    for claim in list_claims(prompt, answer):
        facts = read_facts(claim)
        if states_something(facts) and not is_supported(evidence, facts):
            key = (facts.words, facts.names, frozenset(f"{value.number} {value.unit}" for value in facts.values))
            found.setdefault(key, claim)
    return list(found.values())


def list_claims(prompt: PromptSection, answer: str) -> list[str]:
    """The passages of an answer that may be claims: no questions, no courtesies, not that the sources do not tell."""
    marked = "\n".join(each.text for each in list_statements(prompt, answer) if each.marked) if prompt.general_knowledge else ""
    return [
        passage for passage in list_subject_matter(strip_citations(prompt, answer))
        if not (passage.endswith("?") or tells_nothing(passage) or (marked and passage in marked))
    ]


def states_something(facts: Facts) -> bool:
    """Whether a passage is more than a scrap or a heading."""
    return bool(facts.values or facts.names) or len(facts.words) >= FEWEST_WORDS


def is_supported(evidence: Evidence, claim: Facts) -> bool:
    """See the head of this module."""
    return has_values(evidence, claim) and has_names(evidence, claim) and has_words(evidence, claim)


def has_values(evidence: Evidence, claim: Facts) -> bool:
    """Whether each value is in the sources or the question, in its place, or follows from the others."""
    left = {each.value.number for each in claim.occurrences if not is_there(evidence, each)}
    if left and not all_follow(claim.text, left):
        return False
    if COMBINES.search(claim.text):
        return True
    wrong = (each for each in claim.occurrences if is_misplaced(ask(each, evidence.asked), evidence.whole.occurrences))
    return all(any(each.value.equals(asked) for asked in evidence.asked.values) for each in wrong)


def is_there(evidence: Evidence, occurrence: Occurrence) -> bool:
    """Whether a value is in the sources or the question; without its unit only where the same words stand with it."""
    known = evidence.known
    if find_values(Facts("", (occurrence.value,), frozenset(), frozenset()), known) == 1:
        return True
    half = sum(occurrence.near.values()) / 2
    alike = [place for place in known.occurrences if occurrence.value.equals(place.value)]
    return any(sum(occurrence.near[token] for token in occurrence.near.keys() & place.near.keys()) >= half for place in alike)


def ask(occurrence: Occurrence, asked: Facts) -> Occurrence:
    """A value with the names of the question beside it, faintly; with its words too, where nothing stands beside it.

    "14 dBi." to a question about one of two antennas says which one it means.
    """
    faint = dict.fromkeys(asked.names if occurrence.near else asked.names | asked.words, FAINT)
    return replace(occurrence, near=faint | occurrence.near)


def all_follow(text: str, left: Collection[str]) -> bool:
    """Whether the numbers that no source has are calculated from the others of the claim."""
    matches = list(NUMBER_WITH_UNIT.finditer(text))
    sourced = [match for match in matches if fold_number(match["number"]) not in left]
    return all(follows(text, match, sourced) for match in matches if match not in sourced)


def has_names(evidence: Evidence, claim: Facts) -> bool:
    """Whether each name is in the sources or the question, as a name or as a word."""
    return find_names(claim, evidence.known) == len(claim.names)


def has_words(evidence: Evidence, claim: Facts) -> bool:
    """Whether a window holds enough of the words and contradicts none, or all sources together hold most of them."""
    best = max(evidence.windows, key=lambda window: count_found(evidence, claim, window)[0], default=NOTHING)
    if contradicts(claim, best):
        return False
    found, counted = count_found(evidence, claim, best)
    if counted < FEWEST_WORDS or found >= NEAR * counted:
        return True
    found, counted = count_found(evidence, claim, evidence.whole)
    return found >= ANYWHERE * counted


def count_found(evidence: Evidence, claim: Facts, part: Facts) -> tuple[int, int]:
    """How many of the claim's words a part of the sources holds, and how many count: not those that only the question has."""
    found = claim.words & part.words
    return len(found), len(found | (claim.words - evidence.asked.words))
