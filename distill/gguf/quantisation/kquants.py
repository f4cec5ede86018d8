"""
Matrices to the bytes that stand in a GGUF, on the CPU or on a GPU: llama.cpp's K-quants and its simpler types.

A K-quant cuts a row into super-blocks of 256 values. Q4_K and Q5_K hold eight blocks of 32 values, each
`scale * level - minimum`; Q6_K holds sixteen blocks of 16 values, each `scale * level` with signed levels. The block scales
(and minima) are integers themselves, multiples of one or two half floats a super-block. The search for the scales tries the
same candidates with the same weights as llama.cpp's reference without an importance matrix, so the error is the same; bytes may
differ where two candidates tie. It takes nearly all of the time: torch operations do it on a GPU (search.py), compiled loops on
a CPU (compiled.py). Knows rows of numbers only: neither models nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize as quantise_with_gguf

from distill.gguf.quantisation import search
from distill.gguf.quantisation.search import FLAT

SUPER_BLOCK = 256
HALF_MAX = 65_504.0
# Small slices stay in a CPU's cache; a GPU wants enough blocks to be busy. Temporaries are up to 20 times a slice.
SLICE_VALUES = {"cpu": 1 << 17, "cuda": 1 << 24}


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
    if kind in GGUF_KINDS:
        rows = rows.cpu()
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
        return PACKERS[kind](rows.reshape(-1, GGML_QUANT_SIZES[kind][0])).cpu().numpy()
    if kind in FLOATS:
        return rows.to(FLOATS[kind]).contiguous().view(torch.uint8).cpu().numpy()
    if kind in GGUF_KINDS:
        return quantise_with_gguf(rows.cpu().numpy(), kind)
    raise ValueError(f"{kind.name} can not be written")


# -----------------------------------------------------------------------------
# The search, on a GPU and on a CPU


@cache
def load_compiled() -> ModuleType | None:
    """The compiled search, or None where Numba is missing or its library may not be loaded."""
    try:
        from distill.gguf.quantisation import compiled
    except (ImportError, OSError):
        return None
    return compiled


def search_scale_and_minimum(
    values: torch.Tensor, highest: int, first: float, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`search.search_scale_and_minimum` for blocks [..., 32] that stand in rows: scales and minima, each [n]."""
    blocks = values.reshape(-1, 32)
    compiled = None if blocks.is_cuda else load_compiled()
    if compiled is None:
        return search.search_scale_and_minimum(blocks.t().contiguous(), highest, first, steps)
    scales, minima = blocks.new_empty(len(blocks)), blocks.new_empty(len(blocks))
    compiled.search_scale_and_minimum(blocks.numpy(), float(highest), first, steps, scales.numpy(), minima.numpy())
    return scales, minima


def search_signed_scale(values: torch.Tensor, highest: int) -> torch.Tensor:
    """`search.search_signed_scale` for blocks [..., 16] that stand in rows: scales [n]."""
    blocks = values.reshape(-1, 16)
    compiled = None if blocks.is_cuda else load_compiled()
    if compiled is None:
        return search.search_signed_scale(blocks.t().contiguous(), highest)
    scales = blocks.new_empty(len(blocks))
    compiled.search_signed_scale(blocks.numpy(), float(highest), scales.numpy())
    return scales


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
    scales, minima = search_scale_and_minimum(values, highest, first, steps)
    scale, scale_codes = code_six_bits(scales.view(-1, 8))
    minimum, minimum_codes = code_six_bits(minima.view(-1, 8))
    block_scale = (scale.float() * scale_codes).unsqueeze(2)
    block_minimum = (minimum.float() * minimum_codes).unsqueeze(2)
    levels = torch.where(block_scale > 0, (values + block_minimum) / block_scale, 0.0).round_().clamp_(0, highest)
    halves = torch.cat((scale, minimum), dim=1).view(torch.uint8)
    header = torch.cat((halves, pack_six_bits(scale_codes.byte(), minimum_codes.byte())), dim=1)
    return header, levels.byte().view(-1, SUPER_BLOCK)


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
    scales = search_signed_scale(values, highest=32).view(-1, 16)
    largest = scales.gather(1, scales.abs().argmax(dim=1, keepdim=True))
    present = largest.abs() > FLAT
    inverse = torch.where(present, -128.0 / torch.where(present, largest, 1.0), 0.0)
    unit = torch.where(present, largest / -128.0, 0.0).clamp_(-HALF_MAX, HALF_MAX).half()
    codes = (scales * inverse).round_().clamp_(-128, 127)
    block_scale = (unit.float() * codes).unsqueeze(2)
    levels = torch.where(block_scale != 0, values / block_scale, 0.0).round_().clamp_(-32, 31).add_(32).byte()
    low, high = split_six_bits(levels.view(-1, 2, 4, 32))
    return torch.cat((low, high, codes.to(torch.int8).view(torch.uint8), unit.view(torch.uint8)), dim=1)


def split_six_bits(levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 levels [n, 2, 4, 32] below 64 to their low four bits [n, 128] and their high two bits [n, 64]."""
    nibbles = levels & 15
    low = nibbles[:, :, :2] | (nibbles[:, :, 2:] << 4)
    places = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=levels.device).view(1, 1, 4, 1)
    high = ((levels >> 4) << places).sum(dim=2, dtype=torch.uint8)
    return low.reshape(-1, 128), high.reshape(-1, 64)


# -----------------------------------------------------------------------------
# Q8_0: a scale for every 32 values


def pack_q8_0(blocks: torch.Tensor) -> torch.Tensor:
    """float32 [n, 32] to uint8 [n, 34]."""
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127.0
    scaled = blocks * torch.where(scale > 0, 1.0 / scale, 0.0)
    sizes = scaled.abs()
    levels = sizes.round()
    levels += sizes - levels == 0.5  # halves go away from zero in llama.cpp, in torch to the even neighbour
    levels = levels.copysign_(scaled).to(torch.int8)
    return torch.cat((scale.half().view(torch.uint8), levels.view(torch.uint8)), dim=1)


PACKERS: dict[GGMLQuantizationType, Callable[[torch.Tensor], torch.Tensor]] = {
    GGMLQuantizationType.Q4_K: pack_q4_k,
    GGMLQuantizationType.Q5_K: pack_q5_k,
    GGMLQuantizationType.Q6_K: pack_q6_k,
    GGMLQuantizationType.Q8_0: pack_q8_0,
}
FLOATS = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
GGUF_KINDS = (GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q5_1)
