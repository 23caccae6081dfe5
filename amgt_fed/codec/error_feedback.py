"""Error feedback: what a payload could not carry is added to the next update.

Source: Seide et al. 2014 (1-bit SGD); Karimireddy et al. 2019 (arXiv 1901.09847), whose bound on the residual
`residual_bound` states. In the round's letters (docs/algorithm.md): a = D + r, r' = a - q.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.errors import InvalidUpdate
from amgt_fed.codec.interface import Encoded
from amgt_fed.layout import Float32Vector, Layout


def zero_residual(layout: Layout) -> Float32Vector:
    """The residual before the first round."""
    return np.zeros(layout.size, np.float32)


def add_residual(update: Float32Vector, residual: Float32Vector) -> Float32Vector:
    """What to encode this round: a = D + r, a new float32 vector.

    Raises:
        InvalidUpdate: the two differ in shape, or are not float32.
    """
    _check(update, residual, "residual")
    return np.add(update, residual)


def next_residual(corrected: Float32Vector, encoded: Encoded) -> Float32Vector:
    """What stays behind: r' = a - q, a new float32 vector.

    Args:
        corrected: the vector that was encoded, from `add_residual`.
        encoded: what `encode` gave for it.

    Raises:
        InvalidUpdate: `encoded` is of another size.
    """
    _check(corrected, encoded.decoded, "decoded update")
    return np.subtract(corrected, encoded.decoded)


def restore_residual(residual: Float32Vector, lost: Float32Vector) -> Float32Vector:
    """Take a decoded update that the server never used back into the residual: r + q, a new float32 vector."""
    _check(residual, lost, "lost update")
    return np.add(residual, lost)


def residual_bound(update_l2: float, nmse: float) -> float:
    """The largest l2 norm the residual can ever have.

    Args:
        update_l2: bound on ||D_k|| over all rounds.
        nmse: worst ||q - a||^2 / ||a||^2 of the codec, below 1 (it is then a contraction).

    Returns:
        ||D|| * c / (1 - c) with c = sqrt(nmse): r' <= c (||D|| + r) summed as a geometric series.

    Raises:
        InvalidUpdate: `nmse` is not in [0, 1).
    """
    if not 0 <= nmse < 1:
        raise InvalidUpdate(f"nmse is {nmse}; the residual is bounded only for a codec with 0 <= nmse < 1")
    contraction = math.sqrt(nmse)
    return update_l2 * contraction / (1 - contraction)


def _check(left: NDArray[Any], right: NDArray[Any], what: str) -> None:
    if left.dtype != np.float32 or right.dtype != np.float32 or left.shape != right.shape or left.ndim != 1:
        raise InvalidUpdate(
            f"{what} is {right.dtype} of shape {right.shape}, the update {left.dtype} of shape {left.shape}; "
            "both must be flat float32 of one size"
        )
