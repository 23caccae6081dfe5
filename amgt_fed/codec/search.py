"""The lambda that meets a budget: one number prices error against bits in every tensor alike (equal slope)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from amgt_fed.codec.body import Levels, TensorLevels, coarse_step
from amgt_fed.codec.quantize import best_shifts
from amgt_fed.codec.tensor import SPARSE_PRICE, Candidate, TensorSource

_BRACKET = math.log(4.0)
_CLOSE = 0.03  # in log lambda
_MAX_EVALUATIONS = 40


@dataclass(frozen=True, slots=True)
class Point:
    """All tensors at one lambda."""

    log_lambda: float
    step: float
    candidates: tuple[Candidate, ...]

    @property
    def distortion(self) -> float:
        """Squared error, before centroids and float32 rounding."""
        return sum(candidate.distortion for candidate in self.candidates)

    @property
    def bits(self) -> float:
        """Bits, before the choice of common tables."""
        return sum(candidate.bits for candidate in self.candidates)

    def levels(self) -> Levels:
        """What to write: the survivors' centroids are taken here, over all tensors."""
        scaled = [c.scaled for c in self.candidates]
        magnitudes = [np.abs(c.levels) for c in self.candidates]
        shifts = best_shifts(np.concatenate(scaled), np.concatenate(magnitudes))
        tensors = tuple(TensorLevels(c.factors, c.indices, c.levels) for c in self.candidates)
        return Levels(tensors, self.step, shifts)


def evaluate(sources: list[TensorSource], log_lambda: float) -> Point:
    """The best candidate of every tensor at one lambda."""
    lam = math.exp(log_lambda)
    step = coarse_step(math.sqrt(lam / SPARSE_PRICE))
    return Point(log_lambda, step, tuple(source.best(lam, step) for source in sources))


def boundary(
    fits: Callable[[Point], bool], at: Callable[[float], Point], start: float, rising: bool, span: tuple[float, float]
) -> list[Point]:
    """Points on both sides of where `fits` changes, the last few within `_CLOSE` of it.

    Args:
        fits: whether a point meets the budget.
        at: evaluates log lambda.
        start: first log lambda to try.
        span: log lambdas to stay within.
        rising: True when larger lambdas fit (a budget of bytes), False when smaller do (a budget of error).

    Returns:
        Every point that fits, in the order tried; empty if none was found.
    """
    inside: float | None = None
    outside: float | None = None
    fitting: list[Point] = []
    low, high = span
    position = min(max(start, low), high)
    stride = _BRACKET
    for _ in range(_MAX_EVALUATIONS):
        point = at(position)
        if fits(point):
            fitting.append(point)
            inside = position
        else:
            outside = position
        if inside is not None and outside is not None:
            if abs(inside - outside) < _CLOSE:
                break
            position = (inside + outside) / 2
        else:
            upwards = rising if inside is None else not rising
            if position == (high if upwards else low):
                break
            position = min(position + stride, high) if upwards else max(position - stride, low)
            stride *= 1.6
    return fitting
