"""How sure a difference is: paired, bootstrapped by source document, and judged by a rule fixed before the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Tuned against base on the questions that have a score on both sides.

    `groups` counts the source documents behind the `pairs`; `interval` is None when there is only one.
    """

    pairs: int
    groups: int
    base: float
    tuned: float
    difference: float
    interval: Interval | None
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Verdict:
    """`word` is for programs, `headline` and `reason` for people."""

    word: Literal["better", "worse", "no measurable difference"]
    reason: str

    @property
    def headline(self) -> str:
        """Three words."""
        return self.word.capitalize() if self.word.startswith("no") else f"Tuned is {self.word}"


def compare_pairs(
    base: Sequence[float | None], tuned: Sequence[float | None], groups: Sequence[str], *,
    confidence: float, samples: int, seed: int,
) -> Comparison | None:
    """Compare scores row by row; a row without a score on one side is left out of both. None when no row is left.

    `groups` names each row's source document: questions about one document succeed and fail together, so that documents,
    not questions, are the independent draws.
    """
    rows = [(b, t, group) for b, t, group in zip(base, tuned, groups) if b is not None and t is not None]
    if not rows:
        return None
    differences = [t - b for b, t, _ in rows]
    return Comparison(
        pairs=len(rows),
        groups=len({group for *_, group in rows}),
        base=math.fsum(b for b, _, _ in rows) / len(rows),
        tuned=math.fsum(t for _, t, _ in rows) / len(rows),
        difference=math.fsum(differences) / len(rows),
        interval=bootstrap_interval(differences, [group for *_, group in rows], confidence, samples, seed),
        wins=sum(value > 0 for value in differences),
        ties=sum(value == 0 for value in differences),
        losses=sum(value < 0 for value in differences),
    )


def bootstrap_interval(
    differences: Sequence[float], groups: Sequence[str], confidence: float, samples: int, seed: int
) -> Interval | None:
    """Two-sided interval of the mean difference, whole groups drawn with replacement; None with fewer than two groups.

    Percentile bootstrap with tails widened for small samples (see `tail_share`).
    """
    import numpy as np
    from scipy import stats

    names, index = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    if min(differences) == max(differences):
        return differences[0], differences[0]
    sums, sizes = np.bincount(index, weights=differences), np.bincount(index)

    def mean(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis) / sizes.sum(axis)

    drawn = stats.bootstrap(
        (sums, sizes), mean, paired=True, vectorized=True, n_resamples=samples, batch=1_000, method="percentile",
        rng=np.random.default_rng(seed),
    ).bootstrap_distribution
    tail = tail_share(confidence, len(names))
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(low), float(high)


def tail_share(confidence: float, groups: int) -> float:
    """The share of the bootstrap distribution to cut off at each end.

    A plain percentile interval of a small sample is too narrow: it uses the normal's quantile and the biased variance.
    Hesterberg's expanded percentile interval (The American Statistician 69, 2015, section 5.3) makes up for both.
    """
    from scipy import stats

    expanded = math.sqrt(groups / (groups - 1)) * stats.t.ppf((1 - confidence) / 2, groups - 1)
    return float(stats.norm.cdf(expanded))


def smallest_sample(confidence: float) -> int:
    """The fewest groups that can give a verdict: with fewer, a fair coin lands on one side too often (sign test)."""
    return math.ceil(1 - math.log2(1 - confidence))


# -----------------------------------------------------------------------------
# The verdict


def judge(comparison: Comparison | None, smallest_difference: float, confidence: float) -> Verdict:
    """Better or worse when the interval excludes zero and the mean difference is at least the smallest that matters."""
    doubt = find_doubt(comparison, smallest_difference, confidence)
    if doubt:
        return Verdict("no measurable difference", doubt)
    low, high = comparison.interval
    reason = f"the {confidence:.0%} interval of the difference, {low:+.3f} to {high:+.3f}, excludes zero"
    return Verdict("better" if comparison.difference > 0 else "worse", reason)


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
