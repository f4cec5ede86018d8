"""How sure a difference is: paired, bootstrapped by source document, and judged by a rule fixed before the run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Interval = tuple[float, float]
Score = float | None
Documents = Mapping[str, Sequence[float]]  # the differences of each document's questions
POWER = 0.8  # how likely a difference of `detectable` would have been seen
DECIMALS = 9  # scores have six: what lies beyond is the noise of floating point, and must never look like a difference


@dataclass(frozen=True)
class Comparison:
    """Tuned against base on the `pairs`, the questions that have a score on both sides, from `groups` source documents.

    `difference` is tuned minus base as it stands; `wins` are the questions where tuned is better, which with
    `higher_is_better` False is where it scores less. `interval` (of the difference) and `detectable` (see `find_detectable`)
    are None with one document; `p_value` is the sign test's, `p_holm` the same corrected for the number of metrics, None for
    those that no verdict rests on. `stock` is the mean of the model in use today on the same questions.
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
    stock: Sequence[Score] = (), higher_is_better: bool = True,
) -> Comparison | None:
    """Compare scores row by row; a row without a score on one side is left out of both. None when no row is left.

    `groups` names each row's source document: questions about one document succeed and fail together, so that documents,
    not questions, are the independent draws.
    """
    kept = [index for index, pair in enumerate(zip(base, tuned)) if None not in pair]
    if not kept:
        return None
    differences = [round(tuned[index] - base[index], DECIMALS) for index in kept]
    gains = differences if higher_is_better else [-value for value in differences]
    documents = gather(differences, [groups[index] for index in kept])
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
        detectable=find_detectable(documents, confidence),
        stock=mean_of(stock, kept) if stock else None,
        higher_is_better=higher_is_better,
    )


def describe_alone(
    tuned: Sequence[Score], groups: Sequence[str], *, stock: Sequence[Score] = (), higher_is_better: bool = True
) -> Comparison | None:
    """What can be said without a control: means. None when tuned has no score."""
    kept = [index for index, value in enumerate(tuned) if value is not None]
    if not kept:
        return None
    return Comparison(
        pairs=len(kept), groups=len({groups[index] for index in kept}), base=None, tuned=mean_of(tuned, kept),
        difference=None, interval=None, wins=0, ties=0, losses=0, stock=mean_of(stock, kept) if stock else None,
        higher_is_better=higher_is_better,
    )


def mean_of(scores: Sequence[Score], kept: Sequence[int]) -> float | None:
    """The mean of the kept rows that have a score, None when none has."""
    values = [scores[index] for index in kept if scores[index] is not None]
    return math.fsum(values) / len(values) if values else None


def gather(differences: Sequence[float], groups: Sequence[str]) -> Documents:
    """The differences by document, sorted by name and value: no figure may depend on the order of the questions."""
    documents = defaultdict(list)
    for group, difference in sorted(zip(groups, differences)):
        documents[group].append(difference)
    return documents


# -----------------------------------------------------------------------------
# The interval


def find_interval(documents: Documents, confidence: float, samples: int, seed: int) -> Interval | None:
    """Two-sided interval of the mean difference; None with fewer than two documents.

    At each end the outer one of two intervals: a bootstrap's, which follows the shape of the scores and is a little narrow
    with few documents, and the t interval of `clustered_error`, which is not, but trusts that means are distributed evenly.
    benchmarks/evaluation_calibration.py tells how often the pair errs.
    """
    from scipy import stats

    means = list_means(documents)
    if len(means) < 2:
        return None
    if min(means) == max(means):
        return means[0], means[0]
    low, high = bootstrap_interval(documents, confidence, samples, seed)
    centre = math.fsum(value for values in documents.values() for value in values) / sum(map(len, documents.values()))
    reach = float(stats.t.ppf((1 + confidence) / 2, len(means) - 1)) * clustered_error(documents)
    return round(min(low, centre - reach), DECIMALS), round(max(high, centre + reach), DECIMALS)


def bootstrap_interval(documents: Documents, confidence: float, samples: int, seed: int) -> Interval:
    """Percentile bootstrap, whole documents drawn with replacement, with tails widened for small samples (see `tail_share`)."""
    import numpy as np
    from scipy import stats

    sums = np.array([math.fsum(values) for values in documents.values()])
    sizes = np.array([len(values) for values in documents.values()])

    def mean(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis) / sizes.sum(axis)

    drawn = stats.bootstrap(
        (sums, sizes), mean, paired=True, vectorized=True, n_resamples=samples, batch=1_000, method="percentile",
        rng=np.random.default_rng(seed),
    ).bootstrap_distribution
    tail = tail_share(confidence, len(documents))
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


def clustered_error(documents: Documents) -> float:
    """The standard error of the mean difference when whole documents are drawn; needs two documents at least.

    A mean over questions is a ratio of two sums over documents, with the standard error of a ratio: Cochran, Sampling
    Techniques (3rd edition, 1977), formula 6.13 without the finite-population factor. Miller, Adding Error Bars to Evals
    (arXiv 2411.00640, 2024), formula 4, is the same less the factor count / (count - 1).
    """
    pairs = sum(len(values) for values in documents.values())
    mean = math.fsum(value for values in documents.values() for value in values) / pairs
    squares = math.fsum((math.fsum(values) - len(values) * mean) ** 2 for values in documents.values())
    return math.sqrt(squares * len(documents) / (len(documents) - 1)) / pairs


def find_detectable(documents: Documents, confidence: float) -> float | None:
    """The smallest true difference that so many documents, as noisy as these, show in `POWER` of all runs.

    Bloom's minimum detectable effect (Evaluation Review 19, 1995, page 547): the standard error times the sum of the t
    quantiles of the confidence and of the power, with as many degrees of freedom as documents less one. None with fewer
    than two documents, or where no two documents differ: then nothing tells the noise.
    """
    from scipy import stats

    if len(documents) < 2 or not (error := clustered_error(documents)):
        return None
    freedom = len(documents) - 1
    return float(error * (stats.t.ppf((1 + confidence) / 2, freedom) + stats.t.ppf(POWER, freedom)))


# -----------------------------------------------------------------------------
# Tests


def list_means(documents: Documents) -> list[float]:
    """The mean difference of each document, rounded, so that what cancels out is a zero."""
    return [round(math.fsum(values) / len(values), DECIMALS) for values in documents.values()]


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


def smallest_sample(confidence: float) -> int:
    """The fewest documents that can give a verdict: with fewer, a fair coin lands on one side too often (sign test)."""
    return math.ceil(1 - math.log2(1 - confidence))


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
