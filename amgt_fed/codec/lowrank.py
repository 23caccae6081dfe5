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
_MORE = 4


@dataclass(frozen=True, slots=True)
class Subspace:
    """Leading singular triplets; `left` is (r, m), `right` is (r, n), `values` falls.

    `partial` tells that only the neighbourhood of given directions was looked at.
    """

    left: NDArray[np.floating[Any]]
    values: NDArray[np.float64]
    right: NDArray[np.floating[Any]]
    partial: bool = False


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


def leading(matrix: NDArray[np.float32], warm: NDArray[np.float32] | None, *, precise: bool = False) -> Subspace:
    """The leading singular triplets, all of them when one side is short.

    Args:
        matrix: shape (m, n).
        warm: directions on the shorter side to start from, shape (r, min(m, n)); may be None.
        precise: compute in float64; float32 loses triplets below a thousandth of the first.
    """
    dtype: Any = np.float64 if precise else np.float32
    scale = float(max(matrix.max(), -matrix.min()))
    x = matrix.astype(dtype)
    x /= dtype(scale)  # squares of denormals would vanish
    wide = x.shape[0] < x.shape[1]
    tall = x.T if wide else x  # (long, short)
    short = tall.shape[1]
    partial = warm is not None and warm.shape[1:] == (short,) and len(warm) + _MORE < short // 2
    if not partial and short <= _GRAM_LIMIT:
        basis: NDArray[Any] = np.eye(short, dtype=dtype)
        product, gram = tall, tall.T @ tall
    else:
        noise = np.random.Generator(np.random.PCG64(20190531)).standard_normal
        if partial and warm is not None:
            # A few directions of noise, so that new ones can enter.
            basis = np.concatenate([warm.astype(dtype).T, noise((short, _MORE)).astype(dtype)], axis=1)
        else:
            basis = noise((short, min(_SKETCH, short))).astype(dtype)
        for _ in range(1 if partial else 3):
            basis = np.linalg.qr(tall.T @ (tall @ np.linalg.qr(basis)[0]))[0]
        product = tall @ basis
        gram = product.T @ product
    squares, vectors = np.linalg.eigh(gram)
    values = np.sqrt(np.maximum(squares[::-1], 0))
    kept = values > (1e-7 if precise else 1e-3) * values[0]
    values, vectors = values[kept], vectors[:, ::-1][:, kept]
    on_short = (basis @ vectors).T
    on_long = (product @ (vectors / values)).T
    left, right = (on_short, on_long) if wide else (on_long, on_short)
    return Subspace(left, values.astype(np.float64) * scale, right, partial)


class Fit:
    """Quantized factors of a matrix's first terms, for any number of them up to `rank`.

    Args:
        matrix: shape (m, n).
        space: its `leading` triplets.
        rank: at most `len(space.values)`.
        step: what a plain coefficient would get at this lambda.
        price: lambda / step^2.
    """

    def __init__(self, matrix: NDArray[np.float32], space: Subspace, rank: int, step: float, price: float) -> None:
        self.rank, self.step, self._price = rank, step, price
        scaled = space.left[:rank].astype(np.float64) * (space.values[:rank, None] / step)
        self._left = quantize_rows(scaled, price)
        # float32 where the terms come from float32: their own error is larger than that of this product.
        self._projected = self._left.astype(space.left.dtype) @ matrix

    def factors(self, rank: int) -> Factors:
        """The first `rank` terms; fewer where a rounded factor is all zero."""
        rows = np.flatnonzero(self._left[:rank].any(axis=1))
        left = self._left[rows]
        grid = left.astype(np.float64)
        gram = grid @ grid.T
        fitted = np.linalg.pinv(gram, rcond=1e-10, hermitian=True) @ self._projected[rows]
        # A factor's step such that |u_k| times it is `step`: unit_k = step / |u_k|, rounded to what is sent.
        unit = self.step / np.sqrt(np.diag(gram))
        fraction, exponent = np.frexp(unit)
        mantissa = np.clip(np.round(fraction * 16), 8, 15).astype(np.int64)
        exponent = exponent.astype(np.int64) - 4
        base = int(exponent.min()) if len(left) else 0
        near = exponent - base <= 31
        left, fitted, mantissa, exponent = left[near], fitted[near], mantissa[near], exponent[near]
        right = quantize_rows(fitted / np.ldexp(mantissa.astype(np.float64), exponent)[:, None], self._price)
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
