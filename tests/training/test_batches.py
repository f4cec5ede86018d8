"""Every row is learnt once an epoch, whole, and in a batch that is no larger than asked for."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.training.batches import lay_end_to_end, plan_steps, share_rows, split_by_tokens
from distill.training.encode import IGNORE, EncodedExample

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=40)


# -----------------------------------------------------------------------------
# Rows end to end


def test_rows_lie_end_to_end_and_each_begins_at_position_zero() -> None:
    rows = [EncodedExample("a", [5, 6, 7], [IGNORE, 6, 7]), EncodedExample("b", [8, 9], [IGNORE, 9])]
    batch = lay_end_to_end(rows)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9]] and batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.boundaries.tolist() == [0, 3, 5] and batch.longest == 3 and batch.tokens == 5
    assert batch.predicting.tolist() == [0, 1, 3] and batch.targets.tolist() == [6, 7, 9]


def test_a_first_token_is_never_predicted_from_the_row_before() -> None:
    rows = [EncodedExample("a", [5, 6], [IGNORE, 6]), EncodedExample("b", [8, 9], [8, 9])]
    batch = lay_end_to_end(rows)
    assert batch.predicting.tolist() == [0, 2] and batch.targets.tolist() == [6, 9]


def test_boundaries_are_of_the_kind_that_flash_attention_takes() -> None:
    import torch

    inputs = lay_end_to_end([EncodedExample("a", [5, 6], [IGNORE, 6])]).to_inputs()
    assert inputs["cu_seq_lens_q"].dtype == inputs["cu_seq_lens_k"].dtype == torch.int32
    assert inputs["max_length_q"] == inputs["max_length_k"] == 2


# -----------------------------------------------------------------------------
# What is on the GPU at once


@given(LENGTHS, st.integers(1, 300))
def test_groups_hold_every_row_once_and_no_more_tokens_than_allowed(lengths: list[int], most: int) -> None:
    groups = split_by_tokens(lengths, most)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    assert all(group for group in groups)
    assert all(len(group) == 1 for group in groups if sum(lengths[row] for row in group) > most)
    assert groups == split_by_tokens(lengths, most)


@given(LENGTHS, st.integers(1, 300))
def test_no_two_groups_would_fit_into_one(lengths: list[int], most: int) -> None:
    sizes = sorted(sum(lengths[row] for row in group) for group in split_by_tokens(lengths, most))
    assert len(sizes) < 2 or sizes[0] + sizes[1] > most


@given(st.lists(st.integers(1, 200), min_size=1, max_size=20, unique=True), st.integers(1, 300), st.randoms())
def test_groups_do_not_depend_on_the_order_of_rows(lengths: list[int], most: int, rng: random.Random) -> None:
    mixed = list(lengths)
    rng.shuffle(mixed)

    def group(part: list[int]) -> set[frozenset[int]]:
        return {frozenset(part[row] for row in rows) for rows in split_by_tokens(part, most)}

    assert group(lengths) == group(mixed)


@given(LENGTHS, st.integers(1, 300), st.integers(1, 200))
def test_rows_above_a_limit_are_alone(lengths: list[int], most: int, limit: int) -> None:
    groups = split_by_tokens(lengths, most, limit)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or max(lengths[row] for row in group) <= limit for group in groups)
    short = [length for length in lengths if length <= limit]
    assert len(groups) == len(lengths) - len(short) + len(split_by_tokens(short, most))


def test_all_rows_go_together_where_there_is_room() -> None:
    assert [sorted(group) for group in split_by_tokens([10, 20, 30], 60)] == [[0, 1, 2]]
    assert split_by_tokens([10, 20, 30], 1) == [[2], [1], [0]]


# -----------------------------------------------------------------------------
# Several GPUs


@given(LENGTHS, st.integers(1, 9))
def test_gpus_share_every_row_once_and_evenly(lengths: list[int], gpus: int) -> None:
    shares = share_rows(lengths, gpus)
    assert len(shares) == gpus and sorted(row for share in shares for row in share) == list(range(len(lengths)))
    loads = [sum(lengths[row] for row in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)
    assert sum(not share for share in shares) == max(0, gpus - len(lengths))


def test_one_gpu_gets_everything() -> None:
    assert sorted(share_rows([5, 4, 3], 1)[0]) == [0, 1, 2]


# -----------------------------------------------------------------------------
# The order of the whole run


@pytest.mark.parametrize(
    ("rows", "epochs", "max_steps", "steps"),
    [
        (64, 3, None, 24), (65, 1, None, 9), (3, 2, None, 2), (64, 0.5, None, 4), (64, 0.01, None, 1), (64, 3, 7, 7),
        (8, 1, 5, 5), (0, 3, None, 0),
    ],
)
def test_number_of_steps(rows: int, epochs: float, max_steps: int | None, steps: int) -> None:
    assert len(plan_steps(rows, 8, epochs, max_steps, seed=1)) == steps


@given(st.integers(1, 60), st.integers(1, 10), st.integers(1, 4), st.integers(0, 5))
def test_each_epoch_holds_every_row_once(rows: int, batch: int, epochs: int, seed: int) -> None:
    steps = plan_steps(rows, batch, epochs, None, seed)
    per_epoch = -(-rows // batch)
    assert len(steps) == per_epoch * epochs
    for start in range(0, len(steps), per_epoch):
        epoch = steps[start : start + per_epoch]
        assert Counter(row for step in epoch for row in step) == Counter(range(rows))
        assert all(len(step) == batch for step in epoch[:-1])


@given(st.integers(2, 60), st.integers(1, 10), st.floats(0.1, 3.5))
def test_part_of_an_epoch_is_the_beginning_of_a_whole_one(rows: int, batch: int, epochs: float) -> None:
    steps = plan_steps(rows, batch, epochs, None, seed=3)
    assert steps == plan_steps(rows, batch, 4, None, seed=3)[: len(steps)]
    assert abs(len(steps) - epochs * -(-rows // batch)) < 1.001


def test_the_order_follows_the_seed_and_changes_with_the_epoch() -> None:
    first = plan_steps(40, 8, 2, None, seed=1)
    assert first == plan_steps(40, 8, 2, None, seed=1) != plan_steps(40, 8, 2, None, seed=2)
    assert first[:5] != first[5:]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=50), st.integers(1, 8), st.integers(1, 3))
def test_easy_rows_come_first_in_each_epoch(difficulty: list[int], batch: int, epochs: int) -> None:
    steps = plan_steps(len(difficulty), batch, epochs, None, seed=5, difficulty=difficulty)
    per_epoch = -(-len(difficulty) // batch)
    for start in range(0, len(steps), per_epoch):
        order = [difficulty[row] for step in steps[start : start + per_epoch] for row in step]
        assert order == sorted(difficulty)


def test_equally_easy_rows_are_shuffled() -> None:
    steps = plan_steps(40, 40, 2, None, seed=1, difficulty=[1] * 20 + [2] * 20)
    easy = [step[:20] for step in steps]
    assert easy[0] != easy[1] and easy[0] != sorted(easy[0])
