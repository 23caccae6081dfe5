"""Reading the pipeline's bytes; `body.py` describes them. Every length and count is checked before memory is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec import rans
from amgt_fed.codec.body import OWN_FLAG, PIPELINE, SPARSE_FLAG, Levels, TensorLevels, least_lanes, runs_of, shares
from amgt_fed.codec.errors import CorruptPayload
from amgt_fed.codec.lowrank import Factors
from amgt_fed.codec.quantize import Shifts
from amgt_fed.codec.symbols import FIRST32, SYMBOLS, WIDTH, WIDTH8, unpack, unpack_bits
from amgt_fed.codec.tables import Book, gap_book, level_book, own_table
from amgt_fed.codec.tensor import matrix_shape, rank_limit
from amgt_fed.layout import Layout

_BASE_RANGE = 512


class _Reader:
    """Takes bytes off the front; every read is checked against what is left."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise CorruptPayload(f"body ends at byte {len(self.data)}, inside a field of {count} at byte {self.at}")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self, limit: int, what: str) -> int:
        number = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            number |= (byte & 127) << shift
            if byte < 128:
                break
        if number > limit:
            raise CorruptPayload(f"{what} is {number} at byte {self.at}; at most {limit} is possible here")
        return number


@dataclass(frozen=True, slots=True)
class _Head:
    rank: int
    base: int
    units: NDArray[np.int64]
    tables: list[int]  # u, v, u, v, ...
    survivors: int
    gap_table: Book | None


_NOTHING = _Head(0, 0, np.zeros(0, np.int64), [], 0, None)


def read(body: memoryview, layout: Layout) -> tuple[Levels, tuple[float, ...]]:
    """Read and check a body of kind PIPELINE.

    Returns:
        Its content, and the bytes each tensor takes.

    Raises:
        CorruptPayload: anything that `write` would not have written for this layout.
    """
    reader = _Reader(body)
    if reader.byte() != PIPELINE:
        raise CorruptPayload("body is not of the pipeline's kind")
    flags = reader.byte()
    log2_lanes = flags & 15
    own = bool(flags & OWN_FLAG)
    if flags > 63 or log2_lanes > rans.MAX_LOG_LANES or (own and not flags & SPARSE_FLAG):
        raise CorruptPayload(f"body's flags are {flags:#x}; this version knows lanes up to 2^10 and two flags")
    step, level_table, shifts = 0.0, level_book().only(0), Shifts()
    if flags & SPARSE_FLAG:
        step = float(np.frombuffer(b"\0" + reader.take(3), "<f4")[0])
        if not 0 < step < np.inf:
            raise CorruptPayload(f"step is {step}; it must be finite and above 0")
        level_table, both = _read_table(reader, level_book(), own), reader.byte()
        shifts = Shifts(*(nibble - 16 if nibble > 7 else nibble for nibble in (both & 15, both >> 4)))
    bitmap = np.frombuffer(reader.take((len(layout.segments) + 7) // 8), np.uint8)
    active = np.unpackbits(bitmap, bitorder="little")
    if active[len(layout.segments) :].any():
        raise CorruptPayload("body marks tensors that the layout does not have")
    heads = [
        _read_head(reader, segment.shape, segment.size, flags) if used else _NOTHING
        for segment, used in zip(layout.segments, active, strict=False)
    ]
    return _read_symbols(reader, layout, heads, log2_lanes, level_table, step, shifts)


def _read_table(reader: _Reader, book: Book, own: bool) -> Book:
    row = reader.byte()
    length = reader.byte() if own else 0
    if length > SYMBOLS:
        raise CorruptPayload(f"table at byte {reader.at} has {length} symbols; there are {SYMBOLS}")
    return own_table(reader.take(length)) if length else book.only(row)


def _read_head(reader: _Reader, shape: tuple[int, ...], size: int, flags: int) -> _Head:
    rank = reader.byte()
    if rank > rank_limit(shape):
        raise CorruptPayload(f"rank {rank} at byte {reader.at}; a tensor of shape {shape} allows {rank_limit(shape)}")
    base, units, tables = 0, [], []
    if rank:
        coded = reader.varint(2 * _BASE_RANGE, "base exponent")
        base = coded >> 1 if coded & 1 == 0 else -((coded + 1) >> 1)
        for _ in range(rank):
            units.append(reader.byte())
            tables += [reader.byte(), reader.byte()]
    survivors = reader.varint(size, "number of survivors")
    if survivors and not flags & SPARSE_FLAG:
        raise CorruptPayload(f"{survivors} survivors at byte {reader.at}, but the body gives no step")
    gaps = _read_table(reader, gap_book(), bool(flags & OWN_FLAG)) if survivors else None
    return _Head(rank, base, np.array(units, np.int64), tables, survivors, gaps)


def _read_symbols(
    reader: _Reader, layout: Layout, heads: list[_Head], log2_lanes: int, level_table: Book, step: float, shifts: Shifts
) -> tuple[Levels, tuple[float, ...]]:
    # Runs of symbols that share a table.
    runs: list[tuple[Book, int]] = []
    book = level_book()
    for head, segment in zip(heads, layout.segments, strict=True):
        if head.rank:
            m, n = matrix_shape(segment.shape) or (0, 0)
            runs += [(book.only(table), (m, n)[place % 2]) for place, table in enumerate(head.tables)]
    num_factor = sum(length for _, length in runs)
    sparse = [head for head in heads if head.survivors]
    runs += [(head.gap_table, head.survivors) for head in sparse if head.gap_table is not None]
    runs += [(level_table, head.survivors) for head in sparse]
    if not runs:
        raise CorruptPayload("body holds no symbols; an empty update has its own kind")
    lengths = np.array([length for _, length in runs])
    total = int(lengths.sum())
    if log2_lanes < least_lanes(total):
        raise CorruptPayload(f"{total} symbols need at least 2^{least_lanes(total)} lanes; the body has 2^{log2_lanes}")
    coded = runs_of([table for table, _ in runs], lengths)
    symbols, taken = rans.decode(reader.data[reader.at :], coded, log2_lanes)
    reader.at += taken

    large = np.flatnonzero(symbols >= 8)
    widths = WIDTH8[symbols[large]]
    signs = int(np.count_nonzero(symbols[:num_factor])) + (total - num_factor) // 2
    first_sign = int(widths.sum(dtype=np.int64))
    body = reader.data[reader.at :]
    if len(body) != (first_sign + signs + 7) // 8:
        raise CorruptPayload(f"{len(body)} bytes are left for {first_sign + signs} plain bits")
    ends = np.cumsum(lengths).tolist()
    run_bits = [
        float(np.bincount(symbols[end - length : end], minlength=SYMBOLS) @ (table.cost[0] + WIDTH))
        for end, (table, length) in zip(ends, runs, strict=True)
    ]
    plain = unpack(body, widths)
    numbers = _Numbers(symbols, large, plain, unpack_bits(body, first_sign, signs).view(np.bool_))
    return _assemble(layout, heads, numbers, num_factor, step, shifts, run_bits)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Decoded symbols, one byte each; numbers are made of them tensor by tensor, so that few exist at a time."""

    symbols: NDArray[np.uint8]
    large: NDArray[np.int64]  # places of symbols with plain bits
    plain: NDArray[np.int32]  # those bits
    negative: NDArray[np.bool_]

    def slice(self, first: int, count: int) -> NDArray[np.int32]:
        out = FIRST32[self.symbols[first : first + count]]
        a, b = np.searchsorted(self.large, [first, first + count])
        out[self.large[a:b] - first] += self.plain[a:b]
        return out


def _assemble(
    layout: Layout,
    heads: list[_Head],
    numbers: _Numbers,
    num_factor: int,
    step: float,
    shifts: Shifts,
    run_bits: list[float],
) -> tuple[Levels, tuple[float, ...]]:
    survivors = sum(head.survivors for head in heads)
    at, gap_at, sign_at = 0, num_factor, 0
    level_sign_at = int(np.count_nonzero(numbers.symbols[:num_factor]))
    tensors = []
    for head, segment in zip(heads, layout.segments, strict=True):
        factors = None
        if head.rank:
            m, n = matrix_shape(segment.shape) or (0, 0)
            block = numbers.slice(at, head.rank * (m + n))
            nonzero = np.flatnonzero(block)
            flip = nonzero[numbers.negative[sign_at : sign_at + nonzero.size]]
            block[flip] = -block[flip]
            at += block.size
            sign_at += nonzero.size
            block = block.reshape(head.rank, m + n)
            factors = Factors(block[:, :m], block[:, m:], 8 + (head.units & 7), head.units >> 3, head.base)
        indices: NDArray[np.integer[Any]] = np.zeros(0, np.int64)
        levels: NDArray[np.integer[Any]] = np.zeros(0, np.int64)
        if head.survivors:
            indices = _positions(numbers.slice(gap_at, head.survivors), segment.size, segment.name)
            levels = _narrow(numbers.slice(gap_at + survivors, head.survivors) + np.int32(1))
            np.negative(levels, out=levels, where=numbers.negative[level_sign_at : level_sign_at + head.survivors])
        gap_at += head.survivors
        level_sign_at += head.survivors
        tensors.append(TensorLevels(factors, indices, levels))
    content = Levels(tuple(tensors), step, shifts)
    return content, shares(content, run_bits)


def _positions(gaps: NDArray[np.int32], size: int, name: str) -> NDArray[np.integer[Any]]:
    # Each gap is below the size, and so many of them that int64 holds the sum; int32 where the tensor allows.
    if int(gaps.max()) >= size or (last := int(gaps.sum(dtype=np.int64)) + gaps.size - 1) >= size:
        raise CorruptPayload(f"survivors of {name!r} reach past its {size} elements")
    gaps += 1
    if last >= 1 << 30:
        return np.cumsum(gaps, dtype=np.int64) - 1
    gaps[0] -= 1
    return np.cumsum(gaps, dtype=np.int32)


def _narrow(levels: NDArray[np.int32]) -> NDArray[np.integer[Any]]:
    if not levels.size or int(levels.max()) >= 1 << 15 or int(levels.min()) < 1:
        return levels
    return levels.astype(np.int16)
