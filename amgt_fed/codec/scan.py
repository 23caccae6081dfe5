"""Passes over a whole vector: its squares, the histogram of its magnitudes, and what lies above a threshold.

Sums of squares are taken in float64 and in one order: chunks of `CHUNK`, each in `LANES` running sums, which are folded
in halves at the end. The C kernel sums in the same order, so that both give the same bits.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.native import address, kernel_for, owned, whole
from amgt_fed.layout import Float32Vector

CHUNK = 1 << 16  # elements worked on at a time: 256 KiB of float32 stay in a core's own cache
LANES = 256
SHIFT = 18  # bits of a float32's magnitude left out of its bin: 5 of the mantissa stay, 32 bins to a power of two
NUM_BINS = 1 << (31 - SHIFT)
BINS_PER_OCTAVE = 1 << (23 - SHIFT)
_SAMPLED = ((1 << 19, 4), (1 << 21, 8))  # from so many elements on such a part of every chunk tells enough


@dataclass(frozen=True, slots=True)
class Selection:
    """What reaches a threshold: places, increasing, values, and the energy (sum of squares) of all the rest."""

    threshold: np.float32
    indices: NDArray[np.int32]
    values: Float32Vector
    rest: float


def lane_sums(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running sums of every LANES-th number, chunk by chunk; shape (LANES,)."""
    lanes = np.zeros(LANES)
    for first in range(0, numbers.size, CHUNK):
        chunk = numbers[first : first + CHUNK]
        rows = chunk.size // LANES * LANES
        part = np.add.reduce(chunk[:rows].reshape(-1, LANES), axis=0) if rows else np.zeros(LANES)
        part[: chunk.size - rows] += chunk[rows:]
        lanes += part
    return lanes


def fold(lanes: NDArray[np.float64]) -> float:
    """The sum of LANES numbers, halves first."""
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    return float(lanes[0])


def squares(vector: NDArray[Any]) -> float:
    """Sum of squares of a float32 vector, in float64; not finite if a value is not."""
    lanes = np.zeros(LANES)
    if (kernel := kernel_for(vector.size)) is not None and vector.dtype == np.float32:
        values = owned(vector, np.float32)
        kernel.amgt_squares(address(values), whole(values.size), address(lanes))
        return fold(lanes)
    for first in range(0, vector.size, CHUNK):
        chunk = vector[first : first + CHUNK].astype(np.float64)
        lanes += lane_sums(np.multiply(chunk, chunk, out=chunk))
    return fold(lanes)


def squared_difference(left: Float32Vector, right: Float32Vector) -> float:
    """||left - right||^2 of float32 vectors; differences and squares in float64."""
    lanes = np.zeros(LANES)
    if (kernel := kernel_for(left.size)) is not None:
        a, b = owned(left, np.float32), owned(right, np.float32)
        kernel.amgt_squared_difference(address(a), address(b), whole(a.size), address(lanes))
        return fold(lanes)
    for first in range(0, left.size, CHUNK):
        chunk = np.subtract(left[first : first + CHUNK], right[first : first + CHUNK], dtype=np.float64)
        lanes += lane_sums(np.multiply(chunk, chunk, out=chunk))
    return fold(lanes)


def histogram(vector: Float32Vector) -> NDArray[np.float64]:
    """How many magnitudes fall on each bin of 1/32 octave, shape (NUM_BINS,); of long vectors an estimate."""
    taken = CHUNK // max((part for least, part in _SAMPLED if vector.size >= least), default=1)
    if (kernel := kernel_for(vector.size)) is not None:
        values = owned(vector, np.float32)
        both = np.zeros(2 * NUM_BINS, np.uint32)
        kernel.amgt_histogram(
            address(values), whole(values.size), whole(taken), whole(SHIFT), address(both), whole(NUM_BINS)
        )
        bins = both[:NUM_BINS].astype(np.float64)
    else:
        counts = np.zeros(NUM_BINS, np.int64)
        upper = np.ascontiguousarray(vector, np.dtype("<f4")).view("<u2")[1::2]
        for first in range(0, vector.size, CHUNK):
            chosen = upper[first : first + taken] & 0x7FFF
            counts += np.bincount(chosen >> (SHIFT - 16), minlength=NUM_BINS)
        bins = counts.astype(np.float64)
    seen = bins.sum()
    return bins * (vector.size / seen) if 0 < seen < vector.size else bins


def select(vector: Float32Vector, threshold: np.float32, expected: float) -> Selection:
    """What reaches the threshold.

    Args:
        vector: flat float32.
        threshold: above 0.
        expected: about how many there will be.
    """
    lanes = np.zeros(LANES)
    if (kernel := kernel_for(vector.size)) is not None:
        values = owned(vector, np.float32)
        room = min(values.size, int(1.05 * expected) + 1024) + 32
        while True:
            indices, chosen = np.empty(room, np.int32), np.empty(room, np.float32)
            lanes[:] = 0
            found = kernel.amgt_select(
                address(values), whole(values.size), ctypes.c_float(float(threshold)), whole(room),
                address(indices), address(chosen), address(lanes),
            )  # fmt: skip
            if found <= room:
                return Selection(threshold, indices[:found], chosen[:found], fold(lanes))
            room = found + 32
    places, parts = [], []
    for first in range(0, vector.size, CHUNK):
        chunk = vector[first : first + CHUNK]
        kept = np.flatnonzero(np.abs(chunk) >= threshold)
        places.append((kept + first).astype(np.int32))
        parts.append(chunk[kept])
        wide = chunk.astype(np.float64)
        wide[kept] = 0
        lanes += lane_sums(np.multiply(wide, wide, out=wide))
    none = Selection(threshold, np.zeros(0, np.int32), np.zeros(0, np.float32), 0.0)
    return Selection(threshold, np.concatenate(places), np.concatenate(parts), fold(lanes)) if places else none
