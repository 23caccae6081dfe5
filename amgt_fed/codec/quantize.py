"""Real numbers to whole levels of a step, where a level must be worth its bits, and back, bit-exact everywhere.

Decoded values lie on a grid of 1/16 step: sign * (16 |level| + shift) * step / 16. The shift moves a level to the
centroid of what falls on it. One integer product and one rounding to float32 give the same bits on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.layout import Float32Vector

GRID = 16
MAX_SHIFT = 7  # shifts are -8 to 7
LARGEST_LEVEL = (1 << 26) - 1


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
    upper = np.floor(
        np.minimum(magnitude, LARGEST_LEVEL) + 0.42
    )  # levels above 1 also give way a little to those below
    threshold = np.full((len(scaled), 1), 0.6)
    for _ in range(2):
        zero = magnitude < threshold
        share = np.clip(zero.mean(axis=1, keepdims=True), 1e-3, 1 - 1e-3)
        one = ((upper <= 1) & ~zero).mean(axis=1, keepdims=True)
        threshold = worth(np.clip(np.log2(share / np.maximum(one, 1e-3)) + 1, 0, 12), price)
    levels = np.where(magnitude < threshold, 0, np.maximum(upper, 1))
    return np.asarray((np.sign(scaled) * levels).astype(np.int64))


def best_shifts(magnitude: NDArray[np.float64], levels: NDArray[np.int64]) -> Shifts:
    """Centroids of level 1 and of the rest, on the grid; `magnitude` is |x| / step."""
    shifts = []
    for chosen, default in ((levels == 1, 2), (levels > 1, 1)):
        mean = float((magnitude[chosen] - levels[chosen]).mean()) if chosen.any() else default / GRID
        shifts.append(int(np.clip(round(GRID * mean), -MAX_SHIFT - 1, MAX_SHIFT)))
    return Shifts(*shifts)
