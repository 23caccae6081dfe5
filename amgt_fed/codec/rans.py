"""Range asymmetric numeral systems: symbols to 16-bit words and back, several states side by side.

Source: Duda 2013 (arXiv 1311.2540). States are 32-bit, renormalised by 16-bit words, so at most one word per symbol.
Symbol i belongs to lane i mod `lanes`. One lane runs as a plain loop, quickest below some ten thousand symbols; many
lanes run as numpy vectors. A lane costs 4 bytes, of which the decoder checks 16 bits: its last state must be 2^16.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.errors import CorruptPayload
from amgt_fed.codec.native import address, kernel_for, owned, whole
from amgt_fed.codec.symbols import SYMBOLS
from amgt_fed.codec.tables import PRECISION, TOTAL

_LOW = 1 << 16
_MASK = TOTAL - 1
MAX_LOG_LANES = 10
_LOOKUP_TABLES = 24


def log_lanes(bits: float) -> int:
    """Binary logarithm of how many lanes to use: one while vectors would not pay, then under 1 % of the bits."""
    lanes = int(bits / 3200)
    return 0 if lanes < 16 else min(MAX_LOG_LANES, lanes.bit_length() - 1)


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of symbols that share a table.

    Attributes:
        frequency: of every table in use, shape (tables, SYMBOLS), each at least 1; rows sum to TOTAL.
        rows: for each run, its row of `frequency`.
        lengths: for each run, how many symbols; at least 1.
    """

    frequency: NDArray[np.int64]
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def start(self) -> NDArray[np.int64]:
        """Running sum below each symbol in its table."""
        return np.asarray(np.cumsum(self.frequency, axis=1) - self.frequency)


def encode(symbols: NDArray[np.uint8], runs: Runs, log2_lanes: int) -> bytes:
    """Encode runs of symbols that share a table.

    Args:
        symbols: all of them.
        runs: whose lengths sum to the number of symbols.
        log2_lanes: 0 to MAX_LOG_LANES.

    Returns:
        The lanes' states (uint32) and then the words (uint16), little-endian.
    """
    lanes = 1 << log2_lanes
    if (kernel := kernel_for(symbols.size)) is not None:
        states, words = np.empty(lanes, np.uint32), np.empty(symbols.size + 1, np.uint16)
        frequency, start = owned(runs.frequency, np.uint32), owned(runs.start, np.uint32)
        rows, lengths, given = owned(runs.rows, np.int64), owned(runs.lengths, np.int64), owned(symbols, np.uint8)
        used = kernel.amgt_rans_encode(
            address(given), whole(rows.size), address(rows), address(lengths), address(frequency), address(start),
            whole(lanes), address(states), address(words), whole(words.size),
        )  # fmt: skip
        return states.astype("<u4").tobytes() + words[words.size - used :].astype("<u2").tobytes()
    frequency, start = runs.frequency.reshape(-1), runs.start.reshape(-1)
    entry = np.repeat((SYMBOLS * runs.rows).astype(np.int32), runs.lengths)
    entry += symbols
    if log2_lanes == 0:
        return _encode_one(frequency[entry], start[entry])
    state = np.full(lanes, _LOW, np.int64)
    emitted: list[NDArray[np.uint16]] = []
    room = frequency << (32 - PRECISION)
    for first in range((symbols.size - 1) // lanes * lanes, -1, -lanes):
        chosen = entry[first : first + lanes]
        f, c = frequency[chosen], start[chosen]
        x = state[: f.size]
        full = np.flatnonzero(x >= room[chosen])
        emitted.append(x[full].astype(np.uint16))  # the lower 16 bits
        x[full] >>= 16
        # float64 divides sooner, and exactly: a quotient below 2^32 and a remainder of 2^-15 take 47 bits.
        quotient = (x / f).astype(np.int64)
        x += quotient * (TOTAL - f) + c
    words = np.concatenate(emitted[::-1]) if emitted else np.zeros(0, np.uint16)
    return state.astype("<u4").tobytes() + words.astype("<u2").tobytes()


def _encode_one(frequency: NDArray[np.int64], start: NDArray[np.int64]) -> bytes:
    x = _LOW
    words: list[int] = []
    for f, c in zip(frequency[::-1].tolist(), start[::-1].tolist(), strict=True):
        if x >= f << (32 - PRECISION):
            words.append(x & 0xFFFF)
            x >>= 16
        x = (x // f << PRECISION) + x % f + c
    return x.to_bytes(4, "little") + np.array(words[::-1], "<u2").tobytes()


def decode(data: memoryview, runs: Runs, log2_lanes: int) -> tuple[NDArray[np.uint8], int]:
    """Decode runs of symbols that share a table.

    Args:
        data: states and words; more may follow.
        runs: what the encoder was given.
        log2_lanes: 0 to MAX_LOG_LANES.

    Returns:
        Symbols, and how many bytes of `data` they took.

    Raises:
        CorruptPayload: the words end early, or the last states are not what an encoder starts from.
    """
    lanes = 1 << log2_lanes
    if len(data) < 4 * lanes:
        raise CorruptPayload(f"entropy coder's {lanes} states need {4 * lanes} bytes; {len(data)} are left")
    rows, lengths, start = runs.rows, runs.lengths, runs.start
    total = int(lengths.sum())
    tables = len(runs.frequency)
    if (kernel := kernel_for(total)) is not None:
        return _decode_by(kernel, data, runs, lanes, total)
    words = np.frombuffer(data[4 * lanes : len(data) - (len(data) & 1)], "<u2")
    if log2_lanes == 0:
        table = np.repeat(rows, lengths).tolist()
        sums = np.concatenate([start, np.full((tables, 1), TOTAL)], axis=1)
        symbols, used = _decode_one(int.from_bytes(data[:4], "little"), words.tolist(), sums, table)
        return np.array(symbols, np.uint8), 4 + 2 * used
    state = np.frombuffer(data[: 4 * lanes], "<u4").astype(np.int64)
    start, frequency = start.reshape(-1), runs.frequency.reshape(-1)
    edges = start + np.repeat(np.arange(tables) << PRECISION, SYMBOLS)
    # A few tables: 32 KiB each to look symbols up at once. Many: search, so that a small model needs little memory.
    lookup = np.repeat(np.arange(edges.size, dtype=np.uint16), frequency) if tables <= _LOOKUP_TABLES else None
    ends = np.cumsum(lengths)
    symbols_out = np.empty(total, np.uint8)
    lane = np.arange(lanes)
    position, run = 0, 0
    for first in range(0, total, lanes):
        last = min(first + lanes, total)
        while ends[run] <= first:
            run += 1
        if last <= ends[run]:
            chosen = np.broadcast_to(rows[run], last - first)
        else:
            chosen = rows[np.searchsorted(ends, first + lane[: last - first], side="right")]
        x = state[: len(chosen)]
        slot = x & _MASK
        key = (chosen << PRECISION) + slot
        entry = np.searchsorted(edges, key, side="right") - 1 if lookup is None else lookup[key].astype(np.int64)
        symbols_out[first : first + lanes] = entry & (SYMBOLS - 1)
        x = frequency[entry] * (x >> PRECISION) + slot - start[entry]
        low = np.flatnonzero(x < _LOW)
        if position + low.size > words.size:
            raise CorruptPayload(f"entropy coder's words end after {words.size}")
        x[low] = x[low] << 16 | words[position : position + low.size]
        position += low.size
        state[: len(chosen)] = x
    if not (state == _LOW).all():
        raise CorruptPayload("entropy coder does not end where an encoder starts; the payload was made up")
    return symbols_out, 4 * lanes + 2 * position


def _decode_by(
    kernel: ctypes.CDLL, data: memoryview, runs: Runs, lanes: int, total: int
) -> tuple[NDArray[np.uint8], int]:
    symbols = np.empty(total, np.uint8)
    states = np.frombuffer(data[: 4 * lanes], "<u4").astype(np.uint32)
    words = np.frombuffer(data[4 * lanes :], np.uint8)
    tables = len(runs.frequency)
    # As below: 32 KiB each for a few tables, none for many.
    few = tables <= _LOOKUP_TABLES
    each = np.tile(np.arange(SYMBOLS, dtype=np.uint8), tables) if few else np.zeros(0, np.uint8)
    lookup = np.repeat(each, runs.frequency.reshape(-1)) if few else each
    frequency, start = owned(runs.frequency, np.uint32), owned(runs.start, np.uint32)
    rows, lengths = owned(runs.rows, np.int64), owned(runs.lengths, np.int64)
    used = kernel.amgt_rans_decode(
        address(words), whole(words.size // 2), whole(rows.size), address(rows), address(lengths),
        address(lookup) if few else None,
        address(frequency), address(start), whole(lanes), address(states), address(symbols),
    )  # fmt: skip
    if used < 0:
        raise CorruptPayload(f"entropy coder's words end after {words.size // 2}")
    if not (states == _LOW).all():
        raise CorruptPayload("entropy coder does not end where an encoder starts; the payload was made up")
    return symbols, 4 * lanes + 2 * int(used)


def _decode_one(x: int, words: list[int], cumulative: NDArray[np.int64], table: list[int]) -> tuple[list[int], int]:
    sums = cumulative.tolist()
    symbols: list[int] = []
    position = 0
    for row in table:
        running = sums[row]
        slot = x & _MASK
        symbol = bisect_right(running, slot) - 1
        symbols.append(symbol)
        low = running[symbol]
        x = (running[symbol + 1] - low) * (x >> PRECISION) + slot - low
        if x < _LOW:
            if position >= len(words):
                raise CorruptPayload(f"entropy coder's words end after {len(words)}")
            x = x << 16 | words[position]
            position += 1
    if x != _LOW:
        raise CorruptPayload("entropy coder does not end where an encoder starts; the payload was made up")
    return symbols, position
