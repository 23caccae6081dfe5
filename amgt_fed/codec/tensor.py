"""One tensor at one lambda: the low-rank terms and the sparse levels with the least error + lambda * bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.lowrank import MAX_RANK, Factors, Fit, Subspace, leading, worthwhile
from amgt_fed.codec.scan import BINS_PER_OCTAVE
from amgt_fed.codec.survivors import Candidate, Survivors
from amgt_fed.codec.symbols import SYMBOLS, WIDTH, to_symbols
from amgt_fed.codec.tables import level_book
from amgt_fed.layout import Float32Vector

# lambda / step^2: squared error, in steps, that one bit must save. Swept on real updates, and for survivors that no
# factors stand beside on Laplace and Student vectors; high-rate theory has 0.116.
SPARSE_PRICE, ALONE_PRICE, FACTOR_PRICE = 0.07, 0.05, 0.085
_SHARES = (0.0, 0.4, 0.7, 1.0)
_RELEARN = 1.35
# Factors serve lambdas within this factor of the one they were rounded for: where survivors carry most, and where not.
_REFIT, _REFIT_OFTEN = 1.1, 1.002
_SURVIVOR_BITS = 8
_COEFFICIENT_BITS = 2.0
_KEPT_SURVIVORS = 2000
_ROWS = 1 << 16  # elements of a product that are made at a time
TERM_BYTES = 3  # unit, and one table for each factor


@dataclass(frozen=True, slots=True)
class Warm:
    """What one tensor's encode tells the next: directions on its shorter side, shape (r, side), and a rank's share."""

    directions: NDArray[np.float32]
    share: float


@dataclass(frozen=True, slots=True)
class _Made:
    rank: int
    lam: float
    factors: Factors
    bits: float
    rest: Survivors
    survivors: int = 0

    @property
    def reach(self) -> float:
        """How far lambda may move before the factors are rounded anew."""
        return _REFIT if _SURVIVOR_BITS * self.survivors > self.bits else _REFIT_OFTEN


class TensorSource:
    """A tensor with all that does not depend on lambda: its energy and singular triplets."""

    def __init__(
        self, values: Float32Vector, shape: tuple[int, ...], energy: float, warm: Warm | None, *, precise: bool
    ) -> None:
        self.energy = energy
        self.whole = Survivors(values)
        self.matrix: NDArray[np.float32] | None = None
        self.seen: list[Candidate] = []
        self._space: Subspace | None = None
        self._warm, self._precise = warm, precise
        self._learned, self._share = 0.0, warm.share if warm else 1.0
        self._made: _Made | None = None
        self._fit: Fit | None = None
        if (sides := matrix_shape(shape)) is not None and energy > 0:
            self.matrix = values.reshape(sides)

    @property
    def warm(self) -> Warm | None:
        """For the next round's sketch to start from."""
        if self._space is None or self.matrix is None:
            return None
        side = self._space.right if self.matrix.shape[0] >= self.matrix.shape[1] else self._space.left
        kept = max(4, 2 * (self._made.rank if self._made else 0))
        return Warm(side[:kept].astype(np.float32), self._share)

    def best(self, lam: float, sparse_step: float) -> Candidate:
        """The cheapest candidate at `lam`.

        Ranks are tried as shares of the expected one, 0 always among them. The share that won is kept while lambda
        stays within a factor of `_RELEARN`: a search ends with many lambdas close together.
        """
        expected = self._expected(lam)
        near = self._learned > 0 and 1 / _RELEARN < lam / self._learned < _RELEARN
        shares = (self._share,) if near else (0.0, self._share) if self._warm and not self._learned else _SHARES
        ranks = sorted({math.ceil(share * expected) for share in shares}, reverse=True)
        best: Candidate | None = None
        made: _Made | None = None
        self._fit = None
        for rank in ranks:
            candidate, of = self._at_rank(rank, lam, sparse_step)
            # Long lists of survivors are not kept: they fit one step only, and would outgrow the update.
            self.seen += [candidate] if candidate.indices.size <= _KEPT_SURVIVORS else []
            if best is None or candidate.cost(lam) < best.cost(lam):
                self._release(made, but=of)
                best, made = candidate, of
            else:
                self._release(of, but=made)
        assert best is not None
        self._release(self._made, but=made)
        self._made = made
        if not near:
            self._learned, self._share = lam, (made.rank / expected if made and expected else 0.0 if expected else 1.0)
        return best

    def outlook(self, lam: float) -> tuple[NDArray[np.float64], float]:
        """About what `scan.histogram` of the residual would be at this lambda, and the bits of the terms before it.

        The residual is taken to look like the tensor itself, only smaller by the energy of the terms.
        """
        if self.matrix is None or not (expected := self._expected(lam)) or self._space is None:
            return self.whole.bins, 0.0
        rounding = expected * sum(self.matrix.shape) * lam / FACTOR_PRICE / 12
        left = 1 - (float(np.sum(self._space.values[:expected] ** 2)) - rounding) / self.energy
        down = round(BINS_PER_OCTAVE / 2 * -math.log2(min(max(left, 1e-6), 1.0)))
        bins = np.append(self.whole.bins[down:], np.zeros(down))
        bins[0] += self.whole.bins[:down].sum()
        return bins, expected * (_COEFFICIENT_BITS * sum(self.matrix.shape) + 8 * TERM_BYTES)

    def look_around(self, chosen: Candidate, lam: float, sparse_step: float) -> None:
        """See what a term or two less or more would give at this lambda; does nothing for a vector."""
        if self.matrix is None or self._space is None:
            return
        rank = chosen.factors.rank if chosen.factors else 0
        most = min(rank_limit(self.matrix.shape), len(self._space.values))
        for other in (rank + 2, rank + 1, rank - 1):
            if 0 <= other <= most:
                candidate, made = self._at_rank(other, lam, sparse_step)
                self.seen.append(candidate)
                self._release(made, but=self._made)

    @staticmethod
    def _release(made: _Made | None, but: _Made | None) -> None:
        """Let go of a residual, unless it is the other's: one of a tensor is held at a time."""
        if made is not None and (but is None or made.rest is not but.rest):
            made.rest.release()

    def _expected(self, lam: float) -> int:
        if self.matrix is None:
            return 0
        step = math.sqrt(lam / FACTOR_PRICE)
        rows, columns = self.matrix.shape
        if self._space is None:
            self._space = leading(self.matrix, self._warm.directions if self._warm else None, precise=self._precise)
        expected = worthwhile(self._space.values, rows, columns, step)
        if self._space.partial and expected == len(self._space.values):
            # More terms are worth sending than the last round's directions tell of.
            self._space = leading(self.matrix, None, precise=self._precise)
            expected = worthwhile(self._space.values, rows, columns, step)
        return min(expected, rank_limit(self.matrix.shape))

    def _at_rank(self, rank: int, lam: float, sparse_step: float) -> tuple[Candidate, _Made | None]:
        if rank == 0 or self.matrix is None or self._space is None:
            return self.whole.at(lam, sparse_step), None
        made = self._made
        if made is None or made.rank != rank or not 1 / made.reach < lam / made.lam < made.reach:
            step = math.sqrt(lam / FACTOR_PRICE)
            if self._fit is None or self._fit.rank < rank or self._fit.step != step:
                self._fit = Fit(self.matrix, self._space, rank, step, FACTOR_PRICE)
            factors = self._fit.factors(rank)
            made = _Made(rank, lam, factors, factor_bits(factors), Survivors(_residual(self.matrix, factors)))
        candidate = made.rest.at(lam, sparse_step).with_factors(made.factors, made.bits)
        return candidate, replace(made, survivors=candidate.indices.size)


def _residual(matrix: NDArray[np.float32], factors: Factors) -> Float32Vector:
    out = np.empty_like(matrix)
    for first, block in factors.blocks(max(1, _ROWS // matrix.shape[1])):
        np.subtract(matrix[first : first + len(block)], block, out=out[first : first + len(block)])
    return out.reshape(-1)


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


def histograms(symbols: NDArray[Any]) -> NDArray[np.int64]:
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
