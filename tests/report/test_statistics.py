"""The interval covers what it should, and the verdict can say better, worse and nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from distill.report.statistics import Comparison, compare_pairs, judge, smallest_sample, tail_share

NONE = "no measurable difference"


def compare(base: list, tuned: list, groups: list[str] | None = None, confidence: float = 0.95, samples: int = 999):
    names = groups or [str(index) for index in range(len(base))]
    return compare_pairs(base, tuned, names, confidence=confidence, samples=samples, seed=1)


def draw(seed: int, count: int, shift: float = 0.0, spread: float = 0.2) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.2, 0.6, count)
    return list(base), list(base + rng.normal(shift, spread, count))


@pytest.mark.parametrize(("shift", "smallest", "expected"), [
    (0.2, 0.02, "better"), (-0.2, 0.02, "worse"), (0.0, 0.0, NONE), (0.2, 0.5, NONE), (-0.2, 0.5, NONE),
])
def test_verdict(shift: float, smallest: float, expected: str) -> None:
    base, tuned = draw(3, 40, shift)
    verdict = judge(compare(base, tuned), smallest, 0.95)
    assert verdict.word == expected and verdict.reason


def test_equal_sides_give_an_interval_of_zero_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare([0.5, 0.25, 1.0] * 10, [0.5, 0.25, 1.0] * 10)
    assert (found.difference, found.interval, found.wins, found.ties, found.losses) == (0.0, (0.0, 0.0), 0, 30, 0)
    verdict = judge(found, 0.0, 0.95)
    assert verdict.word == NONE and "the same on each of the 30 questions" in verdict.reason


def test_equal_differences_give_a_verdict_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare([0.25] * 10, [0.5] * 10)
    assert found.interval == (0.25, 0.25) and judge(found, 0.02, 0.95).word == "better"


@pytest.mark.parametrize(("base", "tuned", "groups", "message"), [
    ([], [], [], "no question has a score on both sides"),
    ([None, 0.1], [0.2, None], ["a", "b"], "no question has a score on both sides"),
    ([0.1], [0.9], ["a"], "rest on 1 source documents"),
    ([0.1] * 5, [0.9] * 5, list("abcde"), "rest on 5 source documents, a verdict needs at least 6"),
    ([0.1] * 40, [0.9] * 40, ["one manual"] * 40, "rest on 1 source documents"),
])
def test_too_few_for_a_verdict(base: list, tuned: list, groups: list[str], message: str) -> None:
    verdict = judge(compare(base, tuned, groups), 0.0, 0.95)
    assert verdict.word == NONE and message in verdict.reason


@pytest.mark.parametrize(("confidence", "expected"), [(0.9, 5), (0.95, 6), (0.99, 8)])
def test_smallest_sample_is_where_the_sign_test_can_decide(confidence: float, expected: int) -> None:
    assert smallest_sample(confidence) == expected
    assert stats.binomtest(expected, expected).pvalue <= 1 - confidence + 1e-9
    assert stats.binomtest(expected - 1, expected - 1).pvalue > 1 - confidence


def test_rows_without_a_score_leave_both_sides() -> None:
    found = compare([0.1, None, 0.3, 0.5], [0.2, 0.9, None, 0.4])
    assert (found.pairs, found.base, found.tuned) == (2, pytest.approx(0.3), pytest.approx(0.3))
    assert (found.wins, found.ties, found.losses) == (1, 0, 1)


def test_questions_of_one_document_count_as_one_draw() -> None:
    base, tuned = draw(5, 12, 0.1)
    alone, repeated = compare(base, tuned), compare(base * 5, tuned * 5, [str(index) for index in range(12)] * 5)
    assert repeated.interval == pytest.approx(alone.interval, abs=0.02)
    careless = compare(base * 5, tuned * 5)
    assert np.ptp(careless.interval) < 0.6 * np.ptp(repeated.interval)


def test_large_sample_agrees_with_the_t_interval() -> None:
    base, tuned = draw(7, 400, 0.05)
    found = compare(base, tuned, samples=5_000)
    expected = stats.ttest_rel(tuned, base).confidence_interval(0.95)
    assert found.interval == pytest.approx(tuple(expected), abs=2e-3)


def test_small_sample_cuts_off_less() -> None:
    assert tail_share(0.95, 10) < tail_share(0.95, 30) < tail_share(0.95, 1_000) < 0.025


def test_base_against_itself_seldom_gives_a_verdict() -> None:
    rng = np.random.default_rng(11)
    groups = [str(index // 3) for index in range(36)]
    verdicts = 0
    for _ in range(500):
        shared = np.repeat(rng.normal(0, 0.1, 12), 3)  # a document's questions succeed and fail together
        base, tuned = rng.normal(0.5, 0.2, 36), 0.5 + shared + rng.normal(0, 0.2, 36)
        verdicts += judge(compare(list(base), list(tuned), groups, samples=400), 0.0, 0.95).word != NONE
    assert verdicts / 500 <= 0.065


def test_a_lift_of_ten_points_is_found() -> None:
    found = sum(judge(compare(*draw(seed, 100, 0.1, 0.3), samples=400), 0.02, 0.95).word == "better" for seed in range(100))
    assert found >= 85


SCORES = st.lists(st.tuples(*[st.none() | st.integers(0, 20).map(lambda n: n / 20)] * 2), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(rows=SCORES, smallest=st.sampled_from([0.0, 0.02, 0.3]))
def test_swapping_the_sides_flips_everything(rows: list, smallest: float) -> None:
    base, tuned = (list(side) for side in zip(*rows))
    there, back = compare(base, tuned, samples=200), compare(tuned, base, samples=200)
    if there is None:
        assert back is None
        return
    assert there.difference == pytest.approx(-back.difference)
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)
    if there.interval:
        assert there.interval == pytest.approx(tuple(-end for end in reversed(back.interval)), abs=1e-9)
        assert there.interval[0] <= there.difference + 1e-9 and there.difference - 1e-9 <= there.interval[1]
    flipped = {"better": "worse", "worse": "better", NONE: NONE}
    if there.interval is None or min(abs(end) for end in there.interval) > 1e-9:  # an end at zero is decided by rounding
        assert judge(back, smallest, 0.95).word == flipped[judge(there, smallest, 0.95).word]


def test_same_seed_same_interval() -> None:
    base, tuned = draw(9, 30, 0.05)
    assert compare(base, tuned) == compare(base, tuned)
    assert isinstance(compare(base, tuned), Comparison)
