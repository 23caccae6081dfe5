"""How error and bits change with lambda, told by a histogram of magnitudes: no pass over the data for each lambda."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.quantize import LARGEST_LEVEL, ROUNDING, worth
from amgt_fed.codec.scan import SHIFT
from amgt_fed.codec.survivors import Candidate

_FINITE = (255 << 23 >> SHIFT) - 1  # bins below this one end at finite numbers
_EDGES = (np.arange(_FINITE + 1, dtype=np.uint32) << SHIFT).view(np.float32).astype(np.float64)
_LOW, _SPAN = _EDGES[:-1], np.diff(_EDGES)
_PARTS = 4
_NO_ENERGY = 1e-10
_STEPS = 12
_TOO_FAR = math.log(64.0)


class Model:
    """Sparse values as one histogram, with the factors as they are.

    Args:
        bins: `scan.histogram` of every tensor's residual.
        log_lambda: where `sparse_bits` were counted, or would be.
        price: lambda / step^2.
        sparse_bits: bits of all survivors; None if none were counted yet.
        factor_bits: of all low-rank terms.
    """

    def __init__(
        self,
        bins: Sequence[NDArray[np.float64]],
        log_lambda: float,
        price: float,
        *,
        sparse_bits: float | None = None,
        factor_bits: float = 0.0,
    ) -> None:
        total = np.sum(bins, axis=0)[:_FINITE]
        # What holds no energy to speak of is never coded; it is left out, but counted.
        energy = np.cumsum(total * (_LOW + _SPAN) ** 2)
        used = np.flatnonzero((total > 0) & (energy > _NO_ENERGY * energy[-1]))
        # Each bin as several, or its whole count would cross a threshold at once.
        parts = (np.arange(_PARTS) + 0.5) / _PARTS
        self._count = np.repeat(total[used] / _PARTS, _PARTS)
        self._centre = (_LOW[used, None] + _SPAN[used, None] * parts).reshape(-1)
        self._width = np.repeat(_SPAN[used] / _PARTS, _PARTS)
        self._size = max(1.0, float(total.sum()))
        self._log_lambda, self._price = log_lambda, price
        self._factors = factor_bits
        # What the model gets wrong, clustered survivors above all, it gets wrong alike at near lambdas.
        self._scale = 1.0 if sparse_bits is None else sparse_bits / self._sparse_bits(log_lambda)

    @classmethod
    def of(cls, candidates: Sequence[Candidate], log_lambda: float) -> Model:
        """The model of what was found at one lambda."""
        factors = sum(c.factor_bits for c in candidates)
        sparse = sum(c.bits for c in candidates) - factors
        price = math.exp(log_lambda) / candidates[0].step ** 2
        return cls([c.source.bins for c in candidates], log_lambda, price, sparse_bits=sparse, factor_bits=factors)

    def excess(self, budget: float, *, rising: bool) -> float:
        """Logarithm of the model's own bits (where `rising`) or squared error over a budget."""
        value = self._log_bits if rising else self._log_distortion
        return value(self._log_lambda) - math.log(budget)

    def shifted(self, excess: float, *, rising: bool) -> float | None:
        """The log lambda at which an excess over a budget, in logarithms, is used up; None if it is too far to tell.

        Args:
            excess: of bits where `rising`, of squared error otherwise.
            rising: whether a larger lambda lowers the excess.
        """
        here = self._log_lambda
        value = self._log_bits if rising else self._log_distortion
        target = value(here) - excess
        low, high = here - _TOO_FAR, here + _TOO_FAR
        # The curve is smooth: secants, kept within a bracket.
        slope = -1.0 if rising else 0.7
        at, now = here, value(here)
        for _ in range(_STEPS):
            if abs(now - target) < 1e-4:
                break
            if (now > target) == rising:
                low = at
            else:
                high = at
            step = (target - now) / slope
            trial = at + min(max(step, -2.0), 2.0)
            if not low < trial < high:
                trial = (low + high) / 2
            after = value(trial)
            if trial != at and after != now:
                slope = (after - now) / (trial - at)
                slope = min(slope, -0.05) if rising else max(slope, 0.05)
            at, now = trial, after
        return at if abs(now - target) < 0.05 and abs(at - here) < _TOO_FAR else None

    def _log_distortion(self, log_lambda: float) -> float:
        step, kept, magnitude = self._at(log_lambda)
        below = ~kept
        lost = float(self._count[below] @ (self._centre[below] ** 2 + self._width[below] ** 2 / 12))
        count, centre = self._count[kept], self._centre[kept] / step
        for chosen in (magnitude == 1, magnitude > 1):
            weight, rest = count[chosen], (centre - magnitude)[chosen]
            if weight.size:
                mean = float(weight @ rest) / float(weight.sum())
                spread = (self._width[kept][chosen] / step) ** 2 / 12
                # A bin wider than a step holds several levels; what is lost is then a step's own spread.
                lost += step * step * float(weight @ np.minimum((rest - mean) ** 2 + spread, 1 / 6))
        return math.log(max(lost, 1e-300))

    def _log_bits(self, log_lambda: float) -> float:
        return math.log(self._factors + self._scale * self._sparse_bits(log_lambda))

    def _sparse_bits(self, log_lambda: float) -> float:
        _, kept, magnitude = self._at(log_lambda)
        count = self._count[kept]
        total = max(float(count.sum()), 0.5)
        share = min(total / self._size, 1 - 1e-9)
        bits = self._size * -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) + total
        # Levels by their logarithm: a level of b bits costs what its octave does and b - 1 plain bits.
        octave = np.frexp(magnitude)[1]
        weight = np.bincount(octave, count) / total
        weight = weight[weight > 0]
        bits += total * float(-(weight * np.log2(weight)).sum()) + float(count @ (octave - 1))
        return max(bits, 1.0)

    def _at(self, log_lambda: float) -> tuple[float, np.ndarray, np.ndarray]:
        lam = math.exp(log_lambda)
        step = math.sqrt(lam / self._price)
        threshold = 1.0
        for _ in range(3):
            density = float(self._count[self._centre >= threshold * step].sum()) / self._size
            density = min(max(density, 0.5 / self._size), 0.98)
            threshold = float(worth(math.log2((1 - density) / density) + 3.14, self._price))
        kept = self._centre >= threshold * step
        magnitude = np.clip(np.floor(self._centre[kept] / step + ROUNDING), 1, LARGEST_LEVEL)
        return step, kept, magnitude
