"""How far a mean difference may be from the true one, and how small a true one would show: whole documents are the draws."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

Interval = tuple[float, float]
Documents = Mapping[str, Sequence[float]]  # the differences of each document's questions
POWER = 0.8  # how likely a difference of `detectable` would have been seen
DECIMALS = 9  # scores have six: what lies beyond is the noise of floating point, and must never look like a difference


def gather(differences: Sequence[float], groups: Sequence[str]) -> Documents:
    """The differences by document, sorted by name and value: no figure may depend on the order of the questions."""
    documents = defaultdict(list)
    for group, difference in sorted(zip(groups, differences)):
        documents[group].append(difference)
    return documents


def list_means(documents: Documents) -> list[float]:
    """The mean difference of each document, rounded, so that what cancels out is a zero."""
    return [round(math.fsum(values) / len(values), DECIMALS) for values in documents.values()]


def smallest_sample(confidence: float) -> int:
    """The fewest documents that can give a verdict: with fewer, a fair coin lands on one side too often (sign test)."""
    return math.ceil(1 - math.log2(1 - confidence))


# -----------------------------------------------------------------------------
# The interval


def find_interval(documents: Documents, confidence: float, samples: int, seed: int) -> Interval | None:
    """Two-sided interval of the mean difference; None with fewer than two documents.

    At each end the outer one of two intervals: a bootstrap's, which follows the shape of the scores and is a little narrow
    with few documents, and the t interval, which is not, but trusts that means are distributed evenly.
    benchmarks/evaluation_calibration.py tells how often the pair errs. Where all documents are alike, or nearly all tie, the
    scores hardly tell the noise, and `bound_by_counts` comes in.
    """
    means = list_means(documents)
    if len(means) < 2:
        return None
    equal = min(means) == max(means)
    found = [] if equal else [bootstrap_interval(documents, confidence, samples, seed), t_interval(documents, confidence)]
    if equal or nearly_tie(means, confidence):
        found.append(bound_by_counts(documents, confidence))
    low, high = min(low for low, _ in found), max(high for _, high in found)
    return round(max(low, -1.0), DECIMALS), round(min(high, 1.0), DECIMALS)  # scores lie in 0 to 1, and so no mean beyond


def nearly_tie(means: Sequence[float], confidence: float) -> bool:
    """Whether some documents tie, and the others are too few for any t interval to leave zero, however many tie.

    With k equal differences among many ties, the mean is the square root of k standard errors.
    """
    from scipy import stats

    apart = sum(mean != 0 for mean in means)
    return apart < len(means) and apart <= float(stats.norm.ppf((1 + confidence) / 2)) ** 2


def t_interval(documents: Documents, confidence: float) -> Interval:
    """The mean difference and as many standard errors as the t distribution of `find_freedom` asks for."""
    from scipy import stats

    centre = math.fsum(value for values in documents.values() for value in values) / sum(map(len, documents.values()))
    reach = float(stats.t.ppf((1 + confidence) / 2, find_freedom(documents))) * clustered_error(documents)
    return centre - reach, centre + reach


def bound_by_counts(documents: Documents, confidence: float) -> Interval:
    """How far from zero, or from what all documents score alike, the mean may lie if nothing but their number is known.

    At each end: the largest share of documents that may lie beyond, by Clopper and Pearson (Biometrika 26, 1934), if those lie
    as far off as scores can, at -1 or 1. With n equal documents that share is 1 - ((1 - confidence) / 2) ** (1 / n).
    Documents of unequal size count for fewer, after Korn and Graubard (Survey Methodology 24, 1998).
    """
    means = list_means(documents)
    usual = means[0] if min(means) == max(means) else 0.0
    sizes, worth = [len(values) for values in documents.values()], find_freedom(documents) + 1
    below, above = (
        bound_share(sum(size for size, mean in zip(sizes, means) if sign * (mean - usual) > 0) / sum(sizes), worth, confidence)
        for sign in (-1, 1)
    )
    return usual - below * (1 + usual), usual + above * (1 - usual)


def bound_share(share: float, count: float, confidence: float) -> float:
    """The upper end of the two-sided Clopper-Pearson interval of a share that was seen in `count` draws, whole or not."""
    from scipy import stats

    return float(stats.beta.ppf((1 + confidence) / 2, share * count + 1, (1 - share) * count)) if share < 1 else 1.0


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


# -----------------------------------------------------------------------------
# How noisy the mean is


def clustered_error(documents: Documents) -> float:
    """The standard error of the mean difference when whole documents are drawn; needs two documents at least.

    CR2 of Bell and McCaffrey (Survey Methodology 28, 2002) for a mean: a document that holds a share h of the questions pulls
    the mean towards itself, so that its squared residual is too small by 1 - h. With documents of one size it is the same as
    Cochran's (Sampling Techniques, 1977, formula 6.13), and as Miller's (arXiv 2411.00640, 2024, formula 4) times
    count / (count - 1).
    """
    pairs = sum(len(values) for values in documents.values())
    mean = math.fsum(value for values in documents.values() for value in values) / pairs
    squares = math.fsum(
        (math.fsum(values) - len(values) * mean) ** 2 / (1 - len(values) / pairs) for values in documents.values()
    )
    return math.sqrt(squares) / pairs


def find_freedom(documents: Documents) -> float:
    """The degrees of freedom of `clustered_error`: documents less one where all have one size, fewer where a few are large.

    Satterthwaite's, as Bell and McCaffrey work them out for CR2 with independent questions; needs two documents at least.
    """
    pairs = sum(len(values) for values in documents.values())
    shares = [len(values) / pairs for values in documents.values()]
    pulls = [share**2 / (1 - share) for share in shares]
    crossed = math.fsum(pulls) ** 2 - math.fsum(pull**2 for pull in pulls)
    return 1 / (math.fsum(share**2 for share in shares) + crossed)


def find_detectable(documents: Documents, confidence: float, smallest_difference: float = 0.0) -> float | None:
    """The smallest true difference that so many documents, as noisy as these, show in `POWER` of all runs.

    Shown is what `judge` gives a verdict on: the mean must reach beyond the noise and up to `smallest_difference`, whichever is
    further, and what it must reach, the true difference must exceed for luck not to decide. With 0 this is Bloom's minimum
    detectable effect (Evaluation Review 19, 1995, page 547): the standard error times the sum of the t quantiles of the
    confidence and of the power. None with too few documents for a verdict, and where nothing tells the noise.
    """
    from scipy import stats

    means = list_means(documents)
    if len(means) < smallest_sample(confidence) or nearly_tie(means, confidence) or not (error := clustered_error(documents)):
        return None
    freedom = find_freedom(documents)
    needed = max(error * float(stats.t.ppf((1 + confidence) / 2, freedom)), smallest_difference)
    return needed + error * float(stats.t.ppf(POWER, freedom))
