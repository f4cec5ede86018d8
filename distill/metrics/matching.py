"""How much of a reference answer stands in an answer, and how much else.

Values and names are the hard facts, words the soft ones; what the question says already is neither. A passage of the answer
counts only where it is about the same thing: enough of what it says is in the reference, or it says most of one of the
reference's passages. So what merely shares a word with the reference earns nothing, however much of it there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from distill.curation.support import holds_name
from distill.curation.words import count_words
from distill.metrics.passages import list_passages, list_subject_matter
from distill.metrics.reading import COMBINES, Facts, Occurrence, Value, contradicts, is_misplaced, read_facts

HARD = 3  # a value or a name weighs as much as this many words
RELATED, COVERED = 0.3, 0.6  # the share of a passage that is in the reference; of a reference passage that is in it
OWN = 0.75  # the share of a source's passage that is in the reference
COPIED = 0.8  # the share of an answer's passage that is in one of a source
LONGEST_QUESTION = 60  # words; a longer one holds sources, and then nothing is known of what it asks
FEWEST = 2  # facts that a passage shares with reference or question, or words that it has besides at most


@dataclass(frozen=True)
class Reference:
    """A reference answer: `every` fact of it, and without what the question says the facts of each passage and of all.

    `paired` is whether nothing would be left of it without the question's words: then pairs of words in their order count.
    `about` is what reference and question say, `elsewhere` are the passages of the sources that say something else.
    """

    question: Facts
    every: Facts
    claims: tuple[Facts, ...]
    whole: Facts
    places: tuple[Occurrence, ...]
    words: int
    paired: bool
    about: Facts
    elsewhere: tuple[Facts, ...]

    def read(self, passage: str) -> Facts:
        """What a passage says beyond the question."""
        return (read_pairs(passage) if self.paired else read_facts(passage)).without(self.question)


@dataclass(frozen=True)
class Match:
    """Shares from 0 to 1, None where the reference has no such facts.

    `hard` is the F2 of values and names, `soft` that of words (recall counts twice), `claims` how much of each passage of the
    reference is there; `related` is whether anything of the answer is about what the reference says.
    """

    hard: float | None
    soft: float | None
    claims: tuple[float, ...]
    related: bool


NOTHING = Facts("", (), frozenset(), frozenset())


def read_reference(question: str, reference: str, sources: Iterable[str] = ()) -> Reference:
    """The facts that an answer should hold."""
    passages = list_passages(reference)
    whole = [read_facts(passage) for passage in passages]
    every = merge(whole)
    plain = list_passages(question) if count_words(question) <= LONGEST_QUESTION else []
    asked = merge(map(read_facts, plain))
    paired = not any(weigh(read_facts(passage).without(asked)) for passage in passages)
    asked = merge([asked, *map(read_pairs, plain)]) if paired else asked
    read = read_pairs if paired else read_facts
    claims = tuple(claim for passage in passages if not (claim := read(passage).without(asked)).empty)
    about = merge([every, asked])
    told = (read_facts(passage) for text in sources for passage in list_passages(text))
    elsewhere = tuple(facts for facts in told if weigh_found(facts, every) < OWN * weigh(facts) and not covers(facts, whole))
    return Reference(asked, every, claims, merge(claims), every.occurrences, count_words(reference), paired, about, elsewhere)


def read_pairs(passage: str) -> Facts:
    """The pairs of neighbouring words of a passage as its words: "A feeds B" is not "B feeds A"."""
    words = [word.strip(".,;:()\"'").lower() for word in passage.split()]
    return Facts("", (), frozenset(), frozenset(f"{first} {second}" for first, second in pairwise(words)))


def merge(some: Iterable[Facts]) -> Facts:
    """Several passages as one."""
    every = list(some)
    return Facts(
        "\n".join(facts.text for facts in every), tuple(dict.fromkeys(value for facts in every for value in facts.values)),
        frozenset().union(*(facts.names for facts in every)), frozenset().union(*(facts.words for facts in every)),
        tuple(place for facts in every for place in facts.occurrences),
    )


def match_answer(reference: Reference, answer: str, most_words: int | None = None) -> Match:
    """What an answer has of the reference; of its first `most_words` words alone, if that is given."""
    passages = list(dict.fromkeys(list_subject_matter(answer)))
    if most_words is not None:
        passages = cut_passages(passages, most_words)
    said = [mend(reference, reference.read(passage)) for passage in passages]
    related = merge(facts for passage, facts in zip(passages, said) if is_related(reference, read_facts(passage), facts))
    whole = merge(said)
    return Match(
        score_hard(reference.whole, related, whole), score_soft(reference.whole, related, whole),
        tuple(weigh_found(claim, related) / weigh(claim) for claim in reference.claims), not related.empty,
    )


def cut_passages(passages: Sequence[str], most_words: int) -> list[str]:
    """The first passages with together at most `most_words` words; the last one is cut."""
    kept, left = [], most_words
    for passage in passages:
        words = passage.split()
        kept.append(" ".join(words[:left]))
        left -= len(words)
        if left <= 0:
            break
    return kept


def mend(reference: Reference, facts: Facts) -> Facts:
    """Without the reference's values where they were swapped: they become values that no reference has."""
    if COMBINES.search(facts.text):
        return facts
    wrong = {each.value for each in facts.occurrences if is_misplaced(each, reference.places)}
    values = tuple(Value(value.number, "(swapped)") if value in wrong else value for value in facts.values)
    return Facts(facts.text, values, facts.names, facts.words, facts.occurrences) if wrong else facts


# -----------------------------------------------------------------------------
# Weights


def weigh(facts: Facts) -> float:
    """How much is stated."""
    return HARD * (len(facts.values) + len(facts.names)) + len(facts.words)


def weigh_found(facts: Facts, other: Facts) -> float:
    """How much of what is stated `other` states, too."""
    return HARD * (find_values(facts, other) + find_names(facts, other)) + len(facts.words & other.words)


def find_values(facts: Facts, other: Facts) -> float:
    """How many of the values stand in `other`; a number without its unit is half a value, one in a name (AES-256) a whole."""
    runs = {run for name in other.names for run in name.split("-")}
    return sum(
        1.0 if not value.unit and value.number in runs else max((value.equals(each) for each in other.values), default=0.0)
        for value in facts.values
    )


def find_names(facts: Facts, other: Facts) -> int:
    """How many of the names stand in `other`, however they are joined there."""
    return sum(name in other.names or holds_name(other.text, name) for name in facts.names)


def is_related(reference: Reference, passage: Facts, facts: Facts) -> bool:
    """Whether a passage of the answer is about what the reference says, and does not say the opposite.

    `facts` are those of the passage without what the question says.
    """
    if not weigh_found(facts, reference.whole) or contradicts(passage, reference.every):
        return False
    alike = len(passage.words & reference.about.words) + find_names(passage, reference.about)
    besides = len(passage.words) + len(passage.names) - alike
    if alike + find_values(passage, reference.about) < FEWEST and besides > FEWEST:
        return False  # a number alone may be anybody's
    if is_copied(reference, passage):
        return False
    return weigh_found(facts, reference.whole) >= RELATED * weigh(facts) or covers(facts, reference.claims)


def covers(facts: Facts, claims: Iterable[Facts]) -> bool:
    """Whether most of one of the claims is among the facts."""
    return any(weigh_found(claim, facts) >= COVERED * weigh(claim) for claim in claims)


def is_copied(reference: Reference, passage: Facts) -> bool:
    """Whether a passage stands in the sources at a place that says something else than the reference."""
    own = weigh_found(passage, reference.every)
    return any(weigh_found(passage, other) >= max(COPIED * weigh(passage), own + 1) for other in reference.elsewhere)


def score_hard(reference: Facts, related: Facts, whole: Facts) -> float | None:
    """F2 of values and names; what stands in unrelated passages counts as said and not as found."""
    wanted, said = (len(facts.values) + len(facts.names) for facts in (reference, whole))
    if not wanted:
        return None
    recall = (find_values(reference, related) + find_names(reference, related)) / wanted
    precision = (find_values(related, reference) + find_names(related, reference)) / said if said else 0.0
    return combine(precision, recall, 2)


def score_soft(reference: Facts, related: Facts, whole: Facts) -> float | None:
    """F2 of the words."""
    if not reference.words:
        return None
    found = len(reference.words & related.words)
    return combine(found / len(whole.words) if whole.words else 0.0, found / len(reference.words), 2)


def combine(precision: float, recall: float, beta: float) -> float:
    """F-measure in which recall counts `beta` times as much as precision (van Rijsbergen 1979); 0 where nothing is found."""
    bottom = beta**2 * precision + recall
    return (1 + beta**2) * precision * recall / bottom if bottom else 0.0
