"""
The K-quants of llama.cpp in plain torch operations: Q4_K, Q5_K and Q6_K, on the CPU or on a GPU.

A row is cut into super-blocks of 256 values. Q4_K and Q5_K hold eight blocks of 32 values, each `scale * level - minimum`;
Q6_K holds sixteen blocks of 16 values, each `scale * level` with signed levels. The block scales (and minima) are integers
themselves, multiples of one or two half floats a super-block. The search for the scales tries the same candidates with the
same weights as llama.cpp's reference without an importance matrix, so the error is the same; bytes may differ where two
candidates tie. Knows rows of numbers only: neither models nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize as quantise_with_gguf

SUPER_BLOCK = 256
HALF_MAX = 65_504.0
# Blocks this flat vanish: their scale is far below the smallest half float.
FLAT = 1e-15
TINY = 1e-37  # keeps a division by zero finite; the numerator is zero there
# Small slices stay in a CPU's cache; a GPU wants enough blocks to be busy. Temporaries are about 20 times a slice.
SLICE_VALUES = {"cpu": 1 << 17, "cuda": 1 << 22}


# -----------------------------------------------------------------------------
# Rows in, bytes out


def quantise(rows: torch.Tensor, kind: GGMLQuantizationType) -> np.ndarray:
    """
    Quantise a matrix of finite numbers to the bytes that stand in a GGUF.

    rows: [rows, columns] of any float type, no value beyond +-65504. Returns uint8 [rows, bytes of a row] on the CPU.
    The columns must be a multiple of the kind's block (256 for the K-quants, 32 for Q5_0, Q5_1 and Q8_0).
    Raises ValueError for a kind that can not be written or a row that does not fit its blocks.
    """
    block_values, block_bytes = GGML_QUANT_SIZES[kind]
    if rows.dim() != 2 or rows.shape[1] % block_values:
        raise ValueError(f"{kind.name} needs rows of a multiple of {block_values} values, not {tuple(rows.shape)}")
    result = np.empty((rows.shape[0], rows.shape[1] // block_values * block_bytes), dtype=np.uint8)

    def fill(part: tuple[int, int]) -> None:
        start, stop = part
        result[start:stop] = quantise_slice(rows[start:stop].float(), kind).reshape(stop - start, -1)

    parts = list(slice_rows(*rows.shape, SLICE_VALUES.get(rows.device.type, SLICE_VALUES["cpu"])))
    if rows.device.type == "cpu":
        spread_over_cores(fill, parts)
    else:
        for part in parts:
            fill(part)
    return result


def spread_over_cores(work: Callable[[tuple[int, int]], None], parts: list[tuple[int, int]]) -> None:
    """
    Run `work` on every part, one thread a core.

    torch itself would split operations this small over 4 threads at most, which on a busy machine wait for each other
    at every one.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, parts):
                pass
    finally:
        torch.set_num_threads(threads)


def slice_rows(rows: int, columns: int, values: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of slices of about `values` values, at least one row each."""
    step = max(1, values // max(1, columns))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def quantise_slice(rows: torch.Tensor, kind: GGMLQuantizationType) -> np.ndarray:
    """float32 [rows, columns] to uint8, the rows one after another."""
    if kind in PACKERS:
        return PACKERS[kind](rows.reshape(-1, SUPER_BLOCK)).cpu().numpy()
    if kind == GGMLQuantizationType.F32:
        return rows.cpu().numpy().view(np.uint8)
    if kind == GGMLQuantizationType.F16:
        return rows.half().cpu().numpy().view(np.uint8)
    if kind in GGUF_KINDS:
        return quantise_with_gguf(rows.cpu().numpy(), kind)
    raise ValueError(f"{kind.name} can not be written")


def stand_upright(blocks: torch.Tensor) -> torch.Tensor:
    """[n, blocks, values] to [values, n * blocks] so that sums over a block run along memory."""
    return blocks.flatten(0, 1).t().contiguous()


# -----------------------------------------------------------------------------
# Q4_K and Q5_K: a scale and a minimum for every 32 values


def pack_q4_k(blocks: torch.Tensor) -> torch.Tensor:
    """float32 [n, 256] to uint8 [n, 144]."""
    header, levels = quantise_with_minimum(blocks, highest=15, first=-1.0, steps=20)
    return torch.cat((header, pack_nibbles(levels)), dim=1)


def pack_q5_k(blocks: torch.Tensor) -> torch.Tensor:
    """float32 [n, 256] to uint8 [n, 176]."""
    header, levels = quantise_with_minimum(blocks, highest=31, first=-0.5, steps=15)
    high = (levels >> 4).view(-1, 8, 32)
    places = torch.arange(8, dtype=torch.uint8, device=blocks.device).view(1, 8, 1)
    high_bits = (high << places).sum(dim=1, dtype=torch.uint8)
    return torch.cat((header, high_bits, pack_nibbles(levels & 15)), dim=1)


def quantise_with_minimum(
    blocks: torch.Tensor, highest: int, first: float, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 header [n, 16] (two half floats, the packed 6-bit scales and minima) and levels [n, 256]."""
    values = blocks.view(-1, 8, 32)
    scales, minima = search_scale_and_minimum(stand_upright(values), highest, first, steps)
    scale, scale_codes = code_six_bits(scales.view(-1, 8))
    minimum, minimum_codes = code_six_bits(minima.view(-1, 8))
    block_scale = (scale.float() * scale_codes).unsqueeze(2)
    block_minimum = (minimum.float() * minimum_codes).unsqueeze(2)
    levels = torch.where(block_scale > 0, (values + block_minimum) / block_scale, 0.0).round_().clamp_(0, highest)
    halves = torch.cat((scale, minimum), dim=1).view(torch.uint8)
    header = torch.cat((halves, pack_six_bits(scale_codes.byte(), minimum_codes.byte())), dim=1)
    return header, levels.byte().view(-1, SUPER_BLOCK)


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


def code_six_bits(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """numbers [n, 8], none below 0 that counts, to a half float [n, 1] and its multiples 0..63 as float32 [n, 8]."""
    largest = numbers.amax(dim=1, keepdim=True).clamp_(min=0)
    inverse = torch.where(largest > FLAT, 63.0 / largest.clamp(min=FLAT), 0.0)
    codes = (numbers * inverse).round_().clamp_(0, 63)
    return (largest / 63.0).clamp_(max=HALF_MAX).half(), codes


def pack_six_bits(scales: torch.Tensor, minima: torch.Tensor) -> torch.Tensor:
    """uint8 codes [n, 8] each, below 64, to the 12 bytes [n, 12] that hold both."""
    first = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    second = minima[:, :4] | (minima[:, 4:] >> 4 << 6)
    third = (scales[:, 4:] & 15) | (minima[:, 4:] << 4)
    return torch.cat((first, second, third), dim=1)


def pack_nibbles(levels: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 256] below 16 to [n, 128]: in every 64 values, the second 32 stand in the high halves of the first."""
    groups = levels.view(-1, 4, 2, 32)
    return (groups[:, :, 0] | (groups[:, :, 1] << 4)).view(-1, 128)


# -----------------------------------------------------------------------------
# Q6_K: a signed scale for every 16 values


def pack_q6_k(blocks: torch.Tensor) -> torch.Tensor:
    """float32 [n, 256] to uint8 [n, 210]."""
    values = blocks.view(-1, 16, 16)
    scales = search_signed_scale(stand_upright(values), highest=32).view(-1, 16)
    largest = scales.gather(1, scales.abs().argmax(dim=1, keepdim=True))
    present = largest.abs() > FLAT
    inverse = torch.where(present, -128.0 / torch.where(present, largest, 1.0), 0.0)
    unit = torch.where(present, largest / -128.0, 0.0).clamp_(-HALF_MAX, HALF_MAX).half()
    codes = (scales * inverse).round_().clamp_(-128, 127)
    block_scale = (unit.float() * codes).unsqueeze(2)
    levels = torch.where(block_scale != 0, values / block_scale, 0.0).round_().clamp_(-32, 31).add_(32).byte()
    low, high = split_six_bits(levels.view(-1, 2, 4, 32))
    return torch.cat((low, high, codes.to(torch.int8).view(torch.uint8), unit.view(torch.uint8)), dim=1)


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


def split_six_bits(levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 levels [n, 2, 4, 32] below 64 to their low four bits [n, 128] and their high two bits [n, 64]."""
    nibbles = levels & 15
    low = nibbles[:, :, :2] | (nibbles[:, :, 2:] << 4)
    places = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=levels.device).view(1, 1, 4, 1)
    high = ((levels >> 4) << places).sum(dim=2, dtype=torch.uint8)
    return low.reshape(-1, 128), high.reshape(-1, 64)


PACKERS: dict[GGMLQuantizationType, Callable[[torch.Tensor], torch.Tensor]] = {
    GGMLQuantizationType.Q4_K: pack_q4_k,
    GGMLQuantizationType.Q5_K: pack_q5_k,
    GGMLQuantizationType.Q6_K: pack_q6_k,
}
GGUF_KINDS = (
    GGMLQuantizationType.BF16, GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q5_1, GGMLQuantizationType.Q8_0
)
