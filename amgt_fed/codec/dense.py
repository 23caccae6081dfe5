"""Float32 as it is, for comparison and for when every bit counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from amgt_fed.codec.errors import CorruptPayload, ImpossibleBudget
from amgt_fed.codec.fixed_rate import FixedRate
from amgt_fed.codec.interface import CHUNK, Body, Opened, Piece
from amgt_fed.layout import Float32Vector, Layout


class DensePieces(Opened):
    """A whole vector that is already in memory, or a view of the payload."""

    def __init__(self, values: Float32Vector) -> None:
        self._values = values

    def pieces(self) -> Iterator[Piece]:
        """Yield the vector in chunks."""
        for start in range(0, self._values.size, CHUNK):
            yield Piece(self._values[start : start + CHUNK].astype(np.float32), start)


class ChunkPieces(Opened):
    """A vector that is made where it is asked for.

    Args:
        size: of the vector.
        values: values from a start, a multiple of `STEP`, to a stop; it must not fail.
    """

    STEP = 1 << 13

    def __init__(self, size: int, values: Callable[[int, int], Float32Vector]) -> None:
        self._size, self._values = size, values

    def pieces(self) -> Iterator[Piece]:
        """Yield the vector in chunks."""
        for start in range(0, self._size, self.STEP):
            yield Piece(self._values(start, min(self._size, start + self.STEP)), start)


class Dense(FixedRate):
    """Little-endian float32, 32 bits per parameter, no error."""

    name = "dense"
    codec_id = 0

    def reduce(self, update: Float32Vector, layout: Layout, state: Any, rng: np.random.Generator | None) -> Body:
        """The vector's bytes."""
        return Body(update.astype("<f4").tobytes())

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Check length and finiteness."""
        return DensePieces(floats_of(body, layout.size))


def floats_of(body: memoryview, count: int) -> Float32Vector:
    """Read exactly `count` finite little-endian float32 from `body`, without a copy where the machine allows."""
    if len(body) != 4 * count:
        raise CorruptPayload(f"body has {len(body)} bytes; {count} float32 take {4 * count}")
    values = np.frombuffer(body, "<f4")
    for start in range(0, count, CHUNK):
        if not np.isfinite(values[start : start + CHUNK]).all():
            raise CorruptPayload(f"body holds a value that is not finite near element {start}")
    return values


def require_room(needed: int, max_bytes: int | None, codec: str) -> None:
    """Raise `ImpossibleBudget` when a body of `needed` bytes is more than allowed."""
    if max_bytes is not None and needed > max_bytes:
        raise ImpossibleBudget(f"{codec} needs a body of {needed} bytes here; the budget leaves {max_bytes}")
