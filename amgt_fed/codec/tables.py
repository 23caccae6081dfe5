"""Two books of 256 probability tables, so that a table costs one byte; and tables of a payload's own, a byte a symbol.

The level book is for quantizer levels: a probability of zero, and a tail that falls geometrically or like a Gaussian.
The gap book is for distances between survivors: geometric, or a mixture of two where survivors cluster.

Both ends must hold the same tables to the last digit. So they are built from IEEE products and sums in a fixed order
and from integer sums, never from `exp`, whose last digit differs between C libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.symbols import FIRST, SYMBOLS

PRECISION = 15  # bits; frequencies of a table sum to 2^15
TOTAL = 1 << PRECISION
_HEAVIEST = 31 << 15
_LONGEST = 1024  # levels followed one by one; the tail beyond is left to the least frequency
# Odds of zero against the rest, half a nat (factor 1.65) apart from 1/20 to 90.
_ODDS_FIRST, _ODDS_RATIO, _ODDS = 0.05, 1.6487, 16
_TAILS = (0.04, 0.1, 0.18, 0.28, 0.4, 0.55, 0.72, 0.87)  # ratio of level 2 to level 1 and so on, geometric
_BENDS = (1.0, 0.82)  # what the ratio is multiplied by at each further level: 1 geometric, below 1 Gaussian
_GAP_RATIO, _GAPS, _GAP_FIRST = 1.3195, 64, 0.03  # mean gaps from 0.03 in steps of 2^0.4
_MIXTURES = ((0.0, 1.0), (0.3, 5.0), (0.5, 12.0), (0.2, 40.0))  # share and factor of the second mean


@dataclass(frozen=True, slots=True)
class Book:
    """Tables of SYMBOLS columns: frequencies, and what each symbol costs in bits."""

    frequency: NDArray[np.int64]
    cost: NDArray[np.float64]

    def only(self, row: int) -> Book:
        """A book of one of the tables."""
        return Book(self.frequency[row : row + 1], self.cost[row : row + 1])

    def best(self, histogram: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The cheapest table for each histogram, and the bits it takes.

        Args:
            histogram: shape (n, SYMBOLS).
        """
        bits = histogram.astype(np.float64) @ self.cost.T
        chosen = np.argmin(bits, axis=1)
        return chosen, bits[np.arange(len(chosen)), chosen]


@cache
def level_book() -> Book:
    """Tables 0 to 255: odds of zero (16), tail (8), bend (2)."""
    odds = [_ODDS_FIRST]
    for _ in range(_ODDS - 1):
        odds.append(odds[-1] * _ODDS_RATIO)
    shape = (_ODDS, len(_TAILS), len(_BENDS))
    zero = np.broadcast_to(np.array(odds)[:, None, None], shape).reshape(-1)
    ratio = np.broadcast_to(np.array(_TAILS)[None, :, None], shape).reshape(-1).copy()
    bend = np.broadcast_to(np.array(_BENDS)[None, None, :], shape).reshape(-1)
    # A bent tail starts less steeply, so that both kinds cover the same spread.
    ratio = np.where(bend < 1, np.sqrt(ratio), ratio)
    weight = np.ones_like(ratio)
    mass = np.zeros((len(ratio), SYMBOLS), np.int64)
    bucket = np.searchsorted(FIRST, np.arange(1, _LONGEST), side="right") - 1
    for symbol in bucket:
        mass[:, symbol] += (weight * 2.0**40).astype(np.int64)
        weight = weight * ratio
        ratio = ratio * bend
    tail = mass.sum(axis=1)  # integers: any order gives the same sum
    mass[:, 0] = (tail.astype(np.float64) * zero).astype(np.int64)
    return _normalised(mass)


@cache
def gap_book() -> Book:
    """Tables 0 to 255: mean gap (64), mixture (4)."""
    mean = _GAP_FIRST
    rows = []
    for _ in range(_GAPS):
        rows += [_mixed_gaps(mean, share, factor) for share, factor in _MIXTURES]
        mean = mean * _GAP_RATIO
    return _normalised(np.array(rows))


def own_codes(counts: NDArray[np.int64]) -> bytes:
    """A table of the counts' own, one byte for each symbol up to the last that occurs.

    A byte is 0, or 1 + 16 e + m for a weight of (16 + m) 2^e: within 3 %, which costs some ten-thousandths of a bit.
    """
    last = int(np.flatnonzero(counts)[-1])
    weights = counts[: last + 1] * (_HEAVIEST / int(counts.max()))
    fraction, exponent = np.frexp(weights)
    code = np.clip(np.round(fraction * 32).astype(np.int64) - 16 + 16 * (exponent - 5), 0, 255 - 1) + 1
    return bytes(np.where(counts[: last + 1] > 0, code, 0).astype(np.uint8))


def own_table(codes: bytes) -> Book:
    """A book of the one table that these codes say; all zero is a table of equal frequencies."""
    code = np.frombuffer(codes, np.uint8).astype(np.int64) - 1
    mass = np.zeros((1, SYMBOLS), np.int64)
    # 2^14: `_normalised` takes its sums in such units.
    mass[0, : code.size] = np.where(code >= 0, (16 + (code & 15)) << ((code >> 4) + 14), 0)
    return _normalised(mass)


def _mixed_gaps(mean: float, share: float, factor: float) -> NDArray[np.int64]:
    return np.asarray(_geometric(mean, 1 - share) + _geometric(mean * factor, share))


def _geometric(mean: float, share: float) -> NDArray[np.int64]:
    """Mass of each symbol under P(gap >= a) = (mean / (mean + 1))^a, times share and 2^40."""
    powers = [mean / (mean + 1)]  # of 1, 2, 4, ...
    for _ in range(31):
        powers.append(powers[-1] * powers[-1])
    reached = []
    for first in [*FIRST.tolist(), 1 << 31]:
        survival = 1.0
        for bit in range(32):
            if first >> bit & 1:
                survival = survival * powers[bit]
        reached.append(survival)
    return np.array([int((a - b) * share * 2.0**40) for a, b in pairwise(reached)], np.int64)


def _normalised(mass: NDArray[np.int64]) -> Book:
    """Frequencies >= 1 that sum to TOTAL, in proportion to `mass`; integer arithmetic only."""
    total = mass.sum(axis=1, keepdims=True)
    # 2^40 times up to 2^10 levels times 2^15 would overflow int64.
    frequency = 1 + (mass >> 14) * (TOTAL - SYMBOLS) // np.maximum(total >> 14, 1)
    rows = np.arange(len(mass))
    frequency[rows, np.argmax(frequency, axis=1)] += TOTAL - frequency.sum(axis=1)
    return Book(frequency, PRECISION - np.log2(frequency))
