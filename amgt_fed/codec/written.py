"""From the search's estimates to bytes: a point's exact error and size, and the points near it that keep a promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from amgt_fed.codec import body as wire
from amgt_fed.codec.errors import CorruptPayload
from amgt_fed.codec.interface import Measured, Opened
from amgt_fed.codec.pieces import Pieces, checked
from amgt_fed.codec.quantize import dequantize
from amgt_fed.codec.scan import squared_difference
from amgt_fed.codec.search import Point
from amgt_fed.codec.trim import trim_to_bits
from amgt_fed.layout import Float32Vector, Layout

_RETRIES = 12
_WRITES = 4


@dataclass(frozen=True, slots=True)
class Written:
    """A point as bytes, with what they decode to and its exact error."""

    data: bytes
    log_lambda: float
    opened: Opened
    measured: tuple[Measured, ...]
    error: float


def write(point: Point, update: Float32Vector, layout: Layout) -> Written:
    """The point's bytes and exact error; the error is infinite where the format cannot hold it."""
    content = point.levels()
    try:
        checked(content, (), layout, 0)
    except CorruptPayload:  # beyond what the format holds: not finite in float32, or levels too far apart
        return Written(b"", point.log_lambda, Pieces(content, layout, ()), (), math.inf)
    if any(c.factors or c.indices.size for c in point.candidates):
        data, shares = wire.write(content)
    else:
        data, shares = bytes([wire.EMPTY]), (0.0,) * len(layout.segments)
    opened = Pieces(content, layout, shares)
    measured = tuple(_measure(point, opened, update, layout))
    return Written(data, point.log_lambda, opened, measured, math.sqrt(math.fsum(m.squared_error for m in measured)))


def _measure(point: Point, opened: Pieces, update: Float32Vector, layout: Layout) -> list[Measured]:
    """The exact error of every tensor, from the floats that the decoder will make."""
    out = []
    for index, candidate in enumerate(point.candidates):
        if candidate.factors is None:
            decoded = dequantize(candidate.quantized.levels, point.step, point.shifts)
            error = candidate.selection.rest + squared_difference(candidate.selection.values, decoded)
            out.append(Measured(error, int(np.count_nonzero(decoded))))
            continue
        errors, nonzero = [], 0
        for piece in opened.tensor_pieces(index):
            errors.append(squared_difference(update[piece.start : piece.start + piece.values.size], piece.values))
            nonzero += int(np.count_nonzero(piece.values))
        out.append(Measured(math.fsum(errors), nonzero))
    return out


def fewest_bytes(
    points: list[Point], update: Float32Vector, layout: Layout, max_error: float, at: Callable[[float], Point]
) -> Written | None:
    """The smallest written point within the error; lambda is lowered until rounding and centroids fit as well."""
    best: Written | None = None
    for point in points:
        written = write(point, update, layout)
        shrink = 0.005
        for _ in range(_RETRIES):
            if written.error <= max_error:
                break
            point = at(point.log_lambda - shrink)
            shrink *= 2
            written = write(point, update, layout)
        if written.error <= max_error and (best is None or len(written.data) < len(best.data)):
            best = written
    return best


def least_error(
    points: list[Point],
    update: Float32Vector,
    layout: Layout,
    max_bytes: int,
    room: float,
    at: Callable[[float], Point],
) -> Written | None:
    """The written point of least error that fits; survivors are dropped, then lambda is raised, until the bytes do."""
    best: Written | None = None
    for point in points:
        trimmed, allowed = trim_to_bits(point, room), room
        written = write(trimmed, update, layout)
        for _ in range(_WRITES):
            if len(written.data) <= max_bytes:
                break
            allowed -= 8 * (len(written.data) - max_bytes) + 8
            trimmed = trim_to_bits(point, allowed)
            written = write(trimmed, update, layout)
        growth = 0.01
        for _ in range(_RETRIES):
            if len(written.data) <= max_bytes:
                break
            point = at(point.log_lambda + growth)
            growth *= 2
            written = write(point, update, layout)
        if len(written.data) <= max_bytes and written.error < math.inf and (best is None or written.error < best.error):
            best = written
    return best
