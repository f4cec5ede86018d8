"""How sure a difference is: paired, bootstrapped by source document, and judged by a rule fixed before the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distill.report.intervals import (
    DECIMALS,
    Documents,
    Interval,
    find_detectable,
    find_interval,
    gather,
    list_means,
    smallest_sample,
)

Score = float | None


@dataclass(frozen=True)
class Comparison:
    """Tuned against base on the `pairs`, the questions that have a score on both sides, from `groups` source documents.

    `difference` is tuned minus base as it stands; `wins` are the questions where tuned is better, which with
    `higher_is_better` False is where it scores less, and `documents_won` the documents where it is better on average.
    `interval` (of the difference) is None with one document; `detectable` (see `find_detectable`) also where no verdict could
    come. `p_value` is the sign test's, `p_holm` the same corrected for the number of metrics, None for those that no verdict
    rests on. `stock` is the mean of the model in use today on the same questions.
    Without a control there is no pair: `tuned` and `stock` are means of all scored questions, `pairs` counts them, the rest
    is None or 0.
    """

    pairs: int
    groups: int
    base: float | None
    tuned: float
    difference: float | None
    interval: Interval | None
    wins: int
    ties: int
    losses: int
    p_value: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    stock: float | None = None
    higher_is_better: bool = True
    documents_won: int = 0
    documents_lost: int = 0

    @property
    def documents_agree(self) -> bool:
        """Whether the sign test and the mean lean to the same side: a few great losses outweigh many small wins."""
        return self.gain is not None and self.gain * (self.documents_won - self.documents_lost) > 0

    @property
    def gain(self) -> float | None:
        """The difference with its sign turned so that above zero is better."""
        return self.difference if self.difference is None or self.higher_is_better else -self.difference

    @property
    def gain_interval(self) -> Interval | None:
        """The interval of the gain."""
        return self.interval if self.interval is None or self.higher_is_better else (-self.interval[1], -self.interval[0])


@dataclass(frozen=True)
class Verdict:
    """`word` is for programs, `headline` and `reason` for people."""

    word: Literal["better", "worse", "no measurable difference", "no control"]
    reason: str

    @property
    def headline(self) -> str:
        """A few words."""
        return self.word.capitalize() if self.word.startswith("no") else f"Tuned is {self.word}"


def compare_pairs(
    base: Sequence[Score], tuned: Sequence[Score], groups: Sequence[str], *, confidence: float, samples: int, seed: int,
    stock: Sequence[Score] = (), higher_is_better: bool = True, smallest_difference: float = 0.0,
) -> Comparison | None:
    """Compare scores row by row; a row without a score on one side is left out of both. None when no row is left.

    `groups` names each row's source document: questions about one document succeed and fail together, so that documents,
    not questions, are the independent draws. `smallest_difference` is that of the verdict that will rest on this comparison,
    0 where none will. Differences lie within -1 and 1; nan and infinity are no scores.
    """
    kept = [index for index, pair in enumerate(zip(base, tuned)) if all(map(is_score, pair))]
    if not kept:
        return None
    differences = [round(tuned[index] - base[index], DECIMALS) for index in kept]
    gains = differences if higher_is_better else [-value for value in differences]
    documents = gather(differences, [groups[index] for index in kept])
    leanings = count_leanings(gather(gains, [groups[index] for index in kept]))
    return Comparison(
        pairs=len(kept),
        groups=len(documents),
        base=mean_of(base, kept),
        tuned=mean_of(tuned, kept),
        difference=math.fsum(differences) / len(kept),
        interval=find_interval(documents, confidence, samples, seed),
        wins=sum(value > 0 for value in gains),
        ties=sum(value == 0 for value in gains),
        losses=sum(value < 0 for value in gains),
        p_value=sign_p_value(documents),
        detectable=find_detectable(documents, confidence, smallest_difference),
        stock=mean_of(stock, kept) if stock else None,
        higher_is_better=higher_is_better,
        documents_won=leanings["documents_tuned"],
        documents_lost=leanings["documents_base"],
    )


def describe_alone(
    tuned: Sequence[Score], groups: Sequence[str], *, stock: Sequence[Score] = (), higher_is_better: bool = True
) -> Comparison | None:
    """What can be said without a control: means. None when tuned has no score."""
    kept = [index for index, value in enumerate(tuned) if is_score(value)]
    if not kept:
        return None
    return Comparison(
        pairs=len(kept), groups=len({groups[index] for index in kept}), base=None, tuned=mean_of(tuned, kept),
        difference=None, interval=None, wins=0, ties=0, losses=0, stock=mean_of(stock, kept) if stock else None,
        higher_is_better=higher_is_better,
    )


def is_score(value: Score) -> bool:
    """Whether there is a number to compare: nan would pass every test of a verdict's doubts."""
    return value is not None and math.isfinite(value)


def mean_of(scores: Sequence[Score], kept: Sequence[int]) -> float | None:
    """The mean of the kept rows that have a score, None when none has."""
    values = [scores[index] for index in kept if is_score(scores[index])]
    return math.fsum(values) / len(values) if values else None


# -----------------------------------------------------------------------------
# Tests


def sign_p_value(documents: Documents) -> float:
    """Exact two-sided sign test on the documents' mean differences, ties left out (Conover 1999, section 3.4); 1 if all tie."""
    from scipy import stats

    means = [mean for mean in list_means(documents) if mean]
    return float(stats.binomtest(sum(mean > 0 for mean in means), len(means)).pvalue) if means else 1.0


def count_leanings(documents: Documents) -> dict[str, int]:
    """How many documents' mean differences are for each side: what the sign test looks at."""
    means = list_means(documents)
    return {"documents_tuned": sum(mean > 0 for mean in means), "documents_base": sum(mean < 0 for mean in means)}


def correct_holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: reject what is at most alpha, and at most a share alpha of all families errs at all.

    Holm, Scandinavian Journal of Statistics 6 (1979), in the adjusted form of Wright, Biometrics 48 (1992).
    """
    corrected, highest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


# -----------------------------------------------------------------------------
# The verdict


def judge(comparison: Comparison | None, smallest_difference: float, confidence: float) -> Verdict:
    """Better or worse when the interval excludes zero and the mean difference is at least the smallest that matters."""
    if comparison is not None and comparison.base is None:
        return Verdict("no control", "there is no base model to compare with: nobody can tell what the fine-tuning changed")
    doubt = find_doubt(comparison, smallest_difference, confidence)
    if doubt:
        return Verdict("no measurable difference", doubt)
    low, high = comparison.interval
    reason = f"the {confidence:.0%} interval of the difference, {low:+.3f} to {high:+.3f}, excludes zero"
    return Verdict("better" if comparison.gain > 0 else "worse", reason)


def find_doubt(comparison: Comparison | None, smallest_difference: float, confidence: float) -> str:
    """Why there is no verdict, or an empty text."""
    if comparison is None:
        return "no question has a score on both sides"
    needed = smallest_sample(confidence)
    if comparison.wins == comparison.losses == 0:
        return f"base and tuned score the same on each of the {comparison.pairs} questions"
    if comparison.interval is None or comparison.groups < needed:
        return f"the questions rest on {comparison.groups} source documents, a verdict needs at least {needed}"
    low, high = comparison.interval
    if low <= 0 <= high:
        return f"the {confidence:.0%} interval of the difference, {low:+.3f} to {high:+.3f}, includes zero"
    if abs(comparison.difference) < smallest_difference:
        return f"the difference, {comparison.difference:+.3f}, is below the smallest that matters, {smallest_difference:g}"
    return ""
