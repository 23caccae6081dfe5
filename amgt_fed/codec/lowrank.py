"""A matrix as a few products of whole-number vectors: A = sum_k unit_k * u_k v_k^T.

Source: Vogels et al. 2019 (PowerSGD, arXiv 1905.13727) for the idea and the warm start. Here the factors are
quantized like everything else: an error in u_k counts |v_k|^2 times, so with a common lambda both factors of term k
get the step that a plain coefficient gets, divided by the norm of the other factor. v is fitted again after u was
rounded, which takes u's rounding out of all but the subspace.

The decoder's sums are exact in any order: levels and units are whole numbers and |sum| stays below 2^53.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.quantize import quantize_rows
from amgt_fed.layout import Float32Vector

EXACT64, EXACT32 = 1 << 53, 1 << 24
MAX_RANK = 254
_GRAM_LIMIT = 160  # up to this many rows (or columns) the whole spectrum is cheaper than a sketch
_SKETCH = 40


@dataclass(frozen=True, slots=True)
class Subspace:
    """Leading singular triplets; `left` is (r, m), `right` is (r, n), `values` falls."""

    left: NDArray[np.float64]
    values: NDArray[np.float64]
    right: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Factors:
    """Levels of both factors, and unit_k = (8 + mantissa_k) * 2^(exponent_k + base), as 8 + mantissa and exponent."""

    left: NDArray[np.integer[Any]]  # (r, m)
    right: NDArray[np.integer[Any]]  # (r, n)
    mantissa: NDArray[np.int64]  # (r,), 8 to 15
    exponent: NDArray[np.int64]  # (r,), 0 to 31, at least one is 0
    base: int

    @property
    def rank(self) -> int:
        """Number of terms."""
        return len(self.mantissa)

    def blocks(self, rows: int) -> Iterator[tuple[int, Float32Vector]]:
        """Yield (first row, values of `rows` rows, float32 of shape (rows, n)); the last block may be shorter."""
        bound = self.bound()
        exact = np.float32 if bound < EXACT32 else np.float64  # equal results; the first is twice as quick
        units = self.mantissa << self.exponent
        left: NDArray[Any] = np.multiply(self.left, units[:, None], dtype=np.float64).astype(exact)
        right: NDArray[Any] = self.right.astype(exact)
        scale = 2.0**self.base
        for first in range(0, left.shape[1], rows):
            block = left[:, first : first + rows].T @ right
            yield first, np.multiply(block, scale, dtype=np.float64).astype(np.float32)

    def bound(self) -> int:
        """An upper bound on |sum| in units of 2^base, in Python's unbounded integers."""
        if not self.rank:
            return 0
        left = np.abs(self.left).max(axis=1).tolist()
        right = np.abs(self.right).max(axis=1).tolist()
        units = (self.mantissa << self.exponent).tolist()
        return sum(a * b * c for a, b, c in zip(left, right, units, strict=True))


def leading(matrix: NDArray[np.float32], warm: NDArray[np.float64] | None) -> Subspace:
    """The leading singular triplets, all of them when one side is short.

    Args:
        matrix: shape (m, n).
        warm: right factors of the previous round, shape (r, n), to start the sketch from; may be None.
    """
    m, n = matrix.shape
    x = matrix.astype(np.float64)
    if min(m, n) <= _GRAM_LIMIT:
        return _by_gram(x)
    # Half of the start may come from the last round; the rest is fixed noise, so that new directions can enter.
    count = min(_SKETCH, m, n)
    start = np.random.Generator(np.random.PCG64(20190531)).standard_normal((count, n))
    if warm is not None and warm.shape[1:] == (n,):
        kept = min(len(warm), count // 2)
        start[:kept] = warm[:kept]
    basis = _orthonormal(x @ start.T)
    for _ in range(1 if warm is not None else 2):
        basis = _orthonormal(x @ _orthonormal(x.T @ basis))
    small = _by_gram(basis.T @ x)
    return Subspace(small.left @ basis.T, small.values, small.right)


def _orthonormal(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.qr(columns)[0])


def _by_gram(x: NDArray[np.float64]) -> Subspace:
    """All singular triplets from the smaller of X X^T and X^T X; those below 1e-7 of the first are left out."""
    tall = x.shape[0] > x.shape[1]
    wide = x.T if tall else x
    scale = float(np.abs(wide).max(initial=0.0))
    if scale == 0:
        return Subspace(np.zeros((0, x.shape[0])), np.zeros(0), np.zeros((0, x.shape[1])))
    wide = wide / scale  # squares of denormals would vanish
    squares, vectors = np.linalg.eigh(wide @ wide.T)
    values = np.sqrt(np.maximum(squares[::-1], 0))
    kept = values > 1e-7 * values[0]
    values, short = values[kept], vectors[:, ::-1][:, kept].T
    long = short @ wide / values[:, None]
    return Subspace(long if tall else short, values * scale, short if tall else long)


def factorize(matrix: NDArray[np.float32], space: Subspace, rank: int, step: float, price: float) -> Factors:
    """Quantized factors of the first `rank` terms; fewer where a rounded factor is all zero.

    Args:
        matrix: shape (m, n).
        space: its `leading` triplets.
        rank: at most `len(space.values)`.
        step: what a plain coefficient would get at this lambda.
        price: lambda / step^2.
    """
    left = quantize_rows(space.left[:rank] * (space.values[:rank, None] / step), price)
    left = left[np.flatnonzero(left.any(axis=1))]
    grid = left.astype(np.float64)
    gram = grid @ grid.T
    fitted = np.linalg.lstsq(gram, grid @ matrix, rcond=1e-10)[0] if len(left) else np.zeros((0, matrix.shape[1]))
    # A factor's step such that |u_k| times it is `step`: unit_k = step / |u_k|, rounded to what is sent.
    unit = step / np.sqrt(np.diag(gram))
    fraction, exponent = np.frexp(unit)
    mantissa = np.clip(np.round(fraction * 16), 8, 15).astype(np.int64)
    exponent = exponent.astype(np.int64) - 4
    base = int(exponent.min()) if len(left) else 0
    near = exponent - base <= 31
    left, fitted, mantissa, exponent = left[near], fitted[near], mantissa[near], exponent[near]
    right = quantize_rows(fitted / np.ldexp(mantissa.astype(np.float64), exponent)[:, None], price)
    alive = right.any(axis=1)
    left, right, mantissa, exponent = left[alive], right[alive], mantissa[alive], exponent[alive]
    base = int(exponent.min()) if len(left) else 0
    factors = Factors(left, right, mantissa, exponent - base, base)
    while factors.bound() >= EXACT64:  # terms too far apart in size to add exactly: the smallest go
        factors = Factors(
            factors.left[:-1], factors.right[:-1], factors.mantissa[:-1], factors.exponent[:-1], factors.base
        )
    return factors


def worthwhile(values: NDArray[np.float64], rows: int, columns: int, step: float) -> int:
    """How many terms to try: those whose energy exceeds what rounding their two factors would cost."""
    threshold = 0.35 * step * (math.sqrt(rows) + math.sqrt(columns))
    return int((values > threshold).sum())
