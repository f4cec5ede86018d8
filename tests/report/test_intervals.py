"""Intervals hold what they should, with documents of one size and of many, and where hardly anything differs."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from distill.report.intervals import (
    Documents,
    bootstrap_interval,
    bound_by_counts,
    bound_share,
    clustered_error,
    find_freedom,
    find_interval,
    gather,
    nearly_tie,
    smallest_sample,
    tail_share,
)


def of_sizes(sizes: list[int], means: list[float] | None = None) -> Documents:
    """Documents with so many questions each."""
    return {str(n): [means[n] if means else 0.1 * n] * size for n, size in enumerate(sizes)}


@pytest.mark.parametrize(("confidence", "expected"), [(0.9, 5), (0.95, 6), (0.99, 8)])
def test_smallest_sample_is_where_the_sign_test_can_decide(confidence: float, expected: int) -> None:
    assert smallest_sample(confidence) == expected
    assert stats.binomtest(expected, expected).pvalue <= 1 - confidence + 1e-9
    assert stats.binomtest(expected - 1, expected - 1).pvalue > 1 - confidence


FEW, LUMPY = [-0.3, -0.2, -0.1, 0.1, 0.2, 0.3], [0.0] * 17 + [1.0] * 4


@pytest.mark.parametrize(("values", "outer"), [(FEW, ("t", "t")), (LUMPY, ("t", "bootstrap"))])
def test_interval_is_the_outer_of_bootstrap_and_t_at_each_end(values: list[float], outer: tuple[str, str]) -> None:
    documents = gather(values, [str(index) for index in range(len(values))])
    ends = {
        "bootstrap": bootstrap_interval(documents, 0.95, 5_000, 1),
        "t": tuple(stats.ttest_1samp(values, 0).confidence_interval(0.95)),
    }
    found = find_interval(documents, 0.95, 5_000, 1)
    assert found == pytest.approx((ends[outer[0]][0], ends[outer[1]][1]))
    assert found[0] <= min(low for low, _ in ends.values()) + 1e-6 and found[1] >= max(high for _, high in ends.values()) - 1e-6


def test_the_order_of_the_documents_changes_no_bootstrap() -> None:
    rows = list(zip(np.random.default_rng(6).normal(0, 1, 20).tolist(), map(str, range(20))))
    shuffled = random.Random(3).sample(rows, len(rows))
    there, back = (bootstrap_interval(gather(*zip(*each)), 0.95, 500, 1) for each in (rows, shuffled))
    assert there == back


def test_small_sample_cuts_off_less() -> None:
    assert tail_share(0.95, 10) < tail_share(0.95, 30) < tail_share(0.95, 1_000) < 0.025


def test_clustered_error_of_single_questions_is_the_usual_one() -> None:
    values = np.random.default_rng(2).normal(0, 1, 25)
    assert clustered_error({str(index): [value] for index, value in enumerate(values)}) == pytest.approx(stats.sem(values))


# -----------------------------------------------------------------------------
# Documents of unequal size


LUMPS = st.lists(st.integers(1, 60), min_size=2, max_size=15)


@settings(deadline=None, max_examples=60)
@given(sizes=LUMPS)
def test_freedom_is_documents_less_one_and_fewer_where_sizes_differ(sizes: list[int]) -> None:
    freedom = find_freedom(of_sizes(sizes))
    assert 1 - 1e-9 <= freedom <= len(sizes) - 1 + 1e-9
    assert (freedom == pytest.approx(len(sizes) - 1)) == (len(set(sizes)) == 1 or len(sizes) == 2)


@settings(deadline=None, max_examples=40)
@given(sizes=LUMPS)
def test_error_and_freedom_are_those_of_the_quadratic_form(sizes: list[int]) -> None:
    """Bell and McCaffrey's definition, by matrices: E and Var of the squared error when all questions are alike."""
    total, count = sum(sizes), len(sizes)
    of = np.repeat(np.eye(count), sizes, axis=0)  # [question, document]
    residual = np.eye(total) - 1 / total
    pulled = residual @ (of / (total * np.sqrt(1 - np.array(sizes) / total)))
    eigenvalues = np.linalg.eigvalsh(pulled.T @ pulled)
    assert find_freedom(of_sizes(sizes)) == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    values = np.random.default_rng(total).normal(0, 1, total)
    documents = gather(values.tolist(), [f"{number:02}" for number in np.repeat(np.arange(count), sizes)])
    assert clustered_error(documents) ** 2 == pytest.approx(values @ pulled @ pulled.T @ values)
    assert np.trace(pulled @ pulled.T) == pytest.approx(1 / total)  # unbiased: the variance of the mean


@pytest.mark.parametrize("sizes", [[64, 32, 16, 8, 4, 2, 1, 1, 1, 1, 1, 1], [30, 30, 30] + [1] * 12])
def test_a_few_large_documents_seldom_look_like_a_difference(sizes: list[int]) -> None:
    rng, missed = np.random.default_rng(4), 0
    groups = [str(number) for number in np.repeat(np.arange(len(sizes)), sizes)]
    for _ in range(600):
        values = np.repeat(rng.normal(0, 0.2, len(sizes)), sizes) + rng.normal(0, 0.2, len(groups))
        low, high = find_interval(gather(values.tolist(), groups), 0.95, 300, 1)
        missed += not low <= 0 <= high
    assert missed / 600 <= 0.055


# -----------------------------------------------------------------------------
# Where hardly anything differs


@pytest.mark.parametrize(("seen", "count", "confidence"), [(0, 6, 0.95), (1, 40, 0.95), (5, 6, 0.9), (6, 6, 0.95)])
def test_the_largest_share_is_clopper_and_pearsons(seen: int, count: int, confidence: float) -> None:
    expected = stats.binomtest(seen, count).proportion_ci(confidence, method="exact").high
    assert bound_share(seen / count, count, confidence) == pytest.approx(expected)


@pytest.mark.parametrize(("means", "expected"), [
    ([0.0] * 6, (-0.4593, 0.4593)), ([1.0] * 6, (0.0815, 1.0)), ([-1.0] * 6, (-1.0, -0.0815)), ([0.5] * 6, (-0.1889, 0.7296)),
    ([0.0] * 39 + [1.0], (-0.0881, 0.1316)), ([0.0] * 39 + [-0.2], (-0.1316, 0.0881)),
])
def test_equal_documents_bound_the_mean_by_their_number_alone(means: list[float], expected: tuple[float, float]) -> None:
    documents = of_sizes([3] * len(means), means)
    assert bound_by_counts(documents, 0.95) == pytest.approx(expected, abs=1e-4)
    assert find_interval(documents, 0.95, 300, 1) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("confidence", "few"), [(0.9, 2), (0.95, 3), (0.99, 6)])
def test_nearly_all_tie_where_the_t_interval_could_never_leave_zero(confidence: float, few: int) -> None:
    ties = [0.0] * 10_000
    for apart, expected in ((few, True), (few + 1, False)):
        assert nearly_tie([*ties, *[0.3] * apart], confidence) is expected
        low, _ = stats.ttest_1samp([*ties, *[0.3] * apart], 0).confidence_interval(confidence)
        assert bool(low <= 0) is expected
    assert not nearly_tie([0.3, 0.2], confidence) and nearly_tie([0.3, 0.0], confidence)


def test_equal_documents_of_unequal_size_bound_it_less() -> None:
    there, back = (bound_by_counts(of_sizes(sizes, [0.0] * 12), 0.95) for sizes in ([4] * 12, [37] + [1] * 11))
    assert back[0] < 2 * there[0] < 0 < 2 * there[1] < back[1]


@pytest.mark.parametrize(("count", "share", "upwards"), [
    (12, 0.1, 0.5), (40, 0.02, 1), (40, 0.05, 1), (100, 0.02, 1), (40, 0.1, 0.5),
])
def test_rare_differences_are_held_too(count: int, share: float, upwards: float) -> None:
    rng, held = np.random.default_rng(5), 0
    for _ in range(300):
        values = (rng.random(count) < share) * np.where(rng.random(count) < upwards, 1.0, -1.0)
        low, high = find_interval(gather(values.tolist(), list(map(str, range(count)))), 0.95, 200, 1)
        held += low <= share * (2 * upwards - 1) <= high
    assert held / 300 >= 0.95
