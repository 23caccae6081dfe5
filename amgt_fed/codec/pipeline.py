"""The AMGT codec: low-rank terms, a sparse residual, one lambda for all tensors, one entropy coder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from amgt_fed.codec import body as wire
from amgt_fed.codec import lossless
from amgt_fed.codec.errors import CorruptPayload, ImpossibleBudget
from amgt_fed.codec.interface import Body, Codec, Opened, gather, squared_error
from amgt_fed.codec.pieces import LARGEST, SCALE, open_body
from amgt_fed.codec.predict import Model
from amgt_fed.codec.scan import squares
from amgt_fed.codec.search import (
    AIM,
    MANY_SURVIVORS,
    Point,
    boundary,
    evaluate,
    look_around,
    price_for,
    rebuild,
    relax,
    spend,
)
from amgt_fed.codec.tensor import TensorSource, Warm
from amgt_fed.codec.trim import trim_to_error
from amgt_fed.codec.written import fewest_bytes, least_error
from amgt_fed.layout import Float32Vector, Layout

_SMALL, _BIG = 1e-15, 1e15  # largest magnitudes whose squares, summed, float32 holds
_OUTLOOKS = 4
_UNSPENT = 0.004  # share of a budget of error that is worth looking for a use
_NEARLY = 1.003  # estimates of bits this near are settled by writing both
_FEW_BITS, _COARSER = 1 << 15, 0.15  # of so small a payload one term is a large part: mixtures are tried at two lambdas
_PRECISE = 1e-4  # below this share of the energy float32 factors are too coarse


@dataclass(frozen=True, slots=True)
class PipelineState:
    """What helps the next encode of the same stream: where lambda was, and where the factors pointed."""

    log_lambda: float
    warm: dict[str, Warm] = field(default_factory=dict)


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
        return self.compress_measured(
            update,
            layout,
            energies=tuple(squares(values) for _, values in layout.views(update)),
            max_error=max_error,
            max_bytes=max_bytes,
            state=state,
            rng=rng,
        )

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
        """As `compress`."""
        if max_bytes is not None and max_bytes < 1:
            raise ImpossibleBudget(f"the budget leaves {max_bytes} bytes for amgt's body; it needs 1")
        energy = math.fsum(energies)
        # The largest magnitude lies between the root of the mean square and that of the sum.
        if energy == 0 or (math.sqrt(energy) <= _BIG and math.sqrt(energy / update.size) >= _SMALL):
            return self._compress(update, layout, energies, max_error, max_bytes, state)
        top = float(max(update.max(), -update.min()))
        if _SMALL <= top <= _BIG:
            return self._compress(update, layout, energies, max_error, max_bytes, state)
        # Squares of such values leave float32: encode them in units of a power of two, which is exact to undo.
        exponent = math.frexp(top)[1]
        room = None if max_bytes is None else max(1, max_bytes - SCALE.size)
        scaled_error = math.ldexp(min(max_error, 1e300), -exponent) if max_error < math.inf else max_error
        scaled = np.ldexp(update, -exponent)
        scaled_energies = tuple(squares(values) for _, values in layout.views(scaled))
        inner = self._compress(scaled, layout, scaled_energies, scaled_error, room, None).data
        if inner[0] == wire.PIPELINE:
            data = SCALE.pack(wire.SCALED, exponent) + inner
            if (max_bytes is None or len(data) <= max_bytes) and _error(data, update, layout) <= min(
                max_error, LARGEST
            ):
                return Body(data, version=wire.version_of(inner))
        elif inner[0] == wire.EMPTY:
            return Body(inner)
        exact = bytes([wire.LOSSLESS]) + lossless.write(update)
        return Body(exact if max_bytes is None or len(exact) <= max_bytes else bytes([wire.EMPTY]))

    def _compress(
        self,
        update: Float32Vector,
        layout: Layout,
        energies: tuple[float, ...],
        max_error: float,
        max_bytes: int | None,
        state: Any,
    ) -> Body:
        known = state if isinstance(state, PipelineState) else None
        warm = known.warm if known else {}
        energy = math.fsum(energies)
        empty = Body(bytes([wire.EMPTY]), known)
        if energy == 0 or math.sqrt(energy) <= max_error < math.inf:
            return empty
        exact = bytes([wire.LOSSLESS]) + lossless.write(update) if _may_be_exact(layout, max_error, max_bytes) else None
        if exact is not None and (max_error == 0 or math.isinf(max_error)) and len(exact) <= (max_bytes or len(exact)):
            return Body(exact, known)
        precise = max_error**2 < _PRECISE * energy if max_bytes is None else max_bytes > layout.size // 2
        sources = [
            TensorSource(values, s.shape, each, warm.get(s.name), precise=precise)
            for (s, values), each in zip(layout.views(update), energies, strict=True)
        ]
        if known is not None:
            start = known.log_lambda
        else:
            start = _first_guess(energy, layout.size, max_error, max_bytes)
            start = _outlook(sources, start, max_error, max_bytes)
        # From all of the energy for a bit, down to steps that float32 itself cannot resolve.
        span = (max(-600.0, math.log(energy) - math.log(layout.size) - 50), math.log(energy) + 5)

        def at(log_lambda: float) -> Point:
            return evaluate(sources, log_lambda)

        if max_bytes is None:
            limit = max_error**2 * (1 - 1e-6)

            def error_excess(point: Point) -> float:
                return math.log(max(point.distortion, 1e-300) / limit)

            points = boundary(error_excess, at, start, rising=False, span=span)
            points = _least(points, lambda p: p.bits)
            unspent = points and points[0].distortion < (1 - _UNSPENT) * limit
            if points and points[0].survivors < MANY_SURVIVORS and (unspent or points[0].bits < _FEW_BITS):
                look_around(points[0], sources)
                rebuilt = [rebuild(points[0], sources, limit)]
                if points[0].bits < _FEW_BITS:
                    coarser = at(points[0].log_lambda + _COARSER)
                    look_around(coarser, sources)
                    rebuilt.append(rebuild(coarser, sources, limit))
                points = [*points[:1], *(point for point in rebuilt if point is not None)]
            points = _least([trim_to_error(relax(p, sources, limit), limit) for p in points], lambda p: p.bits)
            if points and points[-1].bits > _NEARLY * points[0].bits:
                points = points[:1]
            best = fewest_bytes(points, update, layout, max_error, at)
            if best is None or len(best.data) > 2 * layout.size:
                exact = exact or bytes([wire.LOSSLESS]) + lossless.write(update)
        else:
            room = max(1.0, 8 * (max_bytes - _fixed_bytes(layout)))

            def byte_excess(point: Point) -> float:
                return math.log(max(point.bits, 1e-3) / room)

            points = boundary(byte_excess, at, start, rising=True, span=span)
            points = _least(points, lambda p: p.distortion)
            if points and points[0].survivors < MANY_SURVIVORS:
                look_around(points[0], sources)
            points = [spend(p, sources, room) for p in points]
            best = least_error(points, update, layout, max_bytes, room, at)
            if best is None:
                return empty
        if best is None or (max_bytes is None and exact is not None and len(exact) < len(best.data)):
            assert exact is not None
            return Body(exact, known)
        warmed = {s.name: source.warm for s, source in zip(layout.segments, sources, strict=True)}
        state = PipelineState(best.log_lambda, {n: w for n, w in warmed.items() if w is not None})
        return Body(best.data, state, best.opened, best.measured, wire.version_of(best.data))

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Read and check everything a body says."""
        return open_body(body, layout)


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


def _outlook(sources: list[TensorSource], start: float, max_error: float, max_bytes: int | None) -> float:
    """Log lambda that meets the budget, as far as histograms and singular values tell."""
    rising = max_bytes is not None
    for _ in range(_OUTLOOKS):
        bins, factor_bits = zip(*(source.outlook(math.exp(start)) for source in sources), strict=True)
        model = Model(bins, start, price_for(sources), factor_bits=sum(factor_bits))
        over = model.excess(8.0 * max_bytes if max_bytes is not None else max_error**2, rising=rising)
        guess = model.shifted(over - AIM if rising else over + AIM, rising=rising)
        if guess is None:
            break
        start, before = guess, start
        if abs(start - before) < 0.1 or not any(factor_bits):
            break
    return start


def _error(data: bytes, update: Float32Vector, layout: Layout) -> float:
    try:
        decoded = gather(open_body(memoryview(data), layout), layout)
    except CorruptPayload:  # as in `written.write`
        return math.inf
    return math.sqrt(squared_error(decoded, update))
