"""Peers that treat every value alike: float16, blocks of int8, scaled signs."""

from __future__ import annotations

from typing import Any

import numpy as np

from amgt_fed.codec.dense import ChunkPieces, floats_of
from amgt_fed.codec.errors import CorruptPayload, InvalidUpdate
from amgt_fed.codec.fixed_rate import FixedRate
from amgt_fed.codec.interface import Body, Opened
from amgt_fed.layout import Float32Vector, Layout


class Float16(FixedRate):
    """IEEE half precision, 16 bits per parameter."""

    name = "float16"
    codec_id = 3

    def reduce(self, update: Float32Vector, layout: Layout, state: Any, rng: np.random.Generator | None) -> Body:
        """Round to the nearest half."""
        if (largest := float(np.abs(update).max(initial=0))) >= 65520:
            raise InvalidUpdate(f"update reaches {largest:.6g}; float16 ends at 65504")
        return Body(update.astype("<f2").tobytes())

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Check length and finiteness."""
        if len(body) != 2 * layout.size:
            raise CorruptPayload(f"body has {len(body)} bytes; {layout.size} float16 take {2 * layout.size}")
        values = np.frombuffer(body, "<f2")
        if not np.isfinite(values).all():
            raise CorruptPayload("body holds a value that is not finite")
        return ChunkPieces(layout.size, lambda start, stop: values[start:stop].astype(np.float32))


class Int8(FixedRate):
    """Linear int8 with one float32 scale per block: |error| <= largest of the block / 254.

    Args:
        block: values that share a scale.
    """

    name = "int8"
    codec_id = 4

    def __init__(self, block: int = 4096) -> None:
        if not 1 <= block <= 1 << 24:
            raise InvalidUpdate(f"int8 block is {block}; give 1 to 2^24")
        self.block = block

    def reduce(self, update: Float32Vector, layout: Layout, state: Any, rng: np.random.Generator | None) -> Body:
        """Round each value to the nearest of 255 levels of its block."""
        padded = np.zeros(-(-update.size // self.block) * self.block, np.float32)
        padded[: update.size] = update
        blocks = padded.reshape(-1, self.block)
        scale = np.abs(blocks).max(axis=1, initial=0)
        divisor = np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
        levels = np.round(blocks / divisor * 127).astype(np.int8).reshape(-1)[: update.size]
        return Body(self.block.to_bytes(4, "little") + scale.astype("<f4").tobytes() + levels.tobytes())

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Check length, block and scales."""
        block = int.from_bytes(body[:4], "little")
        if not 1 <= block <= 1 << 24:
            raise CorruptPayload(f"int8 block is {block}; 1 to 2^24 is possible")
        count = -(-layout.size // block)
        if len(body) != 4 + 4 * count + layout.size:
            raise CorruptPayload(f"body has {len(body)} bytes; {count} blocks take {4 + 4 * count + layout.size}")
        scale = floats_of(body[4 : 4 + 4 * count], count).astype(np.float64) / 127
        levels = np.frombuffer(body[4 + 4 * count :], np.int8)
        if layout.size and int(levels.min()) < -127:
            raise CorruptPayload("body holds level -128; 127 is the largest magnitude")

        def values(start: int, stop: int) -> Float32Vector:
            first, last = start // block, (stop - 1) // block
            edges = np.clip(np.arange(first, last + 2) * block, start, stop)
            return np.asarray(levels[start:stop] * np.repeat(scale[first : last + 1], np.diff(edges)), np.float32)

        return ChunkPieces(layout.size, values)


class Sign(FixedRate):
    """One bit per parameter and each tensor's mean magnitude: sign(x) ||x||_1 / n.

    Source: Karimireddy et al. 2019 (arXiv 1901.09847), lemma 8: a contraction with delta = ||x||_1^2 / (n ||x||_2^2).
    """

    name = "sign"
    codec_id = 5

    def reduce(self, update: Float32Vector, layout: Layout, state: Any, rng: np.random.Generator | None) -> Body:
        """Signs and scales; zero counts as positive."""
        scales = [float(np.abs(v).mean(dtype=np.float64)) if v.size else 0.0 for _, v in layout.views(update)]
        return Body(np.array(scales, "<f4").tobytes() + np.packbits(update < 0).tobytes())

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Check length and scales."""
        count = len(layout.segments)
        if len(body) != 4 * count + (layout.size + 7) // 8:
            raise CorruptPayload(f"body has {len(body)} bytes; it needs {4 * count + -(-layout.size // 8)}")
        scales = floats_of(body[: 4 * count], count)
        coded = np.frombuffer(body[4 * count :], np.uint8)
        edges = np.array([0, *(s.stop for s in layout.segments)])

        def values(start: int, stop: int) -> Float32Vector:
            sizes = np.diff(np.clip(edges, start, stop))
            negative = np.unpackbits(coded[start // 8 : -(-stop // 8)], count=stop - start).astype(bool)
            out = np.repeat(scales, sizes).astype(np.float32)
            return np.negative(out, out=out, where=negative)

        return ChunkPieces(layout.size, values)
