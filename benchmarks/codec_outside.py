"""SZ3 (pysz) and ZFP (zfpy) as rows of the codec's benchmark, where they are installed: `pip install pysz zfpy`.

Both bound the error of a value, not of the vector: the widest bound at which the squared error of the whole keeps to
what was asked is found by bisection. Neither is used by the library.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from amgt_fed.layout import Float32Vector

_STEPS = 14


@dataclass(frozen=True, slots=True)
class Outside:
    """A compressor with a bound on each value's error."""

    name: str
    compress: Callable[[Float32Vector, float], bytes]
    decompress: Callable[[bytes, int], Float32Vector]

    def widest(self, update: Float32Vector, nmse: float) -> float:
        """The bound, to 1 %, of the fewest bytes within this normalised squared error."""
        energy = float(np.dot(update.astype(np.float64), update))
        largest = float(np.abs(update).max())
        low, high = math.log(1e-3 * math.sqrt(nmse * energy / update.size)), math.log(2 * largest)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            back = self.decompress(self.compress(update, math.exp(middle)), update.size)
            difference = back.astype(np.float64) - update
            fits = float(np.dot(difference, difference)) <= nmse * energy
            low, high = (middle, high) if fits else (low, middle)
            if high - low < 0.01 and fits:
                break
        return math.exp(low)


def outside() -> tuple[list[Outside], list[str]]:
    """Those that are installed, and the packages that are not."""
    found, missing = [], []
    for package, build in (("pysz", _sz3), ("zfpy", _zfp)):
        if importlib.util.find_spec(package):
            found.append(build())
        else:
            missing.append(package)
    return found, missing


def _sz3() -> Outside:
    pysz = importlib.import_module("pysz")

    def compress(update: Float32Vector, bound: float) -> bytes:
        config = pysz.szConfig()
        config.errorBoundMode = pysz.szErrorBoundMode.ABS
        config.absErrorBound = bound
        return bytes(pysz.sz.compress(update, config)[0])

    def decompress(data: bytes, size: int) -> Float32Vector:
        return np.asarray(pysz.sz.decompress(np.frombuffer(data, np.uint8), np.float32, (size,))[0], np.float32)

    return Outside("SZ3", compress, decompress)


def _zfp() -> Outside:
    zfpy = importlib.import_module("zfpy")

    def compress(update: Float32Vector, bound: float) -> bytes:
        return bytes(zfpy.compress_numpy(update, tolerance=bound))

    def decompress(data: bytes, size: int) -> Float32Vector:
        return np.asarray(zfpy.decompress_numpy(data), np.float32)

    return Outside("ZFP", compress, decompress)
