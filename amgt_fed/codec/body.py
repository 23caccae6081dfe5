"""The pipeline's bytes. This file and `frame.py` are the only ones that know offsets.

    kind       0: nothing survives, no more bytes; 1: lossless planes (lossless.py); 2: what follows;
               3: a power of two (int16) that all values are multiplied by, then a body of kind 2
    flags      bits 0-3: binary logarithm of the entropy coder's lanes; bit 4: some tensor has survivors
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

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec import rans
from amgt_fed.codec.lowrank import Factors
from amgt_fed.codec.quantize import Shifts
from amgt_fed.codec.symbols import PlainBits, pack, plain_bits, to_symbols
from amgt_fed.codec.tables import gap_book, level_book
from amgt_fed.codec.tensor import histograms

EMPTY, LOSSLESS, PIPELINE, SCALED = 0, 1, 2, 3
SPARSE_FLAG = 16
ONE_LANE_SYMBOLS = 1 << 16


@dataclass(frozen=True, slots=True)
class TensorLevels:
    """All that is sent about one tensor."""

    factors: Factors | None
    indices: NDArray[np.integer[Any]]  # of survivors within the tensor, increasing
    levels: NDArray[np.integer[Any]]  # signed, never 0


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


def write(content: Levels) -> bytes:
    """The body of kind PIPELINE."""
    head = bytearray()
    factor_rows = [row for t in content.tensors if t.factors for pair in _terms(t.factors) for row in pair]
    gaps = [np.diff(t.indices, prepend=-1) - 1 for t in content.tensors if t.indices.size]
    magnitudes = [np.abs(t.levels) - 1 for t in content.tensors if t.indices.size]
    symbols = [to_symbols(np.abs(row)) for row in factor_rows] + [to_symbols(row) for row in gaps + magnitudes]
    first_gap, first_level = len(factor_rows), len(factor_rows) + len(gaps)

    factor_tables = [int(level_book().best(histograms(s[None]))[0][0]) for s in symbols[:first_gap]]
    gap_tables = [int(gap_book().best(histograms(s[None]))[0][0]) for s in symbols[first_gap:first_level]]
    level_table = 0
    if gaps:
        level_table = int(level_book().best(histograms(np.concatenate(symbols[first_level:])[None]))[0][0])
        head += np.array(content.step, "<f4").tobytes()[1:]
        head += bytes([level_table, (content.shifts.first & 15) | (content.shifts.others & 15) << 4])
    active = [bool(t.factors or t.indices.size) for t in content.tensors]
    head += np.packbits(np.array(active, np.uint8), bitorder="little").tobytes()
    tables, sparse_tables = iter(factor_tables), iter(gap_tables)
    for tensor in content.tensors:
        if tensor.factors:
            factors = tensor.factors
            head.append(factors.rank)
            head += _varint(factors.base << 1 if factors.base >= 0 else (-factors.base << 1) - 1)
            for mantissa, exponent in zip(factors.mantissa.tolist(), factors.exponent.tolist(), strict=True):
                head += bytes([mantissa - 8 | exponent << 3, next(tables), next(tables)])
        elif tensor.indices.size:
            head.append(0)
        if tensor.factors or tensor.indices.size:
            head += _varint(tensor.indices.size)
            if tensor.indices.size:
                head.append(next(sparse_tables))

    every_table = factor_tables + gap_tables + [level_table] * len(magnitudes)
    frequency, start = [], []
    for place, row in enumerate(symbols):
        book = gap_book() if first_gap <= place < first_level else level_book()
        table = every_table[place]
        frequency.append(book.frequency[table][row])
        start.append(book.cumulative[table][row])
    every = np.concatenate(symbols)
    all_frequency = np.concatenate(frequency)
    log2_lanes = lanes_for(every.size, float((15 - np.log2(all_frequency)).sum()))
    coded = rans.encode(all_frequency, np.concatenate(start), log2_lanes)
    numbers = [np.abs(row) for row in factor_rows] + gaps + magnitudes
    plain = [plain_bits(number, symbol) for number, symbol in zip(numbers, symbols, strict=True)]
    plain += [_signs(row[row != 0]) for row in factor_rows]
    plain += [_signs(t.levels) for t in content.tensors if t.indices.size]
    flags = log2_lanes | (SPARSE_FLAG if gaps else 0)
    return bytes([PIPELINE, flags]) + bytes(head) + coded + pack(plain)


def lanes_for(count: int, bits: float) -> int:
    """Binary logarithm of the lanes for so many symbols of so many bits in all; the reader asks for as many."""
    return max(rans.log_lanes(bits), least_lanes(count)) if count > ONE_LANE_SYMBOLS // 4 else 0


def least_lanes(count: int) -> int:
    """Fewer lanes than this would let a short payload keep a reader busy for long."""
    return 0 if count <= ONE_LANE_SYMBOLS else min(rans.MAX_LOG_LANES, (count >> 11).bit_length())


def _terms(factors: Factors) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return list(zip(factors.left, factors.right, strict=True))


def _signs(levels: NDArray[np.integer[Any]]) -> PlainBits:
    return PlainBits((levels < 0).astype(np.int64), np.ones(levels.size, np.int64))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
