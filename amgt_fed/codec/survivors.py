"""A vector sent sparsely: which of its values survive a dead zone at one lambda, and what they cost and leave out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.lowrank import Factors
from amgt_fed.codec.quantize import Quantized, Shifts, best_shifts, quantize, worth
from amgt_fed.codec.scan import NUM_BINS, SHIFT, Selection, histogram, select, squares
from amgt_fed.codec.symbols import WIDTH, gap_symbols, level_symbols
from amgt_fed.codec.tables import gap_book, level_book
from amgt_fed.layout import Float32Vector

_SPARE = 0.98  # values are taken from a little below the threshold, to serve the next lambda without a pass
_WORTH_SPARING = 1 << 15
_HEAD_BITS = 24  # of a tensor with survivors: rank, count and table


@dataclass(frozen=True)
class Candidate:
    """One way to send a tensor. Distortion and bits are the search's measure; the payload's own are taken later."""

    bits: float
    step: float  # of the survivors
    factors: Factors | None
    selection: Selection  # survivors of the residual
    quantized: Quantized
    survivor_bits: float  # what one more survivor on level 1 costs
    source: Survivors  # of whose values these are some; released when others have taken their place
    factor_bits: float = 0.0

    @property
    def indices(self) -> NDArray[np.int32]:
        """Places of the survivors, increasing."""
        return self.selection.indices

    @cached_property
    def distortion(self) -> float:
        """Squared error with the reconstruction points that suit this tensor."""
        return self.distortion_with(best_shifts([self.quantized]))

    def distortion_with(self, shifts: Shifts) -> float:
        """Squared error with these reconstruction points."""
        return self.selection.rest + self.step * self.step * self.quantized.lost(shifts)

    def cost(self, price: float) -> float:
        """distortion + lambda * bits."""
        return self.distortion + price * self.bits

    def with_factors(self, factors: Factors, bits: float) -> Candidate:
        """The same beside low-rank terms that cost `bits`."""
        return replace(self, factors=factors if factors.rank else None, bits=self.bits + bits, factor_bits=bits)

    def keeping(self, kept: NDArray[np.bool_]) -> Candidate:
        """The same with only some of the survivors."""
        old = self.selection
        values = old.values[kept]
        gone = old.values[~kept]
        rest = old.rest + squares(gone)
        selection = Selection(old.threshold, old.indices[kept], values, rest)
        now, less = self.quantized, quantize(gone, self.step)
        quantized = Quantized(
            now.levels[kept],
            now.ones - less.ones,
            now.first - less.first,
            now.others - less.others,
            now.squares - less.squares,
        )
        bits = self.factor_bits + sparse_bits(selection.indices, quantized.levels)
        return replace(self, selection=selection, quantized=quantized, bits=bits)


class Survivors:
    """A dense vector with the histogram of its magnitudes; finds what survives at any lambda in one pass or none."""

    def __init__(self, values: Float32Vector) -> None:
        self.values = values
        self._bins: NDArray[np.float64] | None = None
        self._above: NDArray[np.float64] | None = None
        self._taken: Selection | None = None

    def release(self) -> None:
        """Let go of the values, of which no more will be asked; the histogram stays."""
        _ = self.bins
        self.values, self._taken, self._above = np.zeros(0, np.float32), None, None

    @property
    def bins(self) -> NDArray[np.float64]:
        """How many magnitudes fall on each bin of `scan.histogram`."""
        if self._bins is None:
            self._bins = histogram(self.values)
        return self._bins

    def count(self, threshold: np.float32) -> float:
        """About how many values reach the threshold, from the histogram."""
        if self._above is None:
            self._above = np.append(np.cumsum(self.bins[::-1])[::-1], 0.0)
        bits = int(np.float32(threshold).view(np.uint32))
        place, below = bits >> SHIFT, (bits & ((1 << SHIFT) - 1)) / (1 << SHIFT)
        return float(self._above[place + 1] + (1 - below) * self.bins[place]) if place < NUM_BINS else 0.0

    def at(self, lam: float, step: float) -> Candidate:
        """Dead-zone levels at `step`, kept only where they save more error than lambda times their bits."""
        size = max(1, self.values.size)
        price = lam / (step * step)
        threshold, survivor_bits = 1.0, 0.0
        for _ in range(3):
            density = min(max(self.count(_float32(threshold * step)) / size, 0.5 / size), 0.98)
            # Position, sign and about a bit of level, against the position's share of a zero.
            survivor_bits = math.log2((1 - density) / density) + 1 + 1.44 + 0.7
            threshold = float(worth(survivor_bits, price))
        selection = self._select(_float32(threshold * step))
        quantized = quantize(selection.values, step)
        bits = sparse_bits(selection.indices, quantized.levels)
        return Candidate(bits, step, None, selection, quantized, max(survivor_bits, 1.0), self)

    def _select(self, threshold: np.float32) -> Selection:
        taken = self._taken
        if taken is None or taken.threshold > threshold or taken.indices.size > 1.5 * self.count(threshold) + 1000:
            spare = _float32(_SPARE * float(threshold)) if self.values.size >= _WORTH_SPARING else threshold
            taken = select(self.values, spare, self.count(spare))
            self._taken = taken
        if taken.threshold == threshold:
            return taken
        kept = np.abs(taken.values) >= threshold
        rest = taken.rest + squares(taken.values[~kept])
        return Selection(threshold, taken.indices[kept], taken.values[kept], rest)


def _float32(threshold: float) -> np.float32:
    """A threshold beyond float32 is above every value; infinity says the same without a warning. Never 0."""
    return np.float32(max(threshold, 1e-45) if threshold < 3e38 else math.inf)


def sparse_bits(indices: NDArray[np.int32], levels: NDArray[np.int32]) -> float:
    """Bits of survivors: gaps, levels, signs, and the tensor's own bytes in the head."""
    if not indices.size:
        return 0.0
    gaps, numbers = gap_symbols(indices)[1], level_symbols(levels)[1]
    bits = float(gap_book().best(gaps[None])[1][0]) + float(level_book().best(numbers[None])[1][0])
    return bits + float((gaps + numbers) @ WIDTH) + indices.size + _HEAD_BITS
