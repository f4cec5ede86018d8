"""Rows laid end to end: which rows make a step, which of them are on the GPU together, and the tensors they become.

Nothing is padded. Where one row ends and the next begins travels beside the tokens, and attention.py keeps them apart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.training.encode import IGNORE, EncodedExample


@dataclass(frozen=True)
class Batch:
    """Rows end to end, T tokens in all, of which A carry loss.

    `input_ids` and `position_ids` are int64 [1, T], positions from 0 in each row; `boundaries` is int32 [rows + 1], the first
    token of each row and T; `predicting` is int64 [A], the places whose next token is learnt, and `targets` those tokens.
    """

    input_ids: Any
    position_ids: Any
    boundaries: Any
    longest: int
    predicting: Any
    targets: Any

    @property
    def tokens(self) -> int:
        """How many tokens the batch holds, T."""
        return self.input_ids.shape[1]

    def to_inputs(self) -> dict[str, Any]:
        """What a transformers decoder takes; the names of the boundaries are those of its flash attention."""
        return {
            "input_ids": self.input_ids, "position_ids": self.position_ids, "use_cache": False,
            "cu_seq_lens_q": self.boundaries, "cu_seq_lens_k": self.boundaries,
            "max_length_q": self.longest, "max_length_k": self.longest,
        }

    def to_unsloth_inputs(self) -> dict[str, Any]:
        """What a decoder takes whose attention is Unsloth's own (Llama and its relatives)."""
        lengths = self.boundaries.diff()
        inputs = {"input_ids": self.input_ids, "position_ids": self.position_ids, "use_cache": False}
        return {**inputs, "packed_seq_lengths": lengths}


def lay_end_to_end(rows: Sequence[EncodedExample], device: Any = "cpu", longest: int = 0) -> Batch:
    """One batch of whole rows, on `device`.

    `longest` may name a longer row than it holds, and compilers are told that the number of rows varies: with the same longest
    row, what was compiled for one batch serves all.
    """
    import torch

    lengths = [len(row.input_ids) for row in rows]
    starts = [sum(lengths[:index]) for index in range(len(rows) + 1)]
    supervised = [
        (start + place - 1, label)
        for start, row in zip(starts, rows)
        for place, label in enumerate(row.labels)
        if label != IGNORE and place > 0  # nothing comes before a row's first token to predict it from
    ]

    def as_tensor(values: Sequence[int], dtype: Any = torch.int64) -> Any:
        return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)

    boundaries = as_tensor(starts, torch.int32)
    torch._dynamo.maybe_mark_dynamic(boundaries, 0)
    return Batch(
        input_ids=as_tensor([token for row in rows for token in row.input_ids])[None],
        position_ids=as_tensor([place for length in lengths for place in range(length)])[None],
        boundaries=boundaries,
        longest=max(longest, *lengths),
        predicting=as_tensor([place for place, _ in supervised]),
        targets=as_tensor([label for _, label in supervised]),
    )


def split_by_tokens(lengths: Sequence[int], most_tokens: int, alone_above: float = math.inf) -> list[list[int]]:
    """Row numbers in as few groups of at most `most_tokens` as first-fit decreasing finds, then made about equal.

    A longer row is a group of its own, and so is a row of more than `alone_above` tokens. Equal groups because a small batch
    keeps the GPU waiting for the host. Deterministic: the same lengths give the same groups.
    """
    alone = [row for row, length in enumerate(lengths) if length > alone_above]
    others = [row for row, length in enumerate(lengths) if length <= alone_above]
    groups = fit_first([lengths[row] for row in others], most_tokens)
    even = share_rows([lengths[row] for row in others], len(groups))
    if all(sum(lengths[others[place]] for place in group) <= most_tokens for group in even):
        groups = even
    return [*([row] for row in alone), *([others[place] for place in group] for group in groups)]


def fit_first(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Row numbers by first-fit decreasing: the longest row first, each into the first group that has room for it."""
    groups: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        place = next((index for index, left in enumerate(room) if lengths[row] <= left), None)
        if place is None:
            groups.append([row])
            room.append(most_tokens - lengths[row])
        else:
            groups[place].append(row)
            room[place] -= lengths[row]
    return groups


def share_rows(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Row numbers for each of `ranks` GPUs with about the same tokens: longest first, each to the least loaded."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for row in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        rank = tokens.index(min(tokens))
        shares[rank].append(row)
        tokens[rank] += lengths[row]
    return shares


def plan_steps(
    rows: int, effective_batch_size: int, epochs: float, max_steps: int | None, seed: int,
    difficulty: Sequence[int] | None = None,
) -> list[list[int]]:
    """The row numbers of every optimizer step of the whole run.

    Each epoch is shuffled anew by `seed`. With `difficulty` (one number a row) easy rows come first in each epoch, shuffled
    among their equals. The last step of an epoch may be smaller; a part of an epoch ends after that part of its steps.
    """
    if not rows:
        return []
    per_epoch = math.ceil(rows / effective_batch_size)
    total = max_steps or max(1, math.ceil(per_epoch * epochs))
    steps: list[list[int]] = []
    epoch = 0
    while len(steps) < total:
        order = list(range(rows))
        random.Random(f"{seed} {epoch}").shuffle(order)
        if difficulty is not None:
            order.sort(key=lambda row: difficulty[row])
        steps += [order[start : start + effective_batch_size] for start in range(0, rows, effective_batch_size)]
        epoch += 1
    return steps[:total]
