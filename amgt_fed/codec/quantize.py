"""Real numbers to whole levels of a step, where a level must be worth its bits, and back, bit-exact everywhere.

Decoded values lie on a grid of 1/16 step: sign * (16 |level| + shift) * step / 16. The shift moves a level to the
centroid of what falls on it. One integer product and one rounding to float32 give the same bits on every machine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.native import address, kernel_for, owned, whole
from amgt_fed.codec.scan import CHUNK, LANES, fold, lane_sums
from amgt_fed.layout import Float32Vector

GRID = 16
MAX_SHIFT = 7  # shifts are -8 to 7
LARGEST_LEVEL = (1 << 26) - 1
_MANY = 1 << 12  # of so many levels the values are looked up
ROUNDING = 0.42  # below a half: levels above 1 also give way a little to those below, which cost fewer bits


@dataclass(frozen=True, slots=True)
class Shifts:
    """Where in its cell a level is decoded, in sixteenths of the step: level 1, and all above."""

    first: int = 2
    others: int = 1


def dequantize(levels: NDArray[np.integer[Any]], step: float, shifts: Shifts) -> Float32Vector:
    """Values of signed levels.

    Args:
        levels: magnitudes up to `LARGEST_LEVEL`; 0 gives 0.
        step: exactly representable as float32, so that level times step is exact in float64.
        shifts: the same the encoder chose.
    """
    if levels.size > _MANY and (top := max(int(levels.max()), -int(levels.min()))) <= _MANY // 4:
        table = dequantize(np.arange(-top, top + 1), step, shifts)
        return np.asarray(table[levels + top])
    magnitude = np.abs(levels.astype(np.int64))
    grid = GRID * magnitude + np.where(magnitude == 1, shifts.first, shifts.others)
    with np.errstate(over="ignore"):
        return np.asarray((np.sign(levels) * grid * (step / GRID)).astype(np.float32))


def worth(bits: NDArray[np.float64] | float, price: float) -> Any:
    """From which |x| / step on level 1 pays: x^2 - (x - c)^2 > price * bits, with c the centroid of level 1.

    Args:
        bits: what level 1, sign included, costs more than level 0.
        price: lambda / step^2, squared error (in steps) per bit.
    """
    centroid = 1 + 2 / GRID
    return np.maximum((centroid**2 + price * bits) / (2 * centroid), 0.55)


def quantize_rows(scaled: NDArray[np.float64], price: float) -> NDArray[np.int64]:
    """Signed levels of each row, in units of the step, zeroed where level 1 would not pay.

    Args:
        scaled: values / step, shape (rows, n).
        price: as in `worth`.
    """
    magnitude = np.abs(scaled)
    upper = np.floor(np.minimum(magnitude, LARGEST_LEVEL) + ROUNDING)
    threshold = np.full((len(scaled), 1), 0.6)
    for _ in range(2):
        zero = magnitude < threshold
        share = np.clip(zero.mean(axis=1, keepdims=True), 1e-3, 1 - 1e-3)
        one = ((upper <= 1) & ~zero).mean(axis=1, keepdims=True)
        threshold = worth(np.clip(np.log2(share / np.maximum(one, 1e-3)) + 1, 0, 12), price)
    levels = np.where(magnitude < threshold, 0, np.maximum(upper, 1))
    return np.asarray((np.sign(scaled) * levels).astype(np.int64))


@dataclass(frozen=True, slots=True)
class Quantized:
    """Levels of survivors, and the sums that tell their error for any reconstruction points.

    Attributes:
        levels: signed, never 0.
        ones: how many are on level 1.
        first: sum of |x| / step - 1 over those.
        others: sum of |x| / step - level over the rest.
        squares: sum of both remainders' squares.
    """

    levels: NDArray[np.int32]
    ones: int = 0
    first: float = 0.0
    others: float = 0.0
    squares: float = 0.0

    def lost(self, shifts: Shifts) -> float:
        """Squared error, in steps^2, with these reconstruction points."""
        a, b = shifts.first / GRID, shifts.others / GRID
        above = self.levels.size - self.ones
        return max(0.0, self.squares - 2 * (a * self.first + b * self.others) + a * a * self.ones + b * b * above)


def quantize(values: Float32Vector, step: float) -> Quantized:
    """Levels of values that are worth one: down to the next whole step from 0.58 of it, at least 1."""
    if (kernel := kernel_for(values.size)) is not None:
        given, levels = owned(values, np.float32), np.empty(values.size, np.int32)
        ones, lanes = np.zeros(1, np.int64), np.zeros((3, LANES))
        kernel.amgt_quantize(
            address(given), whole(given.size), ctypes.c_double(step), ctypes.c_double(ROUNDING),
            ctypes.c_int32(LARGEST_LEVEL), address(levels), address(ones), address(lanes),
        )  # fmt: skip
        return Quantized(levels, int(ones[0]), fold(lanes[0]), fold(lanes[1]), fold(lanes[2]))
    levels, count, sums = np.empty(values.size, np.int32), 0, np.zeros((3, LANES))
    for start in range(0, values.size, CHUNK):
        chunk = values[start : start + CHUNK]
        scaled = np.abs(chunk).astype(np.float64) / step
        magnitude = np.clip(np.floor(np.minimum(scaled, LARGEST_LEVEL) + ROUNDING), 1, LARGEST_LEVEL)
        rest = scaled - magnitude
        one = magnitude == 1
        count += int(np.count_nonzero(one))
        sums += [lane_sums(np.where(one, rest, 0.0)), lane_sums(np.where(one, 0.0, rest)), lane_sums(rest * rest)]
        levels[start : start + CHUNK] = np.where(chunk < 0, -magnitude, magnitude)
    return Quantized(levels, count, fold(sums[0]), fold(sums[1]), fold(sums[2]))


def best_shifts(parts: Iterable[Quantized]) -> Shifts:
    """Centroids of level 1 and of the rest, on the grid, over all parts."""
    every = list(parts)
    ones, total = sum(part.ones for part in every), sum(part.levels.size for part in every)
    default = Shifts()
    return Shifts(
        _on_grid(sum(part.first for part in every), ones, default.first),
        _on_grid(sum(part.others for part in every), total - ones, default.others),
    )


def _on_grid(total: float, count: int, default: int) -> int:
    return max(-MAX_SHIFT - 1, min(MAX_SHIFT, round(GRID * total / count))) if count else default
