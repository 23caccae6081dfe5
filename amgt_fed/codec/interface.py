"""The one interface of every codec: a body in, pieces of the update out.

A codec writes two methods, `compress` and `open`; framing, checks, measured error and both ways to
decode are here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec import frame
from amgt_fed.codec.budget import Budget, byte_limit, error_limit
from amgt_fed.codec.errors import CorruptPayload, ImpossibleBudget, InvalidUpdate
from amgt_fed.layout import Float32Vector, Layout

Buffer: TypeAlias = bytes | bytearray | memoryview
CHUNK = 1 << 16  # elements worked on at a time: 256 KiB of float32 stay in a core's own cache


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
class Body:
    """A codec's own bytes and the state to hand to its next `compress`."""

    data: bytes
    state: Any = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded update.

    Attributes:
        payload: what to send.
        decoded: what the receiver will decode, bit for bit; flat float32.
        error_l2: ||decoded - update||_2, measured on `decoded` in float64.
        update_l2: ||update||_2.
        tensors: the same per tensor, in the layout's order.
        state: pass it as `state` to the next `encode` of the same stream of updates; it only makes that faster
            or smaller, so it may be dropped.
    """

    payload: bytes
    decoded: Float32Vector
    error_l2: float
    update_l2: float
    tensors: tuple[TensorReport, ...]
    state: Any = None

    @property
    def nmse(self) -> float:
        """||decoded - update||^2 / ||update||^2; 0 for an update of zeros."""
        return (self.error_l2 / self.update_l2) ** 2 if self.update_l2 else 0.0

    @property
    def bits_per_parameter(self) -> float:
        """Bits of payload, framing included, for each parameter."""
        return 8 * len(self.payload) / max(1, self.decoded.size)


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
        check_update(update, layout)
        tag = self.name if self.codec_id == frame.NAMED_CODEC else ""
        update_l2 = l2_norm(update)
        limit = math.inf if budget is None else error_limit(budget, update_l2)
        room = None if budget is None else byte_limit(budget, layout.size)
        framing = frame.overhead(tag)
        if room is not None and room < framing:
            raise ImpossibleBudget(
                f"{budget} allows {room} bytes for {layout.size} parameters; "
                f"the smallest {self.name} payload takes {framing + 1}"
            )
        body = self.compress(
            update,
            layout,
            max_error=limit,
            max_bytes=None if room is None else room - framing,
            state=state,
            rng=rng,
        )
        opened = self.open(memoryview(body.data), layout)
        decoded = gather(opened, layout)
        tensors = _report(update, decoded, layout, opened, len(body.data))
        error_l2 = math.sqrt(math.fsum(t.error_l2**2 for t in tensors))
        if error_l2 > limit:
            raise ImpossibleBudget(
                f"{budget} allows an error of {limit:.6g}; {self.name} with its parameters reaches {error_l2:.6g}"
            )
        if room is not None and len(body.data) + framing > room:
            raise ImpossibleBudget(
                f"{budget} allows {room} bytes; {self.name} with its parameters takes {len(body.data) + framing}"
            )
        payload = frame.wrap(self.codec_id, body.data, layout, error_l2, tag)
        return Encoded(payload, decoded, error_l2, update_l2, tensors, body.state)

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


def check_update(update: Float32Vector, layout: Layout) -> None:
    """Raise `InvalidUpdate` unless `update` is flat float32 of the layout's size and finite throughout."""
    if not isinstance(update, np.ndarray) or update.dtype != np.float32 or update.shape != (layout.size,):
        got = f"{update.dtype} of shape {update.shape}" if isinstance(update, np.ndarray) else type(update).__name__
        raise InvalidUpdate(f"update is {got}; this layout needs a float32 array of shape ({layout.size},)")
    for start in range(0, update.size, CHUNK):
        finite = np.isfinite(update[start : start + CHUNK])
        if not finite.all():
            index = start + int(np.argmin(finite))
            raise InvalidUpdate(f"update[{index}] is {update[index]}; only finite values can be encoded")


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


def l2_norm(vector: Float32Vector) -> float:
    """||vector||_2, squares summed in float64."""
    return math.sqrt(squared_norm(vector))


def squared_norm(vector: NDArray[Any]) -> float:
    """||vector||_2^2, squares summed in float64, chunk by chunk."""
    total = 0.0
    for start in range(0, vector.size, CHUNK):
        chunk = vector[start : start + CHUNK].astype(np.float64)
        total += float(np.dot(chunk, chunk))
    return total


def squared_error(left: Float32Vector, right: Float32Vector) -> float:
    """||left - right||_2^2; differences and squares in float64, chunk by chunk."""
    total = 0.0
    for start in range(0, left.size, CHUNK):
        chunk = np.subtract(left[start : start + CHUNK], right[start : start + CHUNK], dtype=np.float64)
        total += float(np.dot(chunk, chunk))
    return total


def _report(
    update: Float32Vector, decoded: Float32Vector, layout: Layout, opened: Opened, body_bytes: int
) -> tuple[TensorReport, ...]:
    shares = opened.tensor_bytes() or tuple(
        body_bytes * segment.size / max(1, layout.size) for segment in layout.segments
    )
    ranks = opened.ranks() or (0,) * len(layout.segments)
    reports = []
    for segment, share, rank in zip(layout.segments, shares, ranks, strict=True):
        x, y = update[segment.offset : segment.stop], decoded[segment.offset : segment.stop]
        reports.append(
            TensorReport(
                segment.name,
                segment.size,
                share,
                rank,
                int(np.count_nonzero(y)),
                math.sqrt(squared_error(x, y)),
                l2_norm(x),
            )
        )
    return tuple(reports)
