"""Updates that lie in the round's subspace, sent as its coefficients.

Body: round (unsigned 32-bit, little-endian), rank (1 byte), then the amgt codec's body for the coefficients. The
directions follow from round and name, so a payload can be read without knowing anything else.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from amgt_fed.codec.errors import CorruptPayload, ImpossibleBudget
from amgt_fed.codec.interface import Body, Codec, Opened, Piece, gather, l2_norm
from amgt_fed.codec.pieces import open_body
from amgt_fed.codec.pipeline import Amgt
from amgt_fed.layout import Float32Vector, Layout
from amgt_fed.subspace import Subspace

_HEAD = struct.Struct("<IB")
_TRIES = 16


class SubspaceCodec(Codec):
    """The coefficients of a round's subspace, coded by amgt; what lies outside the subspace is lost.

    Every coefficient counts alike, whatever its tensor. Clients that train with `SubspaceAMGT` move inside it only.

    Args:
        rank: directions of each matrix.
        round: whose subspace; `for_round` gives the codec of another.
    """

    name = "subspace"
    codec_id = 12

    def __init__(self, rank: int = 16, round: int = 1) -> None:
        self.subspace = Subspace(rank, round)

    def compress(
        self,
        update: Float32Vector,
        layout: Layout,
        *,
        max_error: float,
        max_bytes: int | None,
        state: Any,
        rng: np.random.Generator | None,
    ) -> Body:
        """The coefficients within `max_bytes`; or, for an error budget, with ever finer steps until it is met."""
        head = _HEAD.pack(self.subspace.round, self.subspace.rank)
        if max_bytes is not None and max_bytes <= _HEAD.size:
            raise ImpossibleBudget(f"the budget leaves {max_bytes} bytes for subspace's body; it needs 6")
        reduced = self.subspace.reduced(layout)
        coefficients = self.subspace.reduce(update, layout)
        room = None if max_bytes is None else max_bytes - _HEAD.size
        inner, codec = max_error, Amgt()
        if math.isfinite(max_error):
            inner = min(max_error, l2_norm(coefficients))
        for _ in range(_TRIES):
            body = codec.compress(coefficients, reduced, max_error=inner, max_bytes=room, state=None, rng=rng)
            data = head + body.data
            if not math.isfinite(max_error):
                return Body(data, version=body.version)
            error = l2_norm(gather(self.open(memoryview(data), layout), layout) - update)
            if error <= max_error:
                return Body(data, version=body.version)
            inner *= 0.6
        raise ImpossibleBudget(
            f"an error of {max_error:.6g} is out of reach: what lies outside round {self.subspace.round}'s subspace of "
            f"rank {self.subspace.rank} is lost; raise the rank or use codec amgt"
        )

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Read round, rank and coefficients; the sums of the largest coefficients must be finite in float32."""
        if len(body) <= _HEAD.size:
            raise CorruptPayload(f"subspace body has {len(body)} bytes; it needs {_HEAD.size + 1} or more")
        round, rank = _HEAD.unpack(body[: _HEAD.size])
        if not (round and rank):
            raise CorruptPayload(f"subspace body names round {round} and rank {rank}; both run from 1")
        space = Subspace(rank, round)
        reduced = space.reduced(layout)
        opened = open_body(body[_HEAD.size :], reduced)
        coefficients = gather(opened, reduced)
        if float(np.abs(coefficients).max(initial=0.0)) * math.sqrt(rank) > float(np.finfo(np.float32).max):
            raise CorruptPayload("subspace coefficients add up to more than float32 holds")
        return _Expanded(space, layout, reduced, coefficients, opened.tensor_bytes())


class _Expanded(Opened):
    def __init__(
        self,
        space: Subspace,
        layout: Layout,
        reduced: Layout,
        coefficients: Float32Vector,
        shares: tuple[float, ...],
    ) -> None:
        self._space, self._layout, self._reduced = space, layout, reduced
        self._coefficients, self._shares = coefficients, shares

    def pieces(self) -> Iterator[Piece]:
        """Yield tensor by tensor, those without coefficients left out."""
        for segment, small in zip(self._layout.segments, self._reduced.segments, strict=True):
            values = self._coefficients[small.offset : small.stop]
            if values.any():
                found = self._space.directions(segment.name, segment.shape)
                yield Piece(values if found is None else found.expand(values), segment.offset)

    def tensor_bytes(self) -> tuple[float, ...]:
        return self._shares


def for_round(codec: Codec, round: int) -> Codec:
    """The codec to encode with in `round`; only a subspace's differs from round to round."""
    if isinstance(codec, SubspaceCodec):
        return SubspaceCodec(replace(codec.subspace, round=round).rank, round)
    return codec
