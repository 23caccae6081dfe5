"""What a pipeline body decodes to, and the checks that leave nothing to fail afterwards."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import numpy as np

from amgt_fed.codec import body as wire
from amgt_fed.codec import lossless, reader
from amgt_fed.codec.errors import CorruptPayload
from amgt_fed.codec.interface import CHUNK, Opened, Piece
from amgt_fed.codec.lowrank import EXACT64
from amgt_fed.codec.quantize import Shifts, dequantize
from amgt_fed.layout import Layout

LARGEST = float(np.finfo(np.float32).max)
SCALE = struct.Struct("<Bh")  # kind SCALED and its power of two


def open_body(body: memoryview, layout: Layout) -> Opened:
    """Read and check everything a body says; raises `CorruptPayload`."""
    kind = body[0] if len(body) else -1
    if kind == wire.EMPTY and len(body) == 1:
        return Pieces(wire.Levels((), 0.0, Shifts()), layout, ())
    if kind == wire.LOSSLESS:
        return lossless.read(body[1:], layout.size)
    if kind == wire.PIPELINE:
        return Pieces(*checked(*reader.read(body, layout), layout, 0))
    if kind == wire.SCALED and len(body) > SCALE.size:
        exponent = SCALE.unpack(body[: SCALE.size])[1]
        if abs(exponent) > 200:
            raise CorruptPayload(f"body is in units of 2^{exponent}; float32 has none beyond 2^200")
        inner = reader.read(body[SCALE.size :], layout)
        return Scaled(Pieces(*checked(*inner, layout, exponent)), exponent)
    raise CorruptPayload(f"amgt body of {len(body)} bytes starts with {kind}; this version knows kinds 0 to 3")


class Pieces(Opened):
    """The update that a body of kind PIPELINE holds."""

    def __init__(self, content: wire.Levels, layout: Layout, shares: tuple[float, ...]) -> None:
        self._content, self._layout, self._shares = content, layout, shares

    def pieces(self) -> Iterator[Piece]:
        """Yield blocks of rows where there are low-rank terms, survivors alone elsewhere."""
        for index in range(len(self._content.tensors)):
            yield from self.tensor_pieces(index)

    def tensor_pieces(self, index: int) -> Iterator[Piece]:
        """The pieces of one tensor."""
        content, offset = self._content, self._layout.segments[index].offset
        tensor = content.tensors[index]
        if tensor.factors is None:
            for first in range(0, tensor.levels.size, CHUNK):
                part = slice(first, first + CHUNK)
                values = dequantize(tensor.levels[part], content.step, content.shifts)
                yield Piece(values, indices=tensor.indices[part].astype(np.int64) + offset)
            return
        columns = tensor.factors.right.shape[1]
        for row, block in tensor.factors.blocks(max(1, CHUNK // columns)):
            flat = block.reshape(-1)
            first, last = np.searchsorted(tensor.indices, [row * columns, row * columns + flat.size])
            values = dequantize(tensor.levels[first:last], content.step, content.shifts)
            flat[tensor.indices[first:last] - row * columns] += values
            yield Piece(flat, offset + row * columns)

    def tensor_bytes(self) -> tuple[float, ...]:
        """Each tensor's symbols, plain bits and head."""
        return self._shares

    def ranks(self) -> tuple[int, ...]:
        """Low-rank terms of each tensor."""
        if not self._content.tensors:
            return ()
        return tuple(t.factors.rank if t.factors else 0 for t in self._content.tensors)


class Scaled(Opened):
    """Pieces in units of a power of two."""

    def __init__(self, inner: Pieces, exponent: int) -> None:
        self._inner, self._exponent = inner, exponent

    def pieces(self) -> Iterator[Piece]:
        """Yield the inner pieces times 2^exponent; exact but for denormals, which round alike everywhere."""
        for piece in self._inner.pieces():
            yield Piece(np.ldexp(piece.values, self._exponent), piece.start, piece.indices)

    def tensor_bytes(self) -> tuple[float, ...]:
        """As inside."""
        return self._inner.tensor_bytes()

    def ranks(self) -> tuple[int, ...]:
        """As inside."""
        return self._inner.ranks()


def checked(
    content: wire.Levels, shares: tuple[float, ...], layout: Layout, exponent: int
) -> tuple[wire.Levels, Layout, tuple[float, ...]]:
    """Refuse sums that are not exact and values that are not finite."""
    for tensor, segment in zip(content.tensors, layout.segments, strict=True):
        reach = 0.0
        if tensor.factors:
            bound = tensor.factors.bound()
            if bound >= EXACT64:
                raise CorruptPayload(f"factors of {segment.name!r} reach {bound}; exact sums end at 2^53")
            reach = _times_power(float(bound), tensor.factors.base)
        if tensor.levels.size:
            reach += (float(max(int(tensor.levels.max()), -int(tensor.levels.min()))) + 1) * content.step
        if not reach <= LARGEST or not _times_power(reach, exponent) <= LARGEST:
            raise CorruptPayload(f"values of {segment.name!r} reach {reach}; float32 ends at {LARGEST:.4g}")
    return content, layout, shares


def _times_power(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf
