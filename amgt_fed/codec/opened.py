"""A body that has been read: the update in pieces, and the two ways to put them together."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.errors import InvalidUpdate
from amgt_fed.layout import Float32Vector, Layout


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a decoded update: `values` at `start`, `start + 1`, ..., or at `indices`. Pieces never overlap."""

    values: Float32Vector
    start: int = 0
    indices: NDArray[np.int64] | None = None  # strictly increasing


class Opened(ABC):
    """A body that has been read and checked in full; from here on nothing can fail."""

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """Yield the non-zero parts of the update, each at most a few `CHUNK`s long."""

    def tensor_bytes(self) -> tuple[float, ...]:
        """Bytes of the body that each tensor of the layout takes; empty if the codec does not know."""
        return ()

    def ranks(self) -> tuple[int, ...]:
        """Low-rank terms of each tensor; empty if the codec has none."""
        return ()


def gather(opened: Opened, layout: Layout) -> Float32Vector:
    """The decoded update as a new dense vector."""
    out = np.zeros(layout.size, np.float32)
    for piece in opened.pieces():
        if piece.indices is None:
            out[piece.start : piece.start + piece.values.size] = piece.values
        else:
            out[piece.indices] = piece.values
    return out


def accumulate(opened: Opened, layout: Layout, out: NDArray[Any], weight: float) -> None:
    """Add `weight` times the decoded update to `out`, piece by piece.

    Raises:
        InvalidUpdate: `out` is not flat float32 or float64 of the layout's size, or `weight` is not finite.
    """
    if out.dtype not in (np.float32, np.float64) or out.shape != (layout.size,):
        raise InvalidUpdate(f"accumulator is {out.dtype} of shape {out.shape}; give float64 of shape ({layout.size},)")
    if not math.isfinite(weight):
        raise InvalidUpdate(f"weight is {weight}; it must be finite")
    for piece in opened.pieces():
        # The product is taken in the accumulator's precision: float32 times a Python float stays float32.
        scaled = np.multiply(piece.values, out.dtype.type(weight), dtype=out.dtype)
        if piece.indices is None:
            out[piece.start : piece.start + piece.values.size] += scaled
        else:
            out[piece.indices] += scaled  # indices never repeat, so fancy addition loses nothing
