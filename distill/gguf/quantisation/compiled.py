"""
The search for block scales as loops that Numba compiles for the CPU at hand: one block after another, within its registers.

The same candidates and weights as in search.py, whose torch operations pass over memory 20 times a candidate.
Compilation takes about two seconds a process and needs no compiler; nothing is cached on disk. The loops run without Python's
lock, so that each thread of a pool has a core to itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from distill.gguf.quantisation.search import FLAT

# Sums may be reordered into vectors. NaN and infinity keep their meaning.
LOOSE = {"reassoc", "contract", "arcp", "nsz"}
CANDIDATES = 19  # of a signed scale: 0, then -9..-1 and 1..9 tenths
LANES = 24  # the same, filled up to whole vectors


@njit(nogil=True, fastmath=LOOSE, error_model="numpy")
def search_scale_and_minimum(
    values: np.ndarray, highest: float, first: float, steps: int, scales: np.ndarray, minima: np.ndarray
) -> None:  # pragma: no cover - compiled
    """values float32 [n, 32]; fills scales and minima, float32 [n], as `search.search_scale_and_minimum` returns them."""
    weights = np.empty(32, np.float32)
    top, zero, two = np.float32(highest), np.float32(0), np.float32(2)
    for block in range(values.shape[0]):
        row = values[block]
        high, low, square = row[0], zero, zero
        for i in range(32):
            high, low = max(high, row[i]), min(low, row[i])
            square += row[i] * row[i]
        scales[block], minima[block] = zero, -low
        if high - low < np.float32(FLAT):
            continue
        mean = np.sqrt(square / np.float32(32))
        weight, value, value_square = zero, zero, zero
        for i in range(32):
            weights[i] = mean + abs(row[i])
            weight += weights[i]
            value += weights[i] * row[i]
            value_square += weights[i] * row[i] * row[i]
        scale, minimum, error = (high - low) / top, low, np.float32(np.inf)
        for step in range(-1, steps + 1):  # -1: the plain range
            stretched = top + np.float32(first) + np.float32(0.1) * np.float32(step) if step >= 0 else top
            inverse = stretched / max(high - minimum, np.float32(FLAT))
            offset = -minimum * inverse
            level, level_square, product = zero, zero, zero
            for i in range(32):
                rounded = min(max(np.rint(row[i] * inverse + offset), zero), top)
                weighted = weights[i] * rounded
                level += weighted
                level_square += weighted * rounded
                product += weighted * row[i]
            new_scale, new_minimum = scale, minimum
            if step >= 0:
                determinant = weight * level_square - level * level
                if not determinant > 0:
                    continue
                new_scale = (weight * product - value * level) / determinant
                new_minimum = (level_square * value - level * product) / determinant
                if new_minimum > 0:
                    new_scale, new_minimum = product / level_square, zero
            of_scale = new_scale * level_square + two * (new_minimum * level - product)
            new_error = value_square + new_scale * of_scale + new_minimum * (new_minimum * weight - two * value)
            if new_error < error:
                scale, minimum, error = new_scale, new_minimum, new_error
        scales[block], minima[block] = scale, -minimum


@njit(nogil=True, fastmath=LOOSE, error_model="numpy")
def search_signed_scale(values: np.ndarray, highest: float, scales: np.ndarray) -> None:  # pragma: no cover - compiled
    """values float32 [n, 16]; fills scales, float32 [n], as `search.search_signed_scale` returns them."""
    inverses, products, squares = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    places = np.full(LANES, np.float32(highest))
    for k in range(1, CANDIDATES):
        places[k] += np.float32(0.1) * np.float32(k - 10 if k < 10 else k - 9)
    lowest, top, zero = np.float32(-highest), np.float32(highest - 1), np.float32(0)
    for block in range(values.shape[0]):
        row = values[block]
        high, low = row[0], row[0]
        for i in range(16):
            high, low = max(high, row[i]), min(low, row[i])
        extreme = high if high >= -low else low
        scales[block] = zero
        if abs(extreme) < np.float32(FLAT):
            continue
        for k in range(LANES):
            inverses[k] = -places[k] / extreme
            products[k] = squares[k] = zero
        for i in range(16):
            number = row[i]
            weight = number * number
            weighted = weight * number
            for k in range(LANES):  # the candidates stand side by side in a vector
                level = min(max(np.rint(number * inverses[k]), lowest), top)
                products[k] += weighted * level
                squares[k] += weight * level * level
        best = zero
        for k in range(CANDIDATES):
            if squares[k] > 0 and products[k] * products[k] / squares[k] > best:
                scales[block] = products[k] / squares[k]
                best = scales[block] * products[k]
