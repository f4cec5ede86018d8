"""The interval covers what it should, and the verdict can say better, worse and nothing."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from distill.report.statistics import (
    Comparison,
    compare_pairs,
    correct_holm,
    describe_alone,
    judge,
    sign_p_value,
)

NONE = "no measurable difference"


def compare(base: list, tuned: list, groups: list[str] | None = None, confidence: float = 0.95, samples: int = 999, **more):
    names = groups or [str(index) for index in range(len(base))]
    return compare_pairs(base, tuned, names, confidence=confidence, samples=samples, seed=1, **more)


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


def test_equal_sides_give_an_interval_around_zero_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare([0.5, 0.25, 1.0] * 10, [0.5, 0.25, 1.0] * 10)
    assert (found.difference, found.wins, found.ties, found.losses, found.detectable) == (0.0, 0, 30, 0, None)
    assert found.interval == pytest.approx((0.025 ** (1 / 30) - 1, 1 - 0.025 ** (1 / 30)))  # 0 of 30 differ: 11.6% may
    verdict = judge(found, 0.0, 0.95)
    assert verdict.word == NONE and "the same on each of the 30 questions" in verdict.reason


@pytest.mark.parametrize(("gain", "count", "expected"), [
    (1.0, 6, "better"), (-1.0, 6, "worse"), (0.25, 10, NONE), (0.25, 20, "better"),
])
def test_equal_differences_give_a_verdict_where_enough_documents_say_so(gain: float, count: int, expected: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare([0.0 if gain > 0 else 1.0] * count, [gain if gain > 0 else 0.0] * count)
    assert judge(found, 0.02, 0.95).word == expected
    assert -1 <= found.interval[0] <= gain <= found.interval[1] <= 1 and np.ptp(found.interval) > 0.1


@pytest.mark.parametrize("leaning", [1, 2, 3])
def test_a_few_documents_among_ties_give_no_verdict_and_tell_no_noise(leaning: int) -> None:
    found = compare([0.0] * 40, [1.0] * leaning + [0.0] * (40 - leaning))
    assert judge(found, 0.0, 0.95).word == NONE and found.detectable is None
    assert found.interval[0] < -0.08 and found.interval[1] > 2 * leaning / 40


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


def test_rows_without_a_score_leave_both_sides() -> None:
    found = compare([0.1, None, 0.3, 0.5], [0.2, 0.9, None, 0.4])
    assert (found.pairs, found.base, found.tuned) == (2, pytest.approx(0.3), pytest.approx(0.3))
    assert (found.wins, found.ties, found.losses) == (1, 0, 1)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_score(broken: float) -> None:
    base, tuned = draw(3, 40, 0.2)
    found = compare([broken, *base, 0.5], [0.5, *tuned, broken], stock=[0.5, *[0.3] * 39, broken, 0.5])
    alone = compare(base, tuned, [str(number) for number in range(1, 41)], stock=[0.3] * 39 + [None])
    assert found == alone and judge(found, 0.02, 0.95).word == "better"
    assert compare([broken] * 9, [0.5] * 9) is None and describe_alone([broken], ["a"]) is None


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


# -----------------------------------------------------------------------------
# Properties

POINTS = st.integers(0, 20).map(lambda n: n / 20)
SCORES = st.lists(st.tuples(st.none() | POINTS, st.none() | POINTS, st.sampled_from("abcdefghij")), min_size=1, max_size=40)
EXACT = settings(deadline=None, max_examples=60)


@EXACT
@given(rows=SCORES, smallest=st.sampled_from([0.0, 0.02, 0.3]))
def test_swapping_the_sides_flips_everything(rows: list, smallest: float) -> None:
    base, tuned, groups = (list(column) for column in zip(*rows))
    there, back = compare(base, tuned, groups, samples=200), compare(tuned, base, groups, samples=200)
    if there is None:
        assert back is None
        return
    assert there.difference == pytest.approx(-back.difference)
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)
    assert (there.p_value, there.detectable) == (back.p_value, pytest.approx(back.detectable))
    if there.interval:
        assert there.interval == pytest.approx(tuple(-end for end in reversed(back.interval)), abs=1e-6)
        assert there.interval[0] <= there.difference + 1e-6 and there.difference - 1e-6 <= there.interval[1]
    flipped = {"better": "worse", "worse": "better", NONE: NONE}
    if there.interval is None or min(abs(end) for end in there.interval) > 1e-6:  # an end at zero is decided by rounding
        assert judge(back, smallest, 0.95).word == flipped[judge(there, smallest, 0.95).word]


@EXACT
@given(rows=SCORES, order=st.randoms(use_true_random=False))
def test_the_order_of_the_questions_changes_no_figure(rows: list, order: random.Random) -> None:
    shuffled = order.sample(rows, len(rows))
    assert compare(*map(list, zip(*rows)), samples=200) == compare(*map(list, zip(*shuffled)), samples=200)


@EXACT
@given(rows=SCORES)
def test_a_score_that_should_fall_is_judged_the_other_way_round(rows: list) -> None:
    base, tuned, groups = (list(column) for column in zip(*rows))
    up, down = compare(base, tuned, groups), compare(base, tuned, groups, higher_is_better=False)
    if up is None:
        assert down is None
        return
    assert (down.wins, down.losses, down.difference, down.interval) == (up.losses, up.wins, up.difference, up.interval)
    assert (down.documents_won, down.documents_lost) == (up.documents_lost, up.documents_won)
    assert down.gain == -up.gain
    flipped = {"better": "worse", "worse": "better", NONE: NONE}
    assert judge(down, 0.02, 0.95).word == flipped[judge(up, 0.02, 0.95).word]


@EXACT
@given(means=st.lists(st.integers(-2, 2), min_size=1, max_size=20))
def test_sign_test_counts_the_tosses_of_a_fair_coin(means: list[int]) -> None:
    documents = {str(index): [mean / 10 + 0.1, mean / 10 - 0.1] for index, mean in enumerate(means)}  # 0.1 - 0.1 is a tie
    ups, downs = sum(mean > 0 for mean in means), sum(mean < 0 for mean in means)
    tosses, extreme = ups + downs, max(ups, downs)
    tail = sum(math.comb(tosses, heads) for heads in range(extreme, tosses + 1)) / 2**tosses
    assert sign_p_value(documents) == pytest.approx(min(1.0, 2 * tail))
    expected = stats.binomtest(ups, tosses).pvalue if tosses else 1.0
    assert sign_p_value(documents) == pytest.approx(expected)


P_VALUES = st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.05, 0.3, 1.0]) | st.floats(0, 1), min_size=1, max_size=7)


@EXACT
@given(values=P_VALUES)
def test_holm_is_the_closed_test_with_bonferroni(values: list[float]) -> None:
    """Holm's definition, by brute force: the worst of all families that hold the test."""
    corrected = correct_holm({str(index): value for index, value in enumerate(values)})
    for index, value in enumerate(values):
        families = [
            family for size in range(1, len(values) + 1) for family in itertools.combinations(range(len(values)), size)
            if index in family
        ]
        worst = max(min(1.0, len(family) * min(values[member] for member in family)) for family in families)
        assert corrected[str(index)] == pytest.approx(worst)
        assert corrected[str(index)] >= value


@EXACT
@given(values=P_VALUES)
def test_holm_keeps_the_order(values: list[float]) -> None:
    corrected = correct_holm({str(index): value for index, value in enumerate(values)})
    ordered = [corrected[str(index)] for index in sorted(range(len(values)), key=values.__getitem__)]
    assert ordered == sorted(ordered) and list(corrected) == [str(index) for index in range(len(values))]


def test_holm_of_a_worked_example() -> None:
    assert correct_holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert correct_holm({}) == {}


# -----------------------------------------------------------------------------
# What a sample can show


def test_asking_about_one_document_again_shows_nothing_more() -> None:
    base, tuned = draw(5, 12, 0.1)
    names = [str(index) for index in range(12)]
    alone, repeated = compare(base, tuned, names), compare(base * 5, tuned * 5, names * 5)
    assert repeated.detectable == pytest.approx(alone.detectable)
    assert repeated.p_value == alone.p_value


@pytest.mark.parametrize(("documents", "spread", "smallest"), [
    (20, 0.2, 0.0), (20, 0.2, 0.05), (20, 0.2, 0.1), (60, 0.1, 0.05),
])
def test_a_detectable_difference_gets_its_verdict_in_four_of_five_runs(documents: int, spread: float, smallest: float) -> None:
    rng = np.random.default_rng(8)
    groups = [str(index // 4) for index in range(4 * documents)]

    def sample(shift: float) -> Comparison:
        shared = np.repeat(rng.normal(0, spread / 2, documents), 4)
        tuned = list(shift + shared + rng.normal(0, spread, 4 * documents))
        return compare([0.0] * len(tuned), tuned, groups, samples=300, smallest_difference=smallest)

    detectable = float(np.mean([sample(0.0).detectable for _ in range(50)]))
    found = sum(judge(sample(detectable), smallest, 0.95).word == "better" for _ in range(400)) / 400
    assert detectable > smallest and 0.74 <= found <= 0.88


@pytest.mark.parametrize(("base", "tuned", "groups"), [
    ([0.1, 0.3], [0.2, 0.1], ["a", "a"]), ([0.5] * 9, [0.5] * 9, list("abcdefghi")), ([0.25] * 9, [0.5] * 9, list("abcdefghi")),
    ([0.5] * 5, [0.4, 0.7, 0.3, 0.6, 0.9], list("abcde")), ([0.5] * 9, [0.5] * 6 + [0.6, 0.7, 0.3], list("abcdefghi")),
])
def test_nothing_is_detectable_where_no_verdict_could_come(base: list, tuned: list, groups: list[str]) -> None:
    assert compare(base, tuned, groups).detectable is None


@pytest.mark.parametrize("higher", [True, False])
def test_documents_that_lean_against_the_mean_are_told(higher: bool) -> None:
    few, many = ([1.0] * 25, [0.0] * 75) if higher else ([0.0] * 25, [1.0] * 75)
    step = 0.01 if higher else -0.01
    found = compare(few + many, [1.0 - value for value in few] + [value + step for value in many], higher_is_better=higher)
    assert found.gain < 0 and (found.documents_won, found.documents_lost) == (75, 25)
    assert found.p_value < 0.001 and not found.documents_agree
    assert compare([0.2] * 9, [0.5] * 9).documents_agree and not compare([0.2] * 9, [0.2] * 9).documents_agree


def test_noise_of_floating_point_is_no_difference() -> None:
    base, tuned = [0.1 + 0.2] * 12, [0.3] * 12
    found = compare(base, tuned)
    assert (found.wins, found.ties, found.losses, found.p_value) == (0, 12, 0, 1.0)
    assert found.interval == compare([0.3] * 12, [0.3] * 12).interval
    cancelled = compare([0.1, 0.3, 0.4] * 10, [0.2, 0.5, 0.1] * 10, [str(index // 3) for index in range(30)])
    assert (cancelled.interval, cancelled.p_value) == (compare([0.5] * 10, [0.5] * 10).interval, 1.0)


# -----------------------------------------------------------------------------
# Stock, and no control


def test_stock_is_the_mean_of_the_same_questions() -> None:
    found = compare([0.1, None, 0.3, 0.4], [0.2, 0.5, 0.3, 0.4], stock=[0.9, 0.0, 0.7, None])
    assert (found.pairs, found.stock) == (3, pytest.approx(0.8))
    assert compare([0.1], [0.2], stock=[None]).stock is None and compare([0.1], [0.2]).stock is None


def test_stock_changes_no_other_figure() -> None:
    base, tuned = draw(4, 20, 0.1)
    assert replace(compare(base, tuned, stock=[0.99] * 20), stock=None) == compare(base, tuned)


def test_without_a_control_there_are_means_and_no_verdict() -> None:
    found = describe_alone([0.2, None, 0.6], ["a", "a", "b"], stock=[0.5, 0.9, None])
    assert (found.pairs, found.groups, found.tuned, found.stock) == (2, 2, pytest.approx(0.4), 0.5)
    assert (found.base, found.difference, found.interval, found.gain, found.gain_interval) == (None,) * 5
    assert judge(found, 0.05, 0.95).word == "no control" and describe_alone([None], ["a"]) is None


def test_same_seed_same_interval() -> None:
    base, tuned = draw(9, 30, 0.05)
    assert compare(base, tuned) == compare(base, tuned)
    assert isinstance(compare(base, tuned), Comparison)
