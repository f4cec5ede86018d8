"""
Does a GGUF hold base and adapter? Some rows of every tensor, dequantised, against the merged weights in float32.

A model that was converted faultlessly from the wrong weights computes what Hugging Face computes with them; only this tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import ReaderTensor
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from distill.gguf.families.common import Model, Weight
from distill.gguf.merge import MergedWeights
from distill.gguf.verification.structure import open_gguf, require

# Root mean square error over root mean square, for one tensor: three times what the type gives for normal weights.
MOST_ERROR = {
    Kind.F32: 1e-6, Kind.F16: 2e-3, Kind.BF16: 1e-2, Kind.Q8_0: 0.02, Kind.Q6_K: 0.06, Kind.Q5_K: 0.12, Kind.Q5_1: 0.12,
    Kind.Q5_0: 0.15, Kind.Q4_K: 0.25,
}
# How far the found share of an adapter's update may be from 1, beyond five standard errors.
SHARE_SLACK = 0.1
SAMPLED_ROWS = 128


@dataclass(frozen=True)
class Sample:
    """Sums over the sampled values of one tensor: of squares of the wanted values, the errors and the update, and of the
    update times what the file differs by from the base."""

    values: int
    wanted: float
    error: float
    update: float
    product: float

    @property
    def share(self) -> float:
        """How much of the update the file holds: 1 if it was merged, 0 if not (least squares)."""
        return self.product / self.update

    @property
    def share_error(self) -> float:
        """The standard error of `share`, from rounding."""
        return math.sqrt(self.error / self.values / self.update)


def check_weights(path: Path, model: Model, merged: MergedWeights) -> dict[str, Any]:
    """
    Compare some rows of every tensor with `merged`.

    Raises PipelineError for a tensor that is further from it than its type explains, or that lacks the adapter's update.
    """
    tensors = {tensor.name: tensor for tensor in open_gguf(path).tensors}
    worst, shares, weighed = 0.0, 0.0, 0.0
    for weight in model.weights:
        tensor = tensors[weight.name]
        sample = take_sample(tensor, weight, merged)
        relative = math.sqrt(sample.error / sample.wanted) if sample.error else 0.0
        limit = MOST_ERROR.get(tensor.tensor_type, max(MOST_ERROR.values()))
        require(
            path, relative <= limit,
            f"weights: {weight.name} is {relative:.2g} of its size from base and adapter (limit {limit:.2g} for "
            f"{tensor.tensor_type.name}): the file was made from other weights, or wrongly",
        )
        if sample.update:
            slack = SHARE_SLACK + 5 * sample.share_error
            require(
                path, abs(sample.share - 1) <= slack,
                f"weights: {weight.name} holds {sample.share:.2f} of the adapter's update (limit 1 +- {slack:.2f})",
            )
            shares, weighed = shares + sample.product, weighed + sample.update
        worst = max(worst, relative / limit)
    found: dict[str, Any] = {"tensors": len(model.weights), "worst_error_of_limit": worst, "limit": 1.0}
    return {**found, "adapter_share": shares / weighed if weighed else None, "passed": True}


def take_sample(tensor: ReaderTensor, weight: Weight, merged: MergedWeights) -> Sample:
    """Rows from all over one tensor, in Hugging Face's order."""
    spans = spread_rows(weight.shape)
    rows = torch.cat([torch.arange(start, stop) for start, stop in spans])
    # Where each of Hugging Face's rows stands in the GGUF: single rows can then be read of a head, too.
    places = replace(weight, offset=0).restore(torch.arange(weight.shape[0]))[rows].numpy()
    stored = dequantize(np.asarray(tensor.data)[places], tensor.tensor_type).astype(np.float32)
    found = torch.from_numpy(stored).double() - weight.offset
    parts = [(start, merged.base_rows(weight.source, start, stop)) for start, stop in spans]
    base = torch.cat([part for _, part in parts]).cpu().double()
    wanted = torch.cat([merged.merge_rows(weight.source, start, part) for start, part in parts]).cpu().double()
    update = wanted - base
    sums = (wanted.square(), (found - wanted).square(), update.square(), update * (found - base))
    return Sample(wanted.numel(), *(float(part.sum()) for part in sums))


def spread_rows(shape: Sequence[int]) -> list[tuple[int, int]]:
    """
    (start, stop) of what is compared: all of a vector or a small matrix, else SAMPLED_ROWS single rows of a matrix.

    One row at random, always the same, of each of SAMPLED_ROWS equal parts: no larger part escapes, and no pattern does.
    """
    if len(shape) == 1 or shape[0] <= SAMPLED_ROWS:
        return [(0, shape[0])]
    bounds = np.linspace(0, shape[0], SAMPLED_ROWS + 1).astype(int)
    return [(int(row), int(row) + 1) for row in np.random.default_rng(0).integers(bounds[:-1], bounds[1:])]
