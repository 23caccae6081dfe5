"""Plain dead-zone quantization and zstandard planes: the scalar baseline, and the floor under the pipeline.

Body: 0x00 nothing survives | 0x01 + zstd of float32 byte planes (lossless) | 0x02 + centroids + count + zstd planes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from amgt_fed.codec.errors import CorruptPayload, ImpossibleBudget
from amgt_fed.codec.interface import CHUNK, Body, Codec, Opened, Piece, squared_norm
from amgt_fed.layout import Float32Vector, Layout

_EMPTY, _LOSSLESS, _LEVELS = b"\x00", b"\x01", b"\x02"
_HEAD = struct.Struct("<ffffII")  # step, offset of level 1, offset of others, spare, survivors, symbols
_ROUNDING = 0.6  # |x| / step must reach 1 - this share above a level's lower edge to be worth that level's bits
_MAX_LEVEL = 127
_GAP_ESCAPE = 255
_SEARCH_STEPS = 24
_LARGEST = 3.4e38  # of float32


class Deadzone(Codec):
    """One step for the whole vector; gaps and levels as bytes under zstandard."""

    name = "deadzone"
    codec_id = 1

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
        """The coarsest step within `max_error`, or the finest within `max_bytes`."""
        if max_error == math.inf and max_bytes is None:
            max_error = 0.0
        norm = math.sqrt(squared_norm(update))
        largest = float(np.abs(update).max(initial=0.0))
        if largest == 0 or norm <= max_error < math.inf:
            if max_bytes is not None and max_bytes < 1:
                raise ImpossibleBudget("deadzone needs a body of 1 byte; the budget leaves none")
            return Body(_EMPTY)
        best: bytes | None = None
        low, high = math.log(largest / _MAX_LEVEL), math.log(min(2.5 * largest, _LARGEST))
        for _ in range(_SEARCH_STEPS):
            middle = (low + high) / 2
            data, error = _quantized(update, math.exp(middle))
            # A step whose levels leave float32 has an infinite error: too coarse for any budget, if not for its bytes.
            if (error <= max_error) if max_bytes is None else (len(data) <= max_bytes and error < math.inf):
                best = data if best is None or max_bytes is not None or len(data) < len(best) else best
                low, high = (middle, high) if max_bytes is None else (low, middle)
            else:
                low, high = (low, middle) if max_bytes is None else (middle, high)
            if high - low < 1e-3:
                break
        if max_bytes is not None:
            if max_bytes < 1:
                raise ImpossibleBudget("deadzone needs a body of 1 byte; the budget leaves none")
            if 4 * update.size + 64 <= max_bytes and len(lossless := _lossless(update)) <= max_bytes:
                return Body(lossless)
            return Body(best or _EMPTY)
        return Body(best or _lossless(update))

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Read, bound and check every plane."""
        kind = bytes(body[:1])
        if kind == _EMPTY and len(body) == 1:
            return _Survivors(np.zeros(0, np.int64), np.zeros(0, np.float32))
        if kind == _LOSSLESS:
            planes = np.frombuffer(_inflate(body[1:], 4 * layout.size), np.uint8).reshape(4, -1)
            values = np.ascontiguousarray(planes.T).view("<f4").reshape(-1)
            if not np.isfinite(values).all():
                raise CorruptPayload("lossless body holds a value that is not finite")
            keep = np.flatnonzero(values)
            return _Survivors(keep, values[keep])
        if kind == _LEVELS:
            return _read_levels(body[1:], layout.size)
        raise CorruptPayload(f"deadzone body starts with {kind!r}; expected 0, 1 or 2")


@dataclass(frozen=True, slots=True)
class _Survivors(Opened):
    indices: NDArray[np.int64]
    values: Float32Vector

    def pieces(self) -> Iterator[Piece]:
        for start in range(0, self.indices.size, CHUNK):
            yield Piece(self.values[start : start + CHUNK], indices=self.indices[start : start + CHUNK])


def _quantized(update: Float32Vector, step: float) -> tuple[bytes, float]:
    """Body and exact error for one step."""
    magnitude = np.abs(update)
    step32 = np.float32(step)
    if step32 == 0:
        return _lossless(update), 0.0
    survivors = np.flatnonzero(magnitude >= np.float32(step * _ROUNDING))
    kept = magnitude[survivors].astype(np.float64)
    levels = np.clip(np.floor(kept / step + 1 - _ROUNDING), 1, _MAX_LEVEL)
    ones = levels == 1
    # Centroids: the mean offset of what fell on level 1 (a dead zone's neighbour is skewed), and on those above.
    offsets = [
        np.float32((kept[chosen] - levels[chosen] * step).mean() if chosen.any() else 0.0) for chosen in (ones, ~ones)
    ]
    head = _HEAD.pack(step32, offsets[0], offsets[1], 0.0, survivors.size, 0)
    signed = (levels * np.sign(update[survivors])).astype(np.int8)
    gaps = np.diff(survivors, prepend=-1) - 1
    escapes = gaps // _GAP_ESCAPE
    symbols = np.full(int(escapes.sum()) + gaps.size, _GAP_ESCAPE, np.uint8)
    symbols[np.cumsum(escapes + 1) - 1] = gaps % _GAP_ESCAPE
    head = _HEAD.pack(step32, offsets[0], offsets[1], 0.0, survivors.size, symbols.size)
    data = _LEVELS + head + _deflate(signed.tobytes() + symbols.tobytes())
    values = _reconstruct(signed, step32, offsets[0], offsets[1])
    if not np.isfinite(values).all():
        return data, math.inf
    difference = values.astype(np.float64) - update[survivors]
    # What was dropped is summed by itself: as the difference of two large sums it would drown in their rounding.
    rest = update.copy()
    rest[survivors] = 0
    return data, math.sqrt(squared_norm(rest) + float(np.dot(difference, difference))) * (1 + 1e-9)


def _reconstruct(signed: NDArray[np.int8], step: Any, first: Any, others: Any) -> Float32Vector:
    """float32 throughout, one product and one sum per level: equal on every IEEE machine."""
    levels = np.arange(_MAX_LEVEL + 1, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        table = np.float32(step) * levels + np.where(levels == 1, np.float32(first), np.float32(others))
    table[0] = 0
    both = np.concatenate([table, [np.float32(np.nan)], -table[:0:-1]]).astype(np.float32)
    return both[signed.astype(np.int64)]


def _read_levels(body: memoryview, size: int) -> Opened:
    if len(body) < _HEAD.size:
        raise CorruptPayload(f"deadzone body has {len(body)} bytes; its head needs {_HEAD.size}")
    step, first, others, _, survivors, symbols = _HEAD.unpack(body[: _HEAD.size])
    if survivors > size or not survivors <= symbols <= survivors + size // _GAP_ESCAPE + 1:
        raise CorruptPayload(f"{survivors} survivors in {symbols} gaps cannot lie among {size} elements")
    planes = np.frombuffer(_inflate(body[_HEAD.size :], survivors + symbols), np.uint8)
    gaps = planes[survivors:]
    ends = np.flatnonzero(gaps != _GAP_ESCAPE)
    positions = np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(ends.size)
    if ends.size != survivors or (survivors and (positions[-1] >= size or ends[-1] != symbols - 1)):
        raise CorruptPayload(f"gaps do not place {survivors} survivors among {size} elements")
    values = _reconstruct(planes[:survivors].view(np.int8), step, first, others)
    if not np.isfinite(values).all():
        raise CorruptPayload("deadzone body decodes to a value that is not finite")
    return _Survivors(positions, values)


def _lossless(update: Float32Vector) -> bytes:
    planes = update.astype("<f4").view(np.uint8).reshape(-1, 4).T
    return _LOSSLESS + _deflate(np.ascontiguousarray(planes).tobytes())


def _deflate(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_content_size=False).compress(data)


def _inflate(data: memoryview, size: int) -> bytes:
    """Decompress to exactly `size` bytes, never taking more memory than that, whatever the data claims."""
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data)
        out = reader.read(size + 1) if size < 1 << 31 else b""
    except (zstandard.ZstdError, MemoryError) as error:
        raise CorruptPayload(f"zstandard planes are damaged: {error}") from None
    if len(out) != size:
        raise CorruptPayload(f"zstandard planes hold {len(out)} bytes; {size} were stated")
    return out
