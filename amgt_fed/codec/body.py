"""The pipeline's bytes. This file and `frame.py` are the only ones that know offsets.

    kind       0: nothing survives, no more bytes; 1: lossless planes (lossless.py); 2: what follows;
               3: a power of two (int16) that all values are multiplied by, then a body of kind 2
    flags      bits 0-3: binary logarithm of the entropy coder's lanes; bit 4: some tensor has survivors;
               bit 5 (format version 2): behind the level table and behind every gap table stands the length of a
               table of its own (0: none, the book's counts; at most 64), and that table (tables.own_codes)
    [sparse]   if bit 4: step (the upper 3 bytes of a float32), level table, shifts (signed nibbles, first low)
    active     one bit per tensor, lowest first: whether it has anything
    tensors    for each active one: rank (1 byte);
               if rank: base exponent (zigzag varint), then for each term: unit (mantissa - 8 in bits 0-2, exponent
               in 3-7), level table of u, of v;
               survivors (varint); if any: gap table
    symbols    one rANS stream: u and v of every term, then every tensor's gaps, then every tensor's levels
    plain      plain bits of those symbols in the same order, signs of non-zero factor levels, signs of survivors

Gaps count elements skipped since the last survivor of the same tensor; levels are |level| - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec import rans
from amgt_fed.codec.lowrank import Factors
from amgt_fed.codec.quantize import Shifts
from amgt_fed.codec.symbols import SYMBOLS, WIDTH, PlainBits, gap_symbols, level_symbols, pack, plain_bits, to_symbols
from amgt_fed.codec.tables import Book, gap_book, level_book, own_codes, own_table

EMPTY, LOSSLESS, PIPELINE, SCALED = 0, 1, 2, 3
SPARSE_FLAG, OWN_FLAG = 16, 32
ONE_LANE_SYMBOLS = 1 << 16


@dataclass(frozen=True, slots=True)
class TensorLevels:
    """All that is sent about one tensor."""

    factors: Factors | None
    indices: NDArray[np.integer[Any]]  # int32 of survivors within the tensor, increasing
    levels: NDArray[np.integer[Any]]  # signed, never 0; int32, or int16 where they are read


@dataclass(frozen=True, slots=True)
class Levels:
    """All that is sent: every tensor, and the survivors' common step and shifts."""

    tensors: tuple[TensorLevels, ...]
    step: float
    shifts: Shifts


def coarse_step(step: float) -> float:
    """The largest step not above `step` that the body can hold: a float32 with a 15-bit mantissa."""
    bits = int(np.array(min(step, 3e38), "<f4").view("<u4")) & 0xFFFFFF00
    return float(np.array(bits, "<u4").view("<f4"))


def write(content: Levels) -> tuple[bytes, tuple[float, ...]]:
    """The body of kind PIPELINE, and how many of its bytes each tensor takes."""
    terms = [row for t in content.tensors if t.factors for pair in _terms(t.factors) for row in pair]
    sparse = [t for t in content.tensors if t.indices.size]
    term_symbols = [to_symbols(np.abs(row)) for row in terms]
    gap_symbols_, gap_counts = zip(*(gap_symbols(t.indices) for t in sparse), strict=True) if sparse else ((), ())
    level_symbols_, level_counts = zip(*(level_symbols(t.levels) for t in sparse), strict=True) if sparse else ((), ())

    term_counts = [np.bincount(row, minlength=SYMBOLS) for row in term_symbols]
    terms_chosen = _from_book(level_book(), term_counts)
    gaps_chosen = _chosen(gap_book(), gap_counts)
    level_chosen = _chosen(level_book(), [np.sum(level_counts, axis=0)] if sparse else [])
    shared = [*gaps_chosen, *level_chosen]
    flags = SPARSE_FLAG if sparse else 0
    if sum(choice.saving for choice in shared) > 8 * len(shared):
        flags |= OWN_FLAG
    else:
        gaps_chosen, level_chosen = [c.from_book() for c in gaps_chosen], [c.from_book() for c in level_chosen]
    head = _head(content, terms_chosen, gaps_chosen, level_chosen, bool(flags & OWN_FLAG))

    choices = [*terms_chosen, *gaps_chosen, *level_chosen * len(sparse)]
    counts = [*term_counts, *gap_counts, *level_counts]
    symbols = np.concatenate([*term_symbols, *gap_symbols_, *level_symbols_])
    lengths = np.array([int(count.sum()) for count in counts])
    runs = runs_of([choice.table() for choice in choices], lengths)
    bits = [float(count @ choice.table().cost[0]) for count, choice in zip(counts, choices, strict=True)]
    log2_lanes = lanes_for(symbols.size, math.fsum(bits))
    coded = rans.encode(symbols, runs, log2_lanes)

    plain = [plain_bits(np.abs(row), symbol) for row, symbol in zip(terms, term_symbols, strict=True)]
    for tensor, symbol in zip(sparse, gap_symbols_, strict=True):
        plain.append(plain_bits(np.diff(tensor.indices, prepend=-1) - 1, symbol))
    for tensor, symbol in zip(sparse, level_symbols_, strict=True):
        plain.append(plain_bits(np.abs(tensor.levels) - 1, symbol))
    plain += [_signs(row[row != 0]) for row in terms]
    plain += [_signs(t.levels) for t in sparse]
    data = bytes([PIPELINE, log2_lanes | flags]) + head + coded + pack(plain)
    whole_bits = [a + float(count @ WIDTH) for a, count in zip(bits, counts, strict=True)]
    return data, shares(content, whole_bits)


def version_of(data: bytes) -> int:
    """The oldest format version that knows this body of kind PIPELINE."""
    return 2 if data[0] == PIPELINE and data[1] & OWN_FLAG else 1


def shares(content: Levels, run_bits: list[float]) -> tuple[float, ...]:
    """Bytes of each tensor, from the bits of each run of symbols: its terms, gaps, levels, signs and head."""
    terms, sparse = iter(run_bits), sum(t.indices.size > 0 for t in content.tensors)
    gaps, levels = iter(run_bits[len(run_bits) - 2 * sparse :]), iter(run_bits[len(run_bits) - sparse :])
    out = []
    for tensor in content.tensors:
        bits = 0.0
        if tensor.factors:
            signs = np.count_nonzero(tensor.factors.left) + np.count_nonzero(tensor.factors.right)
            bits += sum(next(terms) for _ in range(2 * tensor.factors.rank)) + float(signs)
            bits += 24 * tensor.factors.rank + 16
        if tensor.indices.size:
            bits += next(gaps) + next(levels) + tensor.indices.size + 24
        out.append(bits / 8)
    return tuple(out)


@dataclass(frozen=True, slots=True)
class _Choice:
    """One table: of a book, or its own if it has codes, which then saves so many bits."""

    book: Book
    row: int
    codes: bytes = b""
    saving: float = 0.0

    def from_book(self) -> _Choice:
        return _Choice(self.book, self.row)

    def table(self) -> Book:
        return own_table(self.codes) if self.codes else self.book.only(self.row)


def _from_book(book: Book, counts: Sequence[NDArray[np.int64]]) -> list[_Choice]:
    return [_Choice(book, int(row)) for row in book.best(np.array(counts))[0]] if len(counts) else []


def _chosen(book: Book, counts: Sequence[NDArray[np.int64]]) -> list[_Choice]:
    """The cheapest table for each of the counts, its own ones among them."""
    out = []
    for count, choice in zip(counts, _from_book(book, counts), strict=True):
        codes = own_codes(count)
        saving = float(count @ (book.cost[choice.row] - own_table(codes).cost[0])) - 8 * len(codes)
        out.append(_Choice(book, choice.row, codes, saving) if saving > 0 else choice)
    return out


def runs_of(tables: list[Book], lengths: NDArray[np.int64]) -> rans.Runs:
    """Runs of symbols with these tables, each of which is stated once."""
    places: dict[bytes, int] = {}
    rows = [places.setdefault(table.frequency.tobytes(), len(places)) for table in tables]
    frequency = np.frombuffer(b"".join(places), np.int64).reshape(-1, SYMBOLS)
    return rans.Runs(frequency, np.array(rows, np.int64), lengths)


def _head(content: Levels, terms: list[_Choice], gaps: list[_Choice], levels: list[_Choice], with_own: bool) -> bytes:
    term_tables, gap_tables = iter(terms), iter(gaps)

    def stated(choice: _Choice) -> bytes:
        return bytes([choice.row, len(choice.codes)]) + choice.codes if with_own else bytes([choice.row])

    head = bytearray()
    if levels:
        head += np.array(content.step, "<f4").tobytes()[1:] + stated(levels[0])
        head.append((content.shifts.first & 15) | (content.shifts.others & 15) << 4)
    active = [bool(t.factors or t.indices.size) for t in content.tensors]
    head += np.packbits(np.array(active, np.uint8), bitorder="little").tobytes()
    for tensor in content.tensors:
        if tensor.factors:
            factors = tensor.factors
            head.append(factors.rank)
            head += _varint(factors.base << 1 if factors.base >= 0 else (-factors.base << 1) - 1)
            for mantissa, exponent in zip(factors.mantissa.tolist(), factors.exponent.tolist(), strict=True):
                head += bytes([mantissa - 8 | exponent << 3, next(term_tables).row, next(term_tables).row])
        elif tensor.indices.size:
            head.append(0)
        if tensor.factors or tensor.indices.size:
            head += _varint(tensor.indices.size)
            if tensor.indices.size:
                head += stated(next(gap_tables))
    return bytes(head)


def lanes_for(count: int, bits: float) -> int:
    """Binary logarithm of the lanes for so many symbols of so many bits in all; the reader asks for as many."""
    return max(rans.log_lanes(bits), least_lanes(count)) if count > ONE_LANE_SYMBOLS // 4 else 0


def least_lanes(count: int) -> int:
    """Fewer lanes than this would let a short payload keep a reader busy for long."""
    return 0 if count <= ONE_LANE_SYMBOLS else min(rans.MAX_LOG_LANES, (count >> 11).bit_length())


def _terms(factors: Factors) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return list(zip(factors.left, factors.right, strict=True))


def _signs(levels: NDArray[np.integer[Any]]) -> PlainBits:
    return PlainBits((levels < 0).view(np.uint8), np.ones(levels.size, np.uint8))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
