"""Log-log slopes: of a whole series at once, and of the last half of a run that is still growing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

_BINS_PER_OCTAVE = 16
_FEWEST_POINTS = 3


@dataclass(frozen=True, slots=True)
class Slope:
    """A fitted exponent: the series behaves like round^value."""

    value: float
    standard_error: float
    points: int


@dataclass(slots=True)
class _Bin:
    """Centred sums of (log round, log value), so that no digits cancel: log k hardly varies within a bin."""

    count: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    sxx: float = 0.0
    sxy: float = 0.0
    syy: float = 0.0

    def add(self, x: float, y: float) -> None:
        self.merge(_Bin(1, x, y))

    def merge(self, other: _Bin) -> None:
        total = self.count + other.count
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        weight = self.count * other.count / total
        self.sxx += other.sxx + dx * dx * weight
        self.sxy += other.sxy + dx * dy * weight
        self.syy += other.syy + dy * dy * weight
        self.mean_x += dx * other.count / total
        self.mean_y += dy * other.count / total
        self.count = total

    def slope(self) -> Slope | None:
        if self.count < _FEWEST_POINTS or self.sxx == 0:
            return None
        value = self.sxy / self.sxx
        residual = max(self.syy - value * self.sxy, 0.0)
        return Slope(value, math.sqrt(residual / (self.count - 2) / self.sxx), self.count)


def fit_slope(rounds: ArrayLike, values: ArrayLike) -> Slope | None:
    """Least-squares exponent p of values ~ rounds^p.

    Args:
        rounds: shape (K,), > 0.
        values: shape (K,); points that are not finite and > 0 have no logarithm and are left out.

    Returns:
        The slope with its standard error; None when fewer than three points, or a single round, remain.
    """
    total = _Bin()
    for k, value in zip(np.asarray(rounds, np.float64), np.asarray(values, np.float64), strict=True):
        if math.isfinite(value) and value > 0:
            total.add(math.log(k), math.log(value))
    return total.slope()


class LastHalfSlope:
    """The exponent over the last half of a growing run, in constant memory and constant time a round.

    Rounds are pooled into 16 bins an octave, and a fit uses the bins that lie wholly beyond half of the current
    round: no round is sampled away, the window's edge alone is rounded up, by at most 1/16 of half the run. Up to
    round 31 each round is a bin of its own and the window exact.
    """

    def __init__(self) -> None:
        self._bins: dict[int, _Bin] = {}  # first round of the bin -> sums

    def add(self, round: int, value: float) -> None:
        """Take one round in; a value without a logarithm only moves the window on."""
        if math.isfinite(value) and value > 0:
            self._bins.setdefault(_bin_start(round), _Bin()).add(math.log(round), math.log(value))
        for start in [start for start in self._bins if 2 * start <= round]:
            del self._bins[start]

    def slope(self) -> Slope | None:
        """The fit; None before there are three points."""
        total = _Bin()
        for start in sorted(self._bins):
            total.merge(self._bins[start])
        return total.slope()

    def state(self) -> dict[str, list[float]]:
        """Plain numbers, JSON-able, from which `from_state` continues bit for bit."""
        return {
            str(start): [b.count, b.mean_x, b.mean_y, b.sxx, b.sxy, b.syy] for start, b in sorted(self._bins.items())
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> LastHalfSlope:
        """The inverse of `state`."""
        fit = cls()
        for start, (count, *sums) in state.items():
            fit._bins[int(start)] = _Bin(int(count), *map(float, sums))
        return fit


def _bin_start(round: int) -> int:
    octave = 1 << (round.bit_length() - 1)
    width = max(octave // _BINS_PER_OCTAVE, 1)
    return octave + (round - octave) // width * width
