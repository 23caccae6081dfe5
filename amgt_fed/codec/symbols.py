"""Whole numbers of any size as one of 64 symbols and a few plain bits.

    0 to 7        the number itself, no extra bits
    8 and above   two symbols per power of two (its lower and its upper half), the rest as plain bits

Within half an octave the numbers we code are so nearly equally likely that plain bits lose under 0.02 bit each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.native import address, kernel_for, owned, whole

SYMBOLS = 64
LARGEST = (1 << 31) - 1
_DIRECT = 8
_CHUNK = 1 << 14

# First number and count of plain bits of every symbol.
_EXPONENT = np.concatenate([np.zeros(_DIRECT, np.int64), 3 + np.arange(SYMBOLS - _DIRECT) // 2])
WIDTH = np.where(np.arange(SYMBOLS) < _DIRECT, 0, _EXPONENT - 1)
FIRST = np.where(
    np.arange(SYMBOLS) < _DIRECT,
    np.arange(SYMBOLS),
    (2 + (np.arange(SYMBOLS) % 2)) << np.maximum(_EXPONENT - 1, 0),
).astype(np.int64)
FIRST32, WIDTH8 = FIRST.astype(np.int32), WIDTH.astype(np.uint8)


@dataclass(frozen=True, slots=True)
class PlainBits:
    """Numbers of known widths, to be written bit by bit; `values[i]` has `widths[i]` bits, at most 31."""

    values: NDArray[np.integer[Any]]
    widths: NDArray[np.integer[Any]]


def to_symbols(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    """The symbol of each number; numbers are whole, 0 to `LARGEST`."""
    symbols: NDArray[np.uint8] = _LISTED[np.minimum(numbers, _LISTED.size - 1)]
    large = numbers >= _LISTED.size
    if large.any():
        symbols[large] = _by_exponent(numbers[large].astype(np.int64))
    return symbols


def _by_exponent(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    exponent = np.frexp(numbers.astype(np.float64))[1].astype(np.int64) - 1  # exact below 2^53
    symbols = _DIRECT + 2 * (exponent - 3) + ((numbers >> np.maximum(exponent - 1, 0)) & 1)
    return np.where(numbers < _DIRECT, numbers, symbols).astype(np.uint8)


_LISTED = _by_exponent(np.arange(1 << 12))  # most gaps and levels are found here


def gap_symbols(indices: NDArray[np.integer[Any]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Symbols of how many elements lie between increasing indices, and how often each symbol occurs."""
    if (kernel := kernel_for(indices.size)) is not None:
        given, symbols, counts = owned(indices, np.int32), np.empty(indices.size, np.uint8), np.zeros(SYMBOLS, np.int64)
        kernel.amgt_gap_symbols(address(given), whole(given.size), address(symbols), address(counts))
        return symbols, counts
    symbols = to_symbols(np.diff(indices, prepend=-1) - 1)
    return symbols, np.bincount(symbols, minlength=SYMBOLS)


def level_symbols(levels: NDArray[np.integer[Any]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Symbols of |level| - 1, and how often each occurs."""
    if (kernel := kernel_for(levels.size)) is not None:
        given, symbols, counts = owned(levels, np.int32), np.empty(levels.size, np.uint8), np.zeros(SYMBOLS, np.int64)
        kernel.amgt_level_symbols(address(given), whole(given.size), address(symbols), address(counts))
        return symbols, counts
    symbols = to_symbols(np.abs(levels) - 1)
    return symbols, np.bincount(symbols, minlength=SYMBOLS)


def plain_bits(numbers: NDArray[Any], symbols: NDArray[np.uint8]) -> PlainBits:
    """What the symbols leave out, in order; numbers without plain bits are skipped."""
    large = np.flatnonzero(symbols >= _DIRECT)
    chosen = symbols[large]
    return PlainBits((numbers[large] - FIRST32[chosen]).astype(np.uint32), WIDTH8[chosen])


def pack(parts: list[PlainBits]) -> bytes:
    """Write the values one after the other, most significant bit first, zero bits up to the next byte."""
    total = sum(int(part.widths.sum(dtype=np.int64)) for part in parts)
    if (kernel := kernel_for(total)) is not None:
        out, bit = np.zeros(total // 8 + 8, np.uint8), 0
        for part in parts:
            values, widths = owned(part.values, np.uint32), owned(part.widths, np.uint8)
            bit = kernel.amgt_pack(address(values), address(widths), whole(widths.size), whole(bit), address(out))
        return out[: (total + 7) // 8].tobytes()
    written: list[bytes] = []
    pending = np.zeros(0, np.uint8)
    for part in parts:
        for first in range(0, part.widths.size, _CHUNK):
            each = part.widths[first : first + _CHUNK].astype(np.int64)
            ends = np.cumsum(each)
            shift = np.repeat(ends, each) - np.arange(1, int(ends[-1]) + 1)
            numbers = part.values[first : first + _CHUNK].astype(np.int64)
            bits = np.concatenate([pending, (np.repeat(numbers, each) >> shift & 1).astype(np.uint8)])
            full = bits.size // 8 * 8
            written.append(np.packbits(bits[:full]).tobytes())
            pending = bits[full:]
    return b"".join([*written, np.packbits(pending).tobytes()])


def unpack(data: memoryview, widths: NDArray[np.integer[Any]], first_bit: int = 0) -> NDArray[np.int32]:
    """Read values of these widths, at most 31 bits each, from `first_bit` on; the caller has checked the length."""
    out = np.empty(widths.size, np.int32)
    if (kernel := kernel_for(widths.size)) is not None:
        source, given = np.frombuffer(data, np.uint8), owned(widths, np.uint8)
        kernel.amgt_unpack(
            address(source), whole(source.size), address(given), whole(given.size), whole(first_bit), address(out)
        )
        return out
    for first in range(0, widths.size, _CHUNK):
        part = widths[first : first + _CHUNK].astype(np.int64)
        ends = np.cumsum(part)
        total = int(ends[-1])
        bits = unpack_bits(data, first_bit, total).astype(np.int64)
        # A running sum of weighted bits, cut at the ends: one pass whatever the widths. Sums stay below 2^31 times
        # the count, so int64 holds them.
        running = np.concatenate([[0], np.cumsum(bits << (np.repeat(ends, part) - np.arange(1, total + 1)))])
        out[first : first + _CHUNK] = running[ends] - running[ends - part]
        first_bit += total
    return out


def unpack_bits(data: memoryview, first_bit: int, count: int) -> NDArray[np.uint8]:
    """`count` single bits from `first_bit` on."""
    view = np.frombuffer(data[first_bit // 8 : (first_bit + count + 7) // 8], np.uint8)
    return np.unpackbits(view, count=first_bit % 8 + count)[first_bit % 8 :]
