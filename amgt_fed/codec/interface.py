"""The one interface of every codec: a body in, pieces of the update out.

A codec writes two methods, `compress` and `open`; framing, checks, measured error and both ways to
decode are here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec import frame
from amgt_fed.codec.budget import Budget, byte_limit, error_limit
from amgt_fed.codec.errors import CorruptPayload, ImpossibleBudget, InvalidUpdate
from amgt_fed.codec.opened import Opened, Piece, accumulate, gather
from amgt_fed.codec.scan import CHUNK, squared_difference, squares
from amgt_fed.layout import Float32Vector, Layout

__all__ = [
    "CHUNK",
    "Body",
    "Buffer",
    "Codec",
    "Encoded",
    "Measured",
    "Opened",
    "Piece",
    "TensorReport",
    "accumulate",
    "check_update",
    "gather",
    "l2_norm",
    "squared_error",
    "squared_norm",
]

Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What one tensor costs and how well it came through."""

    name: str
    size: int
    payload_bytes: float  # fractional: tensors share the entropy coder's words
    rank: int
    nonzero: int
    error_l2: float
    update_l2: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What an encoder knows about one tensor, from the decoder's own floats."""

    squared_error: float
    nonzero: int


@dataclass(frozen=True, slots=True)
class Body:
    """A codec's own bytes and the state to hand to its next `compress`.

    `version` is the oldest format version that knows such a body. `opened` and `measured`, if the codec has them, are
    what `open(data)` would give, and the exact error and count of every tensor; they spare `encode` the way through the
    bytes.
    """

    data: bytes
    state: Any = None
    opened: Opened | None = None
    measured: tuple[Measured, ...] | None = None
    version: int = 1


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded update.

    Attributes:
        payload: what to send.
        opened: the decoded update, in pieces.
        layout: of the update.
        error_l2: ||decoded - update||_2, measured on the decoder's floats in float64.
        update_l2: ||update||_2.
        tensors: the same per tensor, in the layout's order.
        state: pass it as `state` to the next `encode` of the same stream of updates; it only makes that faster
            or smaller, so it may be dropped.
    """

    payload: bytes
    opened: Opened
    layout: Layout
    error_l2: float
    update_l2: float
    tensors: tuple[TensorReport, ...]
    state: Any = None

    @cached_property
    def decoded(self) -> Float32Vector:
        """What the receiver will decode, bit for bit: flat float32, made when first asked for."""
        return gather(self.opened, self.layout)

    def subtract_from_(self, vector: Float32Vector) -> None:
        """Take what the receiver will decode off a vector, in place: the residual, without a dense copy.

        Raises:
            InvalidUpdate: `vector` is not flat float32 or float64 of the layout's size.
        """
        accumulate(self.opened, self.layout, vector, -1.0)

    @property
    def nmse(self) -> float:
        """||decoded - update||^2 / ||update||^2; 0 for an update of zeros."""
        return (self.error_l2 / self.update_l2) ** 2 if self.update_l2 else 0.0

    @property
    def bits_per_parameter(self) -> float:
        """Bits of payload, framing included, for each parameter."""
        return 8 * len(self.payload) / max(1, self.layout.size)


class Codec(ABC):
    """A way to turn updates into bytes and back.

    Attributes:
        name: what `get_codec` and entry points know it by.
        codec_id: its number in the frame; registered codecs leave `frame.NAMED_CODEC` and travel by name.
    """

    name: str
    codec_id: int = frame.NAMED_CODEC

    @abstractmethod
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
        """Turn a finite vector into a body.

        Args:
            update: checked: finite, flat float32, of the layout's size.
            layout: names, shapes and offsets.
            max_error: largest l2 error; infinite if the budget is bytes or absent.
            max_bytes: largest body; None if the budget is an error or absent.
            state: what the last `compress` returned, or None.
            rng: for codecs that draw random numbers; None: use a fixed seed.
        """

    def compress_measured(
        self,
        update: Float32Vector,
        layout: Layout,
        *,
        energies: tuple[float, ...],
        max_error: float,
        max_bytes: int | None,
        state: Any,
        rng: np.random.Generator | None,
    ) -> Body:
        """As `compress`, told the sum of squares of every tensor; a codec that can use them overrides it."""
        return self.compress(update, layout, max_error=max_error, max_bytes=max_bytes, state=state, rng=rng)

    @abstractmethod
    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Read and check a body; raise `CorruptPayload` before taking memory the layout does not justify."""

    def encode(
        self,
        update: Float32Vector,
        layout: Layout,
        budget: Budget | None = None,
        *,
        state: Any = None,
        rng: np.random.Generator | None = None,
    ) -> Encoded:
        """Encode an update within a budget.

        Args:
            update: flat float32, finite, of the layout's size; not modified.
            layout: names, shapes and offsets of the tensors in `update`.
            budget: a promise on error or on size; None: the codec's own parameters decide.
            state: `Encoded.state` of the previous call for this stream of updates, or None.
            rng: randomness for dithered codecs; None: a fixed seed, so equal inputs give equal bytes.

        Raises:
            InvalidUpdate: wrong dtype or shape, or a value that is not finite.
            ImpossibleBudget: the codec cannot meet the budget; the text says the smallest possible.
        """
        energies = check_update(update, layout)
        tag = self.name if self.codec_id == frame.NAMED_CODEC else ""
        update_l2 = math.sqrt(math.fsum(energies))
        limit = math.inf if budget is None else error_limit(budget, update_l2)
        room = None if budget is None else byte_limit(budget, layout.size)
        framing = frame.overhead(tag)
        if room is not None and room < framing:
            raise ImpossibleBudget(
                f"{budget} allows {room} bytes for {layout.size} parameters; "
                f"the smallest {self.name} payload takes {framing + 1}"
            )
        body = self.compress_measured(
            update,
            layout,
            energies=energies,
            max_error=limit,
            max_bytes=None if room is None else room - framing,
            state=state,
            rng=rng,
        )
        opened = body.opened or self.open(memoryview(body.data), layout)
        measured = body.measured or _measure(update, gather(opened, layout), layout)
        error_l2 = math.sqrt(math.fsum(m.squared_error for m in measured))
        if error_l2 > limit:
            raise ImpossibleBudget(
                f"{budget} allows an error of {limit:.6g}; {self.name} with its parameters reaches {error_l2:.6g}"
            )
        if room is not None and len(body.data) + framing > room:
            raise ImpossibleBudget(
                f"{budget} allows {room} bytes; {self.name} with its parameters takes {len(body.data) + framing}"
            )
        payload = frame.wrap(self.codec_id, body.data, layout, error_l2, tag, body.version)
        tensors = _report(layout, opened, len(body.data), measured, energies)
        return Encoded(payload, opened, layout, error_l2, update_l2, tensors, body.state)

    def decode(self, payload: Buffer, layout: Layout) -> Float32Vector:
        """Decode a payload of this codec; see `amgt_fed.codec.decode` for one of any codec."""
        return gather(self._open_payload(payload, layout), layout)

    def decode_into(self, payload: Buffer, layout: Layout, out: NDArray[Any], weight: float = 1.0) -> None:
        """Add `weight` times the decoded update to `out`, without a dense copy; see `amgt_fed.codec.decode_into`."""
        accumulate(self._open_payload(payload, layout), layout, out, weight)

    def _open_payload(self, payload: Buffer, layout: Layout) -> Opened:
        opened = frame.unwrap(payload, layout)
        if (opened.codec_id, opened.codec_name) != (self.codec_id, self.name if self.codec_id == 255 else ""):
            raise CorruptPayload(f"payload is of codec number {opened.codec_id}, not of {self.name!r}")
        return self.open(opened.body, layout)


def check_update(update: Float32Vector, layout: Layout) -> tuple[float, ...]:
    """Sum of squares of every tensor, in float64.

    Raises:
        InvalidUpdate: `update` is not flat float32 of the layout's size, or not finite throughout.
    """
    if not isinstance(update, np.ndarray) or update.dtype != np.float32 or update.shape != (layout.size,):
        got = f"{update.dtype} of shape {update.shape}" if isinstance(update, np.ndarray) else type(update).__name__
        raise InvalidUpdate(f"update is {got}; this layout needs a float32 array of shape ({layout.size},)")
    energies = tuple(squares(values) for _, values in layout.views(update))
    # Squares of float32 cannot overflow float64: a sum that is not finite tells of a value that is not.
    if not all(map(math.isfinite, energies)):
        index = int(np.argmin(np.isfinite(update)))
        raise InvalidUpdate(f"update[{index}] is {update[index]}; only finite values can be encoded")
    return energies


def l2_norm(vector: Float32Vector) -> float:
    """||vector||_2, squares summed in float64."""
    return math.sqrt(squared_norm(vector))


def squared_norm(vector: NDArray[Any]) -> float:
    """||vector||_2^2, squares summed in float64, chunk by chunk."""
    return squares(vector)


def squared_error(left: Float32Vector, right: Float32Vector) -> float:
    """||left - right||_2^2; differences and squares in float64, chunk by chunk."""
    return squared_difference(left, right)


def _measure(update: Float32Vector, decoded: Float32Vector, layout: Layout) -> tuple[Measured, ...]:
    pairs = [(update[s.offset : s.stop], decoded[s.offset : s.stop]) for s in layout.segments]
    return tuple(Measured(squared_difference(x, y), int(np.count_nonzero(y))) for x, y in pairs)


def _report(
    layout: Layout, opened: Opened, body_bytes: int, measured: tuple[Measured, ...], energies: tuple[float, ...]
) -> tuple[TensorReport, ...]:
    bytes_each = opened.tensor_bytes() or tuple(
        body_bytes * segment.size / max(1, layout.size) for segment in layout.segments
    )
    ranks = opened.ranks() or (0,) * len(layout.segments)
    return tuple(
        TensorReport(s.name, s.size, share, rank, m.nonzero, math.sqrt(m.squared_error), math.sqrt(energy))
        for s, share, rank, m, energy in zip(layout.segments, bytes_each, ranks, measured, energies, strict=True)
    )
