"""
The search for block scales in torch operations: what a GPU runs, and a CPU where Numba can not be used.

Tries the same candidates with the same weights as llama.cpp's reference without an importance matrix. A block stands in a
column, so that sums over a block run along memory. distill/gguf/quantisation/compiled.py holds the same search for a CPU.
"""

from __future__ import annotations

import torch

# Blocks this flat vanish: their scale is far below the smallest half float.
FLAT = 1e-15
TINY = 1e-37  # keeps a division by zero finite; the numerator is zero there


# -----------------------------------------------------------------------------
# Q4_K and Q5_K: a scale and a minimum


def search_scale_and_minimum(
    values: torch.Tensor, highest: int, first: float, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The scale and minimum (both [n], the minimum as a positive offset) that quantise each column of values [32, n] best.

    Candidate k rounds to levels with the range stretched to `highest + first + 0.1 * k`, then solves the weighted least
    squares for scale and minimum; large values weigh more. The plain range is the candidate to beat. The range of a
    candidate begins at the best minimum so far, as in llama.cpp: this is worth 1% of the error.
    """
    high = values.amax(dim=0)
    low = values.amin(dim=0).clamp_(max=0)
    sums = WeightedSums(values)
    scale, minimum = (high - low).clamp_(min=FLAT) / highest, low.clone()
    sums.count(round_levels(values, 1 / scale, minimum, highest))
    error = sums.error(scale, minimum)
    for step in range(steps + 1):
        inverse = (first + 0.1 * step + highest) / (high - minimum).clamp_(min=FLAT)
        sums.count(round_levels(values, inverse, minimum, highest))
        new_scale, new_minimum = sums.solve()
        new_error = sums.error(new_scale, new_minimum)
        better = new_error < error  # never where there is no solution: NaN is not smaller
        error = torch.where(better, new_error, error)
        scale = torch.where(better, new_scale, scale)
        minimum = torch.where(better, new_minimum, minimum)
    flat = high - low < FLAT
    return torch.where(flat, 0.0, scale), -torch.where(flat, low, minimum)


def round_levels(values: torch.Tensor, inverse: torch.Tensor, minimum: torch.Tensor, highest: int) -> torch.Tensor:
    """(values - minimum) * inverse, rounded to 0..highest; values [32, n], the others [n]."""
    return torch.addcmul(-minimum * inverse, values, inverse).round_().clamp_(0, highest)


class WeightedSums:
    """
    Weighted least squares of values = scale * levels + minimum for every column, from sums over the column alone.

    The weight of a value is its magnitude plus the root mean square of its column.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.weights = values.abs() + (values * values).mean(dim=0).sqrt_()
        self.weighted = self.weights * values
        self.weight = self.weights.sum(dim=0)
        self.value = self.weighted.sum(dim=0)
        self.value_square = (self.weighted * values).sum(dim=0)
        self._scratch = torch.empty_like(values)

    def count(self, levels: torch.Tensor) -> None:
        """Sum up a candidate's levels [32, n]; they are overwritten."""
        self.product = torch.mul(self.weighted, levels, out=self._scratch).sum(dim=0)
        weighted_levels = torch.mul(self.weights, levels, out=self._scratch)
        self.level = weighted_levels.sum(dim=0)
        self.level_square = levels.mul_(weighted_levels).sum(dim=0)

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The best scale and the best minimum of at most 0, each [n]; NaN where there is no solution."""
        determinant = self.weight * self.level_square - self.level * self.level
        determinant = torch.where(determinant > 0, determinant, torch.nan)
        scale = (self.weight * self.product - self.value * self.level) / determinant
        minimum = (self.level_square * self.value - self.level * self.product) / determinant
        return torch.where(minimum > 0, self.product / self.level_square, scale), minimum.clamp_(max=0)

    def error(self, scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
        """Weighted squared error [n] of the levels counted last, multiplied out so that it needs no pass over the values."""
        of_scale = scale * self.level_square + 2 * (minimum * self.level - self.product)
        of_minimum = minimum * self.weight - 2 * self.value
        return self.value_square + scale * of_scale + minimum * of_minimum


# -----------------------------------------------------------------------------
# Q6_K: a signed scale


def search_signed_scale(values: torch.Tensor, highest: int) -> torch.Tensor:
    """
    The scale [n] that quantises each column of values [16, n] best to levels -highest..highest-1.

    The value of largest magnitude is tried at 19 places around the level -highest; the weights are the squared values.
    """
    weights = values * values
    weighted = weights * values
    high, low = values.amax(dim=0), values.amin(dim=0)
    extreme = torch.where(high >= -low, high, low)
    flat = extreme.abs() < FLAT
    inverse = torch.where(flat, 0.0, -1.0 / torch.where(flat, 1.0, extreme))
    scale, best = torch.zeros_like(extreme), torch.zeros_like(extreme)
    levels, scratch = torch.empty_like(values), torch.empty_like(values)
    for step in (0, *range(-9, 0), *range(1, 10)):
        torch.mul(values, (highest + 0.1 * step) * inverse, out=levels).round_().clamp_(-highest, highest - 1)
        product = torch.mul(weighted, levels, out=scratch).sum(dim=0)
        square = levels.mul_(levels).mul_(weights).sum(dim=0)
        new_scale = product / square.clamp_(min=TINY)
        gain = new_scale * product
        scale = torch.where(gain > best, new_scale, scale)
        torch.maximum(best, gain, out=best)
    return scale
