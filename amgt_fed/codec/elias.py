"""Elias gamma and Golomb codes, written as two streams so that numpy can read them: all prefixes, then all suffixes.

The bits are those of the textbook codes, only their order differs. Sources: Elias 1975; Golomb 1966.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.errors import CorruptPayload
from amgt_fed.codec.symbols import PlainBits, pack, unpack


def write_unary(numbers: NDArray[np.int64]) -> PlainBits:
    """n as n zeros and a one; at most 62 zeros fit one value, longer runs are cut into several."""
    pieces = numbers // 62
    widths = np.full(int(pieces.sum()) + numbers.size, 62, np.int64)
    ends = np.cumsum(pieces + 1) - 1
    widths[ends] = numbers - 62 * pieces + 1
    values = np.zeros(widths.size, np.int64)
    values[ends] = 1
    return PlainBits(values, widths)


def gamma(numbers: NDArray[np.int64]) -> list[PlainBits]:
    """Elias gamma of numbers >= 1: floor(log2) in unary, then the bits below the leading one."""
    exponent = np.frexp(numbers.astype(np.float64))[1].astype(np.int64) - 1
    return [write_unary(exponent), PlainBits(numbers - (1 << exponent), exponent)]


def golomb(numbers: NDArray[np.int64], shift: int) -> list[PlainBits]:
    """Golomb-Rice code of numbers >= 0: quotient by 2^shift in unary, remainder in `shift` bits."""
    return [write_unary(numbers >> shift), PlainBits(numbers & ((1 << shift) - 1), np.full(numbers.size, shift))]


class BitReader:
    """Reads streams off a bit string that `symbols.pack` wrote."""

    def __init__(self, data: memoryview) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self._at = 0

    def unary(self, count: int) -> NDArray[np.int64]:
        """`count` unary numbers."""
        ones = np.flatnonzero(self._bits[self._at :])[:count]
        if ones.size < count:
            raise CorruptPayload(f"{ones.size} unary numbers are left; {count} were stated")
        self._at += int(ones[-1]) + 1 if count else 0
        return np.diff(ones, prepend=-1) - 1

    def plain(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Values of these widths."""
        if widths.size and int(widths.max()) > 31:
            raise CorruptPayload(f"a number of {int(widths.max())} bits; none here needs more than 31")
        total = int(widths.sum())
        if self._at + total > self._bits.size:
            raise CorruptPayload(f"{self._bits.size - self._at} bits are left; {total} are needed")
        data = memoryview(np.packbits(self._bits[self._at : self._at + total]).tobytes())
        self._at += total
        return unpack(data, widths).astype(np.int64)

    def gamma(self, count: int) -> NDArray[np.int64]:
        """`count` Elias gamma numbers."""
        exponent = self.unary(count)
        return np.asarray(self.plain(exponent) + (np.int64(1) << exponent))

    def golomb(self, count: int, shift: int) -> NDArray[np.int64]:
        """`count` Golomb-Rice numbers."""
        quotient = self.unary(count)
        return np.asarray((quotient << shift) + self.plain(np.full(count, shift)))

    def finish(self) -> None:
        """Refuse anything but zero bits up to the next byte."""
        if self._bits.size - self._at > 7 or self._bits[self._at :].any():
            raise CorruptPayload(f"{self._bits.size - self._at} bits are left over")


__all__ = ["BitReader", "gamma", "golomb", "pack", "write_unary"]
