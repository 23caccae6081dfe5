"""Peers that send few values: top-k pairs, sparse ternary compression, QSGD."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.dense import floats_of
from amgt_fed.codec.elias import BitReader, gamma, golomb, pack
from amgt_fed.codec.errors import CorruptPayload, InvalidUpdate
from amgt_fed.codec.fixed_rate import FixedRate
from amgt_fed.codec.interface import CHUNK, Body, Opened, Piece
from amgt_fed.codec.symbols import PlainBits
from amgt_fed.layout import Float32Vector, Layout

_GOLDEN = (math.sqrt(5) + 1) / 2


@dataclass(frozen=True, slots=True)
class SparsePieces(Opened):
    """Values at strictly increasing indices."""

    indices: NDArray[np.int64]
    values: Float32Vector

    def pieces(self) -> Iterator[Piece]:
        """Yield the values in chunks."""
        for first in range(0, self.indices.size, CHUNK):
            yield Piece(self.values[first : first + CHUNK], indices=self.indices[first : first + CHUNK])


def largest(update: Float32Vector, fraction: float) -> NDArray[np.int64]:
    """Indices of the round(fraction * n) largest magnitudes, at least one, increasing."""
    count = min(update.size, max(1, round(fraction * update.size)))
    return (
        np.sort(np.argpartition(np.abs(update), update.size - count)[update.size - count :])
        if count
        else np.zeros(0, np.int64)
    )


def check_fraction(fraction: float, codec: str) -> float:
    """Raise unless 0 < fraction <= 1."""
    if not 0 < fraction <= 1:
        raise InvalidUpdate(f"{codec} fraction is {fraction!r}; give a number above 0, up to 1")
    return fraction


class TopK(FixedRate):
    """The largest values as (uint32 index, float32 value); a contraction with delta = k / n (Stich et al. 2018)."""

    name = "topk"
    codec_id = 6

    def __init__(self, fraction: float = 0.01) -> None:
        self.fraction = check_fraction(fraction, "topk")

    def reduce(self, update: Float32Vector, layout: Layout, state: Any, rng: np.random.Generator | None) -> Body:
        """Indices, then values."""
        kept = largest(update, self.fraction)
        return Body(kept.astype("<u4").tobytes() + update[kept].astype("<f4").tobytes())

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Check that indices increase and values are finite."""
        count = len(body) // 8
        if len(body) % 8 or count > layout.size:
            raise CorruptPayload(f"body has {len(body)} bytes; at most {layout.size} pairs of 8 are possible")
        indices = np.frombuffer(body[: 4 * count], "<u4").astype(np.int64)
        if count and ((np.diff(indices) <= 0).any() or indices[-1] >= layout.size):
            raise CorruptPayload("indices do not increase, or reach past the layout")
        return SparsePieces(indices, floats_of(body[4 * count :], count).astype(np.float32))


class Stc(FixedRate):
    """Sparse ternary compression: the largest values' signs, their mean magnitude, Golomb-coded positions.

    Source: Sattler et al. 2019 (arXiv 1903.02891), algorithm 1 and (15)-(17).
    """

    name = "stc"
    codec_id = 7
    _HEAD = struct.Struct("<fIB")

    def __init__(self, fraction: float = 0.01) -> None:
        self.fraction = check_fraction(fraction, "stc")

    def reduce(self, update: Float32Vector, layout: Layout, state: Any, rng: np.random.Generator | None) -> Body:
        """Mean magnitude over the kept values, gaps with the paper's optimal parameter, one sign each."""
        kept = largest(update, self.fraction)
        mean = float(np.abs(update[kept]).mean(dtype=np.float64)) if kept.size else 0.0
        share = min(kept.size / max(1, update.size), 0.99)
        shift = max(0, 1 + math.floor(math.log2(math.log(_GOLDEN - 1) / math.log(1 - share)))) if kept.size else 0
        signs = PlainBits((update[kept] < 0).astype(np.int64), np.ones(kept.size, np.int64))
        coded = pack([*golomb(np.diff(kept, prepend=-1) - 1, shift), signs])
        return Body(self._HEAD.pack(mean, kept.size, shift) + coded)

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Check counts, positions and the mean."""
        if len(body) < self._HEAD.size:
            raise CorruptPayload(f"stc body has {len(body)} bytes; its head needs {self._HEAD.size}")
        mean, count, shift = self._HEAD.unpack(body[: self._HEAD.size])
        if count > layout.size or shift > 31 or not 0 <= mean < math.inf:
            raise CorruptPayload(f"stc head says {count} values of {mean}, shift {shift}; impossible for this layout")
        reader = BitReader(body[self._HEAD.size :])
        gaps = reader.golomb(count, shift)
        negative = reader.plain(np.ones(count, np.int64))
        reader.finish()
        return SparsePieces(_positions(gaps, layout.size), np.where(negative == 1, -mean, mean).astype(np.float32))


class Qsgd(FixedRate):
    """Stochastic levels of each bucket's norm; E[decoded] = update.

    Source: Alistarh et al. 2017 (arXiv 1610.02132), lemma 3.1: variance <= min(d / s^2, sqrt(d) / s) ||x||^2 for
    buckets of d values and s levels; gaps and levels in Elias codes (gamma here).

    Args:
        levels: s.
        bucket: d.
    """

    name = "qsgd"
    codec_id = 8
    _HEAD = struct.Struct("<III")

    def __init__(self, levels: int = 7, bucket: int = 512) -> None:
        if not 1 <= levels <= 1 << 16 or not 1 <= bucket <= 1 << 24:
            raise InvalidUpdate(f"qsgd has {levels} levels, buckets of {bucket}; give 1 to 2^16 and 1 to 2^24")
        self.levels, self.bucket = levels, bucket

    def reduce(self, update: Float32Vector, layout: Layout, state: Any, rng: np.random.Generator | None) -> Body:
        """Round |x| s / norm up with the probability of its fraction."""
        rng = rng or np.random.default_rng(0)
        starts = np.arange(0, update.size, self.bucket)
        squares = np.square(update, dtype=np.float64)
        norms = np.sqrt(np.add.reduceat(squares, starts)).astype("<f4") if starts.size else np.zeros(0, "<f4")
        norms = np.nextafter(norms, np.float32(np.inf), where=norms > 0, out=norms.copy())
        divisor = np.where(norms > 0, norms, 1).astype(np.float64)
        scaled = np.abs(update) * self.levels / np.repeat(divisor, self.bucket)[: update.size]
        levels = np.floor(scaled + rng.random(update.size)).astype(np.int64)
        kept = np.flatnonzero(levels)
        signs = PlainBits((update[kept] < 0).astype(np.int64), np.ones(kept.size, np.int64))
        coded = pack([*gamma(np.diff(kept, prepend=-1)), *gamma(levels[kept]), signs])
        return Body(self._HEAD.pack(self.levels, self.bucket, kept.size) + norms.tobytes() + coded)

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Check counts, norms, positions and levels."""
        if len(body) < self._HEAD.size:
            raise CorruptPayload(f"qsgd body has {len(body)} bytes; its head needs {self._HEAD.size}")
        levels, bucket, count = self._HEAD.unpack(body[: self._HEAD.size])
        if not 1 <= levels <= 1 << 16 or not 1 <= bucket <= 1 << 24 or count > layout.size:
            raise CorruptPayload(f"qsgd head says {levels} levels, buckets of {bucket}, {count} values")
        buckets = -(-layout.size // bucket)
        end = self._HEAD.size + 4 * buckets
        norms = floats_of(body[self._HEAD.size : end], buckets).astype(np.float64)
        reader = BitReader(body[end:])
        indices = _positions(reader.gamma(count) - 1, layout.size)
        reached = reader.gamma(count)
        negative = reader.plain(np.ones(count, np.int64))
        reader.finish()
        if count and int(reached.max()) > levels + 1:
            raise CorruptPayload(f"qsgd level {int(reached.max())}; at most {levels + 1} is possible")
        with np.errstate(over="ignore"):
            values = (reached * (norms[indices // bucket] / levels)).astype(np.float32)
        if not np.isfinite(values).all():
            raise CorruptPayload("qsgd body decodes to a value that is not finite")
        return SparsePieces(indices, np.where(negative == 1, -values, values))


def _positions(gaps: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    if gaps.size and (int(gaps.min()) < 0 or int(gaps.max()) >= size):
        raise CorruptPayload(f"a gap of {int(gaps.max())} in a vector of {size}")
    positions = np.cumsum(gaps + 1) - 1
    if positions.size and positions[-1] >= size:
        raise CorruptPayload(f"position {positions[-1]} in a vector of {size}")
    return np.asarray(positions)
