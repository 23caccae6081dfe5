"""Peers that change the basis first: EDEN (a random rotation) and PowerSGD (a subspace)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.dense import DensePieces, floats_of
from amgt_fed.codec.errors import CorruptPayload, InvalidUpdate
from amgt_fed.codec.fixed_rate import FixedRate
from amgt_fed.codec.interface import CHUNK, Body, Opened, Piece
from amgt_fed.codec.tensor import matrix_shape
from amgt_fed.layout import Float32Vector, Layout

# Lloyd-Max centroids of a standard Gaussian, positive half; the edges between them are the midpoints.
_CENTROIDS = {
    1: (0.7978845608,),
    2: (0.4527800398, 1.5104176087),
    4: (0.1283950280, 0.3880482995, 0.6567589957, 0.9423404451, 1.2562311973, 1.6180464645, 2.0690172840, 2.7325896045),
}
_BLOCK = 1 << 16  # a block padded to a power of two costs its padding in bits; small blocks keep that small


class Eden(FixedRate):
    """Rotate at random, quantize to Gaussian centroids, scale so that the estimate is unbiased.

    Source: Vargaftik et al. 2022 (arXiv 2108.08842): E[decoded] = update, and with the scale
    ||x||^2 / <R x, q> a normalised error of .57, .13 and .0095 at 1, 2 and 4 bits.

    Args:
        bits: 1, 2 or 4 per parameter.
    """

    name = "eden"
    codec_id = 9

    def __init__(self, bits: int = 2) -> None:
        if bits not in _CENTROIDS:
            raise InvalidUpdate(f"eden bits is {bits!r}; give 1, 2 or 4")
        self.bits = bits

    def reduce(self, update: Float32Vector, layout: Layout, state: Any, rng: np.random.Generator | None) -> Body:
        """Codes and a scale for each block."""
        seed = int((rng or np.random.default_rng(0)).integers(1 << 32))
        table = _table(self.bits)
        edges = (table[1:] + table[:-1]) / 2
        scales, codes = [], []
        for block, (start, stop) in enumerate(_blocks(update.size)):
            x = update[start:stop].astype(np.float64)
            energy = float(np.dot(x, x))
            padded = np.zeros(_padded(stop - start), np.float64)
            padded[: stop - start] = x
            rotated = _hadamard(padded * _signs(seed, block, padded.size))
            norm = math.sqrt(energy) if energy else 1.0
            code = np.searchsorted(edges, rotated * (math.sqrt(padded.size) / norm))
            overlap = float(np.dot(rotated, table[code]))
            scales.append(energy / overlap if energy else 0.0)
            codes.append(code)
        every = np.concatenate(codes).astype(np.uint8) if codes else np.zeros(0, np.uint8)
        bits = np.unpackbits(every[:, None], axis=1)[:, 8 - self.bits :]
        head = bytes([self.bits]) + seed.to_bytes(4, "little") + np.array(scales, "<f4").tobytes()
        return Body(head + np.packbits(bits.reshape(-1)).tobytes())

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Check lengths and scales, then rotate back; sums and differences in a fixed order, equal everywhere."""
        blocks = list(_blocks(layout.size))
        bits = body[0] if len(body) else 0
        total = sum(_padded(stop - start) for start, stop in blocks)
        if bits not in _CENTROIDS or len(body) != 5 + 4 * len(blocks) + (total * bits + 7) // 8:
            raise CorruptPayload(f"eden body of {len(body)} bytes with {bits} bits does not fit {layout.size} values")
        seed = int.from_bytes(body[1:5], "little")
        scales = floats_of(body[5 : 5 + 4 * len(blocks)], len(blocks))
        coded = np.frombuffer(body[5 + 4 * len(blocks) :], np.uint8)
        table = _table(bits)
        values = np.empty(layout.size, np.float32)
        at = 0
        weights = (1 << np.arange(bits)[::-1]).astype(np.uint8)
        for block, (start, stop) in enumerate(blocks):
            size = _padded(stop - start)
            raw = np.unpackbits(coded[at * bits // 8 : -(-(at + size) * bits // 8)])[at * bits % 8 :][: size * bits]
            code = raw.reshape(size, bits) @ weights
            back = _hadamard(table[code] * float(scales[block]))
            back *= _signs(seed, block, size)
            with np.errstate(over="ignore"):
                values[start:stop] = back[: stop - start]
            at += size
        if not np.isfinite(values).all():
            raise CorruptPayload("eden body decodes to a value that is not finite")
        return DensePieces(values)


class PowerSgd(FixedRate):
    """One power iteration per matrix, factors as float32; vectors as they are.

    Source: Vogels et al. 2019 (arXiv 1905.13727), algorithm 1; warm-started through `state`.

    Args:
        rank: columns of each factor.
    """

    name = "powersgd"
    codec_id = 10

    def __init__(self, rank: int = 4) -> None:
        if not 1 <= rank <= 255:
            raise InvalidUpdate(f"powersgd rank is {rank!r}; give 1 to 255")
        self.rank = rank

    def reduce(self, update: Float32Vector, layout: Layout, state: Any, rng: np.random.Generator | None) -> Body:
        """P, orthonormal, then Q = M^T P, for each matrix where they are smaller than it."""
        warm = state if isinstance(state, dict) else {}
        source = rng or np.random.default_rng(0)
        parts, kept = [bytes([self.rank])], {}
        for segment, values in layout.views(update):
            sides = _factored(segment.shape, self.rank)
            if sides is None:
                parts.append(values.astype("<f4").tobytes())
                continue
            matrix = values.reshape(sides).astype(np.float64)
            start = warm.get(segment.name)
            if start is None or start.shape != (sides[1], self.rank):
                start = source.standard_normal((sides[1], self.rank))
            left = np.linalg.qr(matrix @ start)[0]
            right = matrix.T @ left
            kept[segment.name] = right
            parts += [left.astype("<f4").tobytes(), right.astype("<f4").tobytes()]
        return Body(b"".join(parts), kept)

    def open(self, body: memoryview, layout: Layout) -> Opened:
        """Check length, finiteness and reach."""
        rank = body[0] if len(body) else 0
        if rank == 0:
            raise CorruptPayload("powersgd body states no rank")
        counts = []
        for segment in layout.segments:
            sides = _factored(segment.shape, rank)
            counts.append(rank * sum(sides) if sides else segment.size)
        values = floats_of(body[1:], sum(counts))
        parts: list[Float32Vector] = np.split(values, np.cumsum(counts)[:-1]) if counts else []
        for part, segment in zip(parts, layout.segments, strict=True):
            if (sides := _factored(segment.shape, rank)) is None or not part.size:
                continue
            left, right = _sides(part, sides, rank)
            reach = float((np.abs(left).max(axis=0).astype(np.float64) * np.abs(right).max(axis=0)).sum())
            if not reach < 3.4e38:
                raise CorruptPayload(f"factors of {segment.name!r} reach {reach:.4g}; float32 ends at 3.4e38")
        return _LowRankPieces(parts, layout, rank)


class _LowRankPieces(Opened):
    def __init__(self, parts: list[Float32Vector], layout: Layout, rank: int) -> None:
        self._parts, self._layout, self._rank = parts, layout, rank

    def pieces(self) -> Iterator[Piece]:
        for part, segment in zip(self._parts, self._layout.segments, strict=True):
            sides = _factored(segment.shape, self._rank)
            if sides is None:
                for first in range(0, part.size, CHUNK):
                    yield Piece(part[first : first + CHUNK].astype(np.float32), segment.offset + first)
                continue
            left, right = _sides(part, sides, self._rank)
            rows = max(1, CHUNK // sides[1])
            for first in range(0, sides[0], rows):
                # Term by term, not by matrix product, whose order of summation differs between machines.
                block = np.zeros((len(left[first : first + rows]), sides[1]), np.float32)
                for term in range(self._rank):
                    block += left[first : first + rows, term : term + 1] * right[:, term]
                yield Piece(block.reshape(-1), segment.offset + first * sides[1])

    def ranks(self) -> tuple[int, ...]:
        return tuple(self._rank if _factored(s.shape, self._rank) else 0 for s in self._layout.segments)


def _factored(shape: tuple[int, ...], rank: int) -> tuple[int, int] | None:
    sides = matrix_shape(shape)
    return sides if sides and rank * sum(sides) < sides[0] * sides[1] and rank <= min(sides) else None


def _sides(part: Float32Vector, sides: tuple[int, int], rank: int) -> tuple[NDArray[Any], NDArray[Any]]:
    return part[: rank * sides[0]].reshape(sides[0], rank), part[rank * sides[0] :].reshape(sides[1], rank)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, _BLOCK):
        yield start, min(size, start + _BLOCK)


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _table(bits: int) -> NDArray[np.float64]:
    half = np.array(_CENTROIDS[bits])
    return np.concatenate([-half[::-1], half])


def _signs(seed: int, block: int, size: int) -> NDArray[np.float64]:
    """Random signs from the generator's raw words, the same in every numpy."""
    words = np.random.PCG64([seed, block]).random_raw(-(-size // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=size)
    return np.asarray(1.0 - 2.0 * bits, np.float64)


def _hadamard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal Walsh-Hadamard transform of a power-of-two length; its own inverse."""
    out = values.copy()
    half = 1
    while half < out.size:
        pairs = out.reshape(-1, 2, half)
        differences = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = differences
        half *= 2
    out /= np.float64(math.sqrt(out.size))
    return out
