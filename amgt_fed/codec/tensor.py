"""One tensor at one lambda: the low-rank terms and the sparse levels with the least error + lambda * bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.lowrank import MAX_RANK, Factors, Subspace, factorize, leading, worthwhile
from amgt_fed.codec.quantize import GRID, LARGEST_LEVEL, best_shifts, worth
from amgt_fed.codec.symbols import SYMBOLS, WIDTH, to_symbols
from amgt_fed.codec.tables import gap_book, level_book
from amgt_fed.layout import Float32Vector

# lambda / step^2: squared error, in steps, that one bit must save. Swept on real updates; high-rate theory has 0.116.
SPARSE_PRICE, FACTOR_PRICE = 0.1, 0.085
_SHARES = (0.0, 0.4, 0.7, 1.0)
_RELEARN = 1.35
_KEPT_SURVIVORS = 2000
TERM_BYTES = 3  # unit, and one table for each factor


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to send a tensor. Distortion and bits are the search's measure; the payload's own are taken later."""

    distortion: float
    bits: float
    step: float  # of the survivors
    factors: Factors | None
    indices: NDArray[np.int64]  # survivors of the residual, increasing
    levels: NDArray[np.int64]  # signed, never 0
    scaled: NDArray[np.float64]  # |residual| / step at the survivors, for the centroids

    def cost(self, price: float) -> float:
        """distortion + lambda * bits."""
        return self.distortion + price * self.bits


class TensorSource:
    """A tensor with all that does not depend on lambda: its energy and singular triplets."""

    def __init__(self, values: Float32Vector, shape: tuple[int, ...], warm: NDArray[np.float64] | None) -> None:
        self.values = values
        self.energy = float(np.dot(values.astype(np.float64), values.astype(np.float64)))
        self.matrix: NDArray[np.float32] | None = None
        self.space: Subspace | None = None
        self.seen: list[Candidate] = []
        self._learned, self._share = 0.0, 1.0
        if (sides := matrix_shape(shape)) is not None and self.energy > 0:
            self.matrix = values.reshape(sides)
            self.space = leading(self.matrix, warm)

    @property
    def warm(self) -> NDArray[np.float64] | None:
        """Right factors to start the next round's sketch from."""
        return None if self.space is None else self.space.right[: len(self.space.values) // 2 + 1]

    def best(self, lam: float, sparse_step: float) -> Candidate:
        """The cheapest candidate at `lam`.

        Ranks are tried as shares of the expected one, 0 always among them. The share that won is kept while lambda
        stays within a factor of `_RELEARN`: a search ends with many lambdas close together.
        """
        if self.matrix is None or self.space is None:
            only = self.at_rank(0, lam, sparse_step)
            self.seen += [only] if only.levels.size <= _KEPT_SURVIVORS else []
            return only
        m, n = self.matrix.shape
        expected = worthwhile(self.space.values, m, n, math.sqrt(lam / FACTOR_PRICE))
        expected = min(expected, rank_limit(self.matrix.shape))
        near = self._learned > 0 and 1 / _RELEARN < lam / self._learned < _RELEARN
        shares = (self._share,) if near else _SHARES
        ranks = sorted({math.ceil(share * expected) for share in shares})
        candidates = [self.at_rank(rank, lam, sparse_step) for rank in ranks]
        # Long lists of survivors are not kept: they fit one step only, and would outgrow the update.
        self.seen += [candidate for candidate in candidates if candidate.levels.size <= _KEPT_SURVIVORS]
        best = min(range(len(ranks)), key=lambda place: candidates[place].cost(lam))
        if not near:
            self._learned, self._share = lam, ranks[best] / expected if expected else 1.0
        return candidates[best]

    def at_rank(self, rank: int, lam: float, sparse_step: float) -> Candidate:
        """The candidate with at most `rank` terms."""
        if rank == 0 or self.matrix is None or self.space is None:
            return _sparse(self.values, self.energy, lam, sparse_step)
        step = math.sqrt(lam / FACTOR_PRICE)
        factors = factorize(self.matrix, self.space, rank, step, FACTOR_PRICE)
        residual = self.values.copy()
        for first, block in factors.blocks(self.matrix.shape[0]):
            residual[first * self.matrix.shape[1] :] -= block.reshape(-1)
        energy = float(np.dot(residual, residual))
        rest = _sparse(residual, energy, lam, sparse_step)
        return replace(rest, factors=factors if factors.rank else None, bits=rest.bits + factor_bits(factors))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """How a tensor is seen as a matrix: output channels by everything else; None if a side is shorter than 2."""
    if len(shape) < 2:
        return None
    rows, columns = shape[0], math.prod(shape[1:])
    return (rows, columns) if min(rows, columns) >= 2 else None


def rank_limit(shape: tuple[int, ...]) -> int:
    """The largest rank worth sending: beyond it the factors hold over half as many numbers as the tensor."""
    if (sides := matrix_shape(shape)) is None:
        return 0
    return min(MAX_RANK, *sides, max(1, sides[0] * sides[1] // (2 * sum(sides))))


def histograms(symbols: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of each symbol in each row, shape (rows, SYMBOLS)."""
    rows = len(symbols)
    offset = symbols + SYMBOLS * np.arange(rows)[:, None]
    return np.bincount(offset.reshape(-1), minlength=rows * SYMBOLS).reshape(rows, SYMBOLS)


def factor_bits(factors: Factors) -> float:
    """Bits of both factors of every term, tables and signs included."""
    total = 8.0 * (TERM_BYTES * factors.rank + 1)
    for levels in (factors.left, factors.right):
        if levels.size:
            symbols = to_symbols(np.abs(levels))
            total += float(level_book().best(histograms(symbols))[1].sum())
            total += float(WIDTH[symbols].sum()) + np.count_nonzero(levels)
    return total


def _sparse(residual: Float32Vector, energy: float, lam: float, step: float) -> Candidate:
    """Dead-zone levels of a residual at `step`, kept only where they save more error than lambda times their bits."""
    magnitude = np.abs(residual)
    size = max(1, residual.size)
    price = lam / (step * step)
    threshold, count = 1.0, 0
    for _ in range(3):
        count = int(np.count_nonzero(magnitude >= _float32(threshold * step)))
        density = min(max(count / size, 0.5 / size), 0.98)
        # Position, sign and about a bit of level, against the position's share of a zero.
        threshold = float(worth(math.log2((1 - density) / density) + 1 + 1.44 + 0.7, price))
    indices = np.flatnonzero(magnitude >= _float32(threshold * step))
    scaled = magnitude[indices].astype(np.float64) / step
    magnitudes = np.clip(np.floor(scaled + 0.42), 1, LARGEST_LEVEL).astype(np.int64)
    levels = np.where(residual[indices] < 0, -magnitudes, magnitudes)
    kept = residual[indices].astype(np.float64)
    shifts = best_shifts(scaled, magnitudes)
    lost = scaled - magnitudes - np.where(magnitudes == 1, shifts.first, shifts.others) / GRID
    distortion = max(0.0, energy - float(np.dot(kept, kept))) + step * step * float(np.dot(lost, lost))
    return Candidate(distortion, sparse_bits(indices, magnitudes), step, None, indices, levels, scaled)


def _float32(threshold: float) -> np.float32:
    """A threshold beyond float32 is above every value; infinity says the same without a warning."""
    return np.float32(threshold if threshold < 3e38 else math.inf)


def sparse_bits(indices: NDArray[np.int64], magnitudes: NDArray[np.int64]) -> float:
    """Bits of survivors: gaps, levels, signs, and the tensor's own bytes in the head."""
    if not indices.size:
        return 0.0
    gaps = to_symbols(np.diff(indices, prepend=-1) - 1)
    levels = to_symbols(magnitudes - 1)
    bits = float(gap_book().best(histograms(gaps[None]))[1][0]) + float(
        level_book().best(histograms(levels[None]))[1][0]
    )
    return bits + float(WIDTH[gaps].sum() + WIDTH[levels].sum()) + indices.size + 24
