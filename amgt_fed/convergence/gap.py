"""How far f(x) is from the minimum, between two proven bounds, with the help of a second point nearer to it.

From a gradient at x alone, f(x) - f* <= ||grad f(x)||^2 / (2 mu) (B), too large by up to the quotient of the Hessian's
eigenvalues and mu. But any point z gives f* >= f(z) - ||grad f(z)||^2 / (2 mu) as well, and f* <= f(z). So

    f(x) - f(z)  <=  f(x) - f*  <=  f(x) - f(z) + ||grad f(z)||^2 / (2 mu),

and once z has ||grad f(z)||^2 / (2 mu) <= f(x) - f(z), the upper bound is within twice the truth, whatever that is.
Where f(x) - f(z) drowns in the rounding of two values, gradients give it: with d = x - z, strong convexity at z and x
says

    <grad f(z), d> + mu/2 ||d||^2  <=  f(x) - f(z)  <=  <grad f(x), d> - mu/2 ||d||^2.

z is looked for by L-BFGS (Nocedal 1980); how it was found does not matter to the proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidAssumption

Vector = NDArray[np.float64]

_PAIRS = 12
_VALUE_ROUNDING = 1e-12  # of a mean of float64 losses, relative; a million examples lose 1e-13
_ENOUGH = 1.5  # upper <= 1.5 lower: well within the factor of 2, for little more work
_IDLE = 0.05  # a remainder below this share of the upper bound is not what makes it large
_SMALLEST_STEP = 0.3**6
_SUFFICIENT_DECREASE = 1e-4


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """f and its gradient at one point, over the data of every client.

    Attributes:
        at: the point, shape (n,), float64 holding the model's float32 values.
        value: f there, in [f].
        gradient: shape (n,), float64, within `error` of the true one.
        error: in [f]/[x].
    """

    at: Vector
    value: float
    gradient: Vector
    error: float

    @property
    def gradient_upper(self) -> float:
        """||grad f|| is at most this."""
        return float(np.linalg.norm(self.gradient)) + self.error


@dataclass(frozen=True, slots=True)
class GapBounds:
    """What is proven of f(x) - f* and ||x - x*||.

    Attributes:
        lower, upper: of f(x) - f*, in [f].
        distance: upper bound of ||x - x*||, in [x].
        remainder: the part of `upper` that a better second point would take away.
    """

    lower: float
    upper: float
    distance: float
    remainder: float

    @property
    def is_tight(self) -> bool:
        """The upper bound is within twice the truth, or no second point would make it much smaller."""
        return self.upper <= _ENOUGH * self.lower or self.remainder <= _IDLE * self.upper


def gap_bounds(x: MeasuredPoint, z: MeasuredPoint, mu: float) -> GapBounds:
    """Bounds on f(x) - f* and ||x - x*|| from measurements at x and at any z (x itself gives (B)).

    Args:
        x: where the gap is asked for.
        z: any point of the same objective; the nearer to the minimum, the better.
        mu: strong convexity, > 0, in [f]/[x]^2.

    Raises:
        InvalidAssumption: `mu` is not a finite number > 0.

    Source: the module's text; every gradient is taken at the worst end of its error.
    """
    if not 0 < mu < math.inf:
        raise InvalidAssumption("mu", mu, "a finite number > 0")
    apart = x.at - z.at
    length = float(np.linalg.norm(apart))
    half = 0.5 * mu * length * length
    remainder = z.gradient_upper**2 / (2 * mu)
    rounding = _VALUE_ROUNDING * (abs(x.value) + abs(z.value))
    difference = x.value - z.value
    from_values = difference + rounding
    from_gradient = float(x.gradient @ apart) + x.error * length - half
    alone = x.gradient_upper**2 / (2 * mu)
    upper = min(max(min(from_values, from_gradient), 0.0) + remainder, alone)
    lower = max(difference - rounding, float(z.gradient @ apart) - z.error * length + half, 0.0)
    distance = min(
        x.gradient_upper / mu,
        length + z.gradient_upper / mu,
        math.sqrt(2 * upper / mu),
    )
    return GapBounds(lower, upper, distance, min(remainder, upper))


class MinimumSearch:
    """Looks for a point near the minimum, one measured gradient at a time: L-BFGS with halved steps.

    Args:
        start: the best point known.
        smoothness: L, for the first step's length; None: the first step has the length of 1 % of the start, or .01.
    """

    def __init__(self, start: MeasuredPoint, *, smoothness: float | None = None) -> None:
        self.best = start
        self._smoothness = smoothness
        self._pairs: list[tuple[Vector, Vector]] = []
        self._step = 1.0

    def proposal(self) -> Vector | None:
        """The point to measure next; None where the search stands still: the gradient is zero, or no step helps.

        The measured point may differ a little (it is rounded and encoded); `add` takes it as it was.
        """
        direction = self._direction()
        length = float(np.linalg.norm(direction))
        if length == 0 or self._step < _SMALLEST_STEP:
            return None
        return self.best.at - self._step * direction

    def add(self, measured: MeasuredPoint) -> None:
        """Take a measured proposal in."""
        moved, turned = measured.at - self.best.at, measured.gradient - self.best.gradient
        curvature = float(moved @ turned)
        if curvature > 1e-10 * float(np.linalg.norm(moved)) * float(np.linalg.norm(turned)):
            self._pairs = [*self._pairs, (moved, turned)][-_PAIRS:]
        slope = float(self.best.gradient @ moved)
        rounding = _VALUE_ROUNDING * (abs(measured.value) + abs(self.best.value))
        falls = measured.value <= self.best.value + _SUFFICIENT_DECREASE * min(slope, 0.0)
        # Near the minimum values no longer tell: there a smaller gradient decides.
        level = abs(measured.value - self.best.value) <= rounding
        if falls or (level and measured.gradient_upper < self.best.gradient_upper):
            self.best, self._step = measured, 1.0
        else:
            self._step *= 0.3

    def _direction(self) -> Vector:
        """H g by the two-loop recursion, H the inverse Hessian's estimate."""
        result = self.best.gradient.copy()
        weights = []
        for moved, turned in reversed(self._pairs):
            weight = float(moved @ result) / float(moved @ turned)
            weights.append(weight)
            result -= weight * turned
        if self._pairs:
            moved, turned = self._pairs[-1]
            result *= float(moved @ turned) / float(turned @ turned)
        elif self._smoothness is not None:
            result /= self._smoothness
        else:
            norm = float(np.linalg.norm(result))
            result *= (0.01 * float(np.linalg.norm(self.best.at)) or 0.01) / norm if norm else 0.0
        for (moved, turned), weight in zip(self._pairs, reversed(weights), strict=True):
            result += (weight - float(turned @ result) / float(moved @ turned)) * moved
        return result
