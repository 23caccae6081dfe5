"""The pipeline's unbiased mode: E[decoded] = update over the encoder's random numbers.

Every value is rounded at random to one of the two multiples of the step around it. For values under a step this is
importance-sampled sparsity: kept, as one whole step, with probability |x| / step (Wangni et al. 2018, arXiv
1710.09854). There are no low-rank terms, whose rounding would not be unbiased, and no centroids. The body is the
pipeline's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from amgt_fed.codec import body as wire
from amgt_fed.codec.errors import ImpossibleBudget
from amgt_fed.codec.interface import Body, Codec, Opened
from amgt_fed.codec.pieces import open_body
from amgt_fed.codec.pipeline import Amgt
from amgt_fed.codec.quantize import LARGEST_LEVEL, Shifts
from amgt_fed.layout import Float32Vector, Layout

_ROUNDS = 40


class Unbiased(Codec):
    """Stochastic rounding under one step, entropy-coded; needs a budget.

    The step is found on the expected error or on a first draw's bytes. If a draw still breaks the promise the step
    is changed by 3 % and drawn again; what bias that choice leaves is far below the rounding itself.
    """

    name = "unbiased"
    codec_id = 11

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
        """Search the step on a logarithmic scale, then draw."""
        rng = rng or np.random.default_rng(0)
        magnitude = np.abs(update).astype(np.float64)
        top = float(magnitude.max(initial=0))
        if max_bytes is not None and max_bytes < 1:
            raise ImpossibleBudget(f"the budget leaves {max_bytes} bytes for a body; unbiased needs 1")
        if top == 0:
            return Body(bytes([wire.EMPTY]))
        if max_error == 0 or (max_error == math.inf and max_bytes is None):
            return Amgt().compress(update, layout, max_error=0, max_bytes=max_bytes, state=None, rng=rng)
        low, high = math.log(top / LARGEST_LEVEL * 2), math.log(max(1e3, update.size) * top)
        seed = int(rng.integers(1 << 62))
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            if max_bytes is None:
                fits = _expected_error(magnitude, math.exp(middle)) <= 0.97 * max_error
                low, high = (middle, high) if fits else (low, middle)
            else:
                fits = len(_draw(update, layout, math.exp(middle), seed)) <= max_bytes
                low, high = (low, middle) if fits else (middle, high)
            if high - low < 0.01:
                break
        step = math.exp(low if max_bytes is None else high)
        for trial in range(_ROUNDS):
            data = _draw(update, layout, step, seed + trial)
            if max_bytes is None and self._error(data, update, layout) <= max_error:
                return Body(data, version=wire.version_of(data))
            if max_bytes is not None and len(data) <= max_bytes:
                return Body(data, version=wire.version_of(data))
            step *= 0.97 if max_bytes is None else 1.03
        raise ImpossibleBudget("no unbiased rounding meets the budget; give more bytes or a larger error")

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Read and check everything a body says."""
        return open_body(body, layout)

    def _error(self, data: bytes, update: Float32Vector, layout: Layout) -> float:
        opened: Opened = self.open(memoryview(data), layout)
        out = update.astype(np.float64)
        for piece in opened.pieces():
            place = slice(piece.start, piece.start + piece.values.size) if piece.indices is None else piece.indices
            out[place] -= piece.values
        return math.sqrt(float(np.dot(out, out)))


def _expected_error(magnitude: np.ndarray[Any, Any], step: float) -> float:
    part = np.mod(magnitude, step)
    return math.sqrt(float(np.dot(part, step - part)))


def _draw(update: Float32Vector, layout: Layout, step: float, seed: int) -> bytes:
    """A body; the same random numbers for every step, so that a search over steps is monotone."""
    step = wire.coarse_step(step)
    uniform = np.random.default_rng(seed).random(update.size)
    levels = np.floor(np.abs(update) / step + uniform).astype(np.int64)
    levels = np.where(update < 0, -levels, levels)
    tensors = []
    for segment in layout.segments:
        part = levels[segment.offset : segment.stop]
        kept = np.flatnonzero(part)
        tensors.append(wire.TensorLevels(None, kept.astype(np.int32), part[kept].astype(np.int32)))
    if not any(t.levels.size for t in tensors):
        return bytes([wire.EMPTY])
    return wire.write(wire.Levels(tuple(tensors), step, Shifts(0, 0)))[0]
