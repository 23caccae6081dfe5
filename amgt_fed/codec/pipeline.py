"""The AMGT codec: low-rank terms, a sparse residual, one lambda for all tensors, one entropy coder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec import body as wire
from amgt_fed.codec import lossless
from amgt_fed.codec.errors import CorruptPayload, ImpossibleBudget
from amgt_fed.codec.interface import Body, Codec, Opened, gather, squared_error
from amgt_fed.codec.pieces import LARGEST, SCALE, open_body
from amgt_fed.codec.search import Point, boundary, evaluate, relax, spend
from amgt_fed.codec.tensor import TensorSource
from amgt_fed.layout import Float32Vector, Layout

_RETRIES = 12
_SMALL, _BIG = 1e-15, 1e15  # largest magnitudes whose squares, summed, float32 holds


@dataclass(frozen=True, slots=True)
class PipelineState:
    """What helps the next encode of the same stream: where lambda was, and where the factors pointed."""

    log_lambda: float
    warm: dict[str, NDArray[np.float64]] = field(default_factory=dict)


class Amgt(Codec):
    """Low-rank and sparse, quantized and entropy-coded; the library's own codec."""

    name = "amgt"
    codec_id = 2

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
        """The fewest bytes within `max_error`, or the least error within `max_bytes`; lossless without either."""
        if max_bytes is not None and max_bytes < 1:
            raise ImpossibleBudget(f"the budget leaves {max_bytes} bytes for amgt's body; it needs 1")
        top = float(np.abs(update).max(initial=0.0))
        if top == 0 or _SMALL <= top <= _BIG:
            return self._compress(update, layout, max_error, max_bytes, state)
        # Squares of such values leave float32: encode them in units of a power of two, which is exact to undo.
        exponent = math.frexp(top)[1]
        room = None if max_bytes is None else max(1, max_bytes - SCALE.size)
        scaled_error = math.ldexp(min(max_error, 1e300), -exponent) if max_error < math.inf else max_error
        inner = self._compress(np.ldexp(update, -exponent), layout, scaled_error, room, None).data
        if inner[0] == wire.PIPELINE:
            data = SCALE.pack(wire.SCALED, exponent) + inner
            if (max_bytes is None or len(data) <= max_bytes) and _error(data, update, layout) <= min(
                max_error, LARGEST
            ):
                return Body(data)
        elif inner[0] == wire.EMPTY:
            return Body(inner)
        exact = bytes([wire.LOSSLESS]) + lossless.write(update)
        return Body(exact if max_bytes is None or len(exact) <= max_bytes else bytes([wire.EMPTY]))

    def _compress(
        self, update: Float32Vector, layout: Layout, max_error: float, max_bytes: int | None, state: Any
    ) -> Body:
        known = state if isinstance(state, PipelineState) else None
        warm = known.warm if known else {}
        sources = [TensorSource(values, s.shape, warm.get(s.name)) for s, values in layout.views(update)]
        energy = math.fsum(source.energy for source in sources)
        empty = Body(bytes([wire.EMPTY]), known)
        if energy == 0 or math.sqrt(energy) <= max_error < math.inf:
            return empty
        exact = bytes([wire.LOSSLESS]) + lossless.write(update) if _may_be_exact(layout, max_error, max_bytes) else None
        if exact is not None and (max_error == 0 or math.isinf(max_error)) and len(exact) <= (max_bytes or len(exact)):
            return Body(exact, known)
        start = known.log_lambda if known else _first_guess(energy, layout.size, max_error, max_bytes)
        # From all of the energy for a bit, down to steps that float32 itself cannot resolve.
        span = (max(-600.0, math.log(energy) - math.log(layout.size) - 50), math.log(energy) + 5)

        def at(log_lambda: float) -> Point:
            return evaluate(sources, log_lambda)

        if max_bytes is None:
            limit = max_error**2

            def error_excess(point: Point) -> float:
                return math.log(max(point.distortion, 1e-300) / limit)

            points = boundary(error_excess, at, start, rising=False, span=span)
            points = [relax(p, sources, limit * (1 - 1e-6)) for p in _least(points, lambda p: p.bits)]
            best = _fewest_bytes(points, update, layout, max_error, at)
            if best is None or len(best.data) > 2 * layout.size:
                exact = exact or bytes([wire.LOSSLESS]) + lossless.write(update)
        else:
            room = max(1.0, 8 * (max_bytes - _fixed_bytes(layout)))

            def byte_excess(point: Point) -> float:
                return math.log(max(point.bits, 1e-3) / room)

            points = boundary(byte_excess, at, start, rising=True, span=span)
            points = [spend(p, sources, room) for p in _least(points, lambda p: p.distortion)]
            best = _least_error(points, update, layout, max_bytes, at)
            if best is None:
                return empty
        if best is None or (max_bytes is None and exact is not None and len(exact) < len(best.data)):
            assert exact is not None
            return Body(exact, known)
        warmed = {s.name: source.warm for s, source in zip(layout.segments, sources, strict=True)}
        return Body(best.data, PipelineState(best.log_lambda, {n: w for n, w in warmed.items() if w is not None}))

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Read and check everything a body says."""
        return open_body(body, layout)


@dataclass(frozen=True, slots=True)
class _Written:
    data: bytes
    log_lambda: float
    error: float


def _fixed_bytes(layout: Layout) -> float:
    """Kind, flags, step, table, shifts, one lane's state, bitmap, and rounding up to whole bytes and words."""
    return 13 + len(layout.segments) / 8


def _may_be_exact(layout: Layout, max_error: float, max_bytes: int | None) -> bool:
    """Whether losslessness is asked for, or so many bytes are allowed that it may fit."""
    return (max_error == 0) if max_bytes is None and math.isfinite(max_error) else (max_bytes or 1e18) > 2 * layout.size


def _least(points: list[Point], key: Callable[[Point], float]) -> list[Point]:
    return sorted(points, key=key)[:2]


def _first_guess(energy: float, size: int, max_error: float, max_bytes: int | None) -> float:
    """Log lambda from a Gaussian's distortion-rate slope: dD/dR = 2 ln 2 D / size, per bit of the whole vector."""
    if max_bytes is None:
        nmse = max_error**2 / energy
        return math.log(energy * nmse) - math.log(size) - 2 * math.log(min(1.0, nmse)) * 0.3
    return math.log(energy) - math.log(8.0 * max_bytes)


def _write(point: Point, update: Float32Vector, layout: Layout) -> _Written:
    if any(c.factors or c.indices.size for c in point.candidates):
        data = wire.write(point.levels())
    else:
        data = bytes([wire.EMPTY])
    return _Written(data, point.log_lambda, _error(data, update, layout))


def _error(data: bytes, update: Float32Vector, layout: Layout) -> float:
    try:
        decoded = gather(Amgt().open(memoryview(data), layout), layout)
    except CorruptPayload:  # beyond what the format holds: not finite in float32, or levels too far apart
        return math.inf
    return math.sqrt(squared_error(decoded, update))


def _fewest_bytes(
    points: list[Point], update: Float32Vector, layout: Layout, max_error: float, at: Any
) -> _Written | None:
    """The smallest written point within the error; lambda is lowered until rounding and centroids fit as well."""
    best: _Written | None = None
    for point in points:
        written = _write(point, update, layout)
        shrink = 0.005
        for _ in range(_RETRIES):
            if written.error <= max_error:
                break
            point = at(point.log_lambda - shrink)
            shrink *= 2
            written = _write(point, update, layout)
        if written.error <= max_error and (best is None or len(written.data) < len(best.data)):
            best = written
    return best


def _least_error(
    points: list[Point], update: Float32Vector, layout: Layout, max_bytes: int, at: Any
) -> _Written | None:
    """The written point of least error that fits; lambda is raised until the bytes do."""
    best: _Written | None = None
    for point in points:
        written = _write(point, update, layout)
        growth = 0.01
        for _ in range(_RETRIES):
            if len(written.data) <= max_bytes:
                break
            point = at(point.log_lambda + growth)
            growth *= 2
            written = _write(point, update, layout)
        if len(written.data) <= max_bytes and written.error < math.inf and (best is None or written.error < best.error):
            best = written
    return best
