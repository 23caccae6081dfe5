"""Throw damaged and made-up payloads at every codec's decoder: `python benchmarks/codec_fuzz.py 1000000`.

The count is shared by the codecs, or is for each of them with --each; --codec NAME: only these. Each payload is decoded
or refused with CodecError; anything else is printed and fails. Work is done in parallel in pieces whose seeds are
their numbers, so that --seed N goes on where --seed 0 of N pieces ended. Printed for each codec: the slowest decode,
confirmed by a second one, and the largest memory a decode took, of a sample, in multiples of a 256 KiB model.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from amgt_fed.codec import CodecError, Layout, MaxBytes, codec_names, decode, get_codec
from amgt_fed.codec.frame import FRAME_BYTES

LAYOUT = Layout.from_shapes({"w": (48, 64), "conv": (8, 4, 3, 3), "b": (48,), "s": ()})
LARGE = Layout.from_shapes({"w": (240, 256), "conv": (32, 14, 3, 3), "b": (63,), "s": ()})
PIECE = 5_000
SAMPLED = 250  # payloads of the large layout in each piece; every one is measured
BUDGETED = ("amgt", "unbiased", "deadzone")
EDGES = (0, 1, 2, 15, 16, 31, 32, 63, 64, 127, 128, 254, 255)


def seeds(layout: Layout = LAYOUT, codecs: Sequence[str] = ()) -> list[bytes]:
    """Honest payloads of these codecs, or of all of them; several sizes of those that take a budget."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(layout.size) * rng.exponential(size=layout.size)).astype(np.float32)
    x[:600] += np.outer(rng.standard_normal(20), rng.standard_normal(30)).reshape(-1).astype(np.float32) * 3
    made = []
    for name in codecs or codec_names():
        counts = [60, 300, 2000, 6000]
        budgets = [MaxBytes(count) for count in counts] if name in BUDGETED else [None]
        made += [get_codec(name).encode(x, layout, budget).payload for budget in budgets]
        if name == "amgt":
            made.append(get_codec(name).encode(x * np.float32(1e25), layout, MaxBytes(300)).payload)
            made.append(get_codec(name).encode(x, layout, MaxBytes(8 * layout.size)).payload)
    return made


def resealed(payload: bytes, layout: Layout = LAYOUT) -> bytes:
    """The payload with a right checksum, so that its body is really read."""
    head, tail = payload[: FRAME_BYTES - 4], payload[FRAME_BYTES:]
    return head + struct.pack("<I", zlib.crc32(tail, zlib.crc32(layout.digest, zlib.crc32(head)))) + tail


def mutations(count: int, seed: int, layout: Layout = LAYOUT, codecs: Sequence[str] = ()) -> Iterator[bytes]:
    """Flipped, cut, spliced, overwritten and random payloads, four in five with a right checksum."""
    rng = np.random.default_rng(seed)
    honest = seeds(layout, codecs)
    for _ in range(count):
        payload = bytearray(honest[rng.integers(len(honest))])
        kind = rng.integers(7)
        if kind == 0:
            for _ in range(rng.integers(1, 4)):
                payload[rng.integers(len(payload))] ^= 1 << rng.integers(8)
        elif kind == 1:
            del payload[rng.integers(len(payload)) :]
        elif kind == 2:
            at = int(rng.integers(FRAME_BYTES, len(payload))) if len(payload) > FRAME_BYTES else 0
            payload[at : at + 4] = rng.bytes(4)
        elif kind == 3:
            other = honest[rng.integers(len(honest))]
            payload[rng.integers(len(payload)) :] = other[rng.integers(len(other)) :]
        elif kind == 4:
            payload[FRAME_BYTES:] = bytes([rng.integers(4)]) + rng.bytes(int(rng.integers(400)))
        elif kind == 5:
            at = int(rng.integers(FRAME_BYTES, FRAME_BYTES + 12))
            payload[at : at + 1] = bytes([rng.choice(EDGES)])
        else:  # a body's head says several things at once that are each at an edge
            for _ in range(rng.integers(2, 6)):
                at = FRAME_BYTES + int(rng.integers(24))
                payload[at : at + 1] = bytes([rng.choice(EDGES)])
        whole = bytes(payload)
        yield resealed(whole, layout) if len(whole) >= FRAME_BYTES and rng.random() < 0.8 else whole


@dataclass(slots=True)
class Tally:
    """What came of one codec's payloads."""

    refused: int = 0
    decoded: int = 0
    broken: int = 0
    slowest_s: float = 0.0
    memory: float = 0.0  # multiples of the model

    def add(self, other: Tally) -> None:
        self.refused += other.refused
        self.decoded += other.decoded
        self.broken += other.broken
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.memory = max(self.memory, other.memory)


def decoded(payload: bytes, layout: Layout, tally: Tally) -> None:
    """Decode one payload and count what came of it."""
    try:
        if not np.isfinite(decode(payload, layout)).all():
            raise AssertionError("decoded to a value that is not finite")
        tally.decoded += 1
    except CodecError:
        tally.refused += 1
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        tally.broken += 1
        print(f"{type(error).__name__}: {error}: {payload.hex()}")


def piece(codec: str, seed: int, count: int) -> Tally:
    """One piece of the work; the same for the same arguments, times apart."""
    tally = Tally()
    for payload in seeds(LARGE, [codec]):
        decode(payload, LARGE)  # what is made once and kept must not be counted
    for payload in mutations(count - min(count, SAMPLED), seed, LAYOUT, [codec]):
        start = time.perf_counter()
        decoded(payload, LAYOUT, tally)
        took = time.perf_counter() - start
        if took > max(tally.slowest_s, 0.002):
            # Whoever else uses the machine slows single decodes: the better of two is the payload's own time.
            start = time.perf_counter()
            decoded(payload, LAYOUT, Tally())
            took = min(took, time.perf_counter() - start)
        tally.slowest_s = max(tally.slowest_s, took)
    tracemalloc.start()
    for payload in mutations(min(count, SAMPLED), seed, LARGE, [codec]):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        decoded(payload, LARGE, tally)
        tally.memory = max(tally.memory, (tracemalloc.get_traced_memory()[1] - before) / (4 * LARGE.size))
    tracemalloc.stop()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--codec", nargs="+", choices=codec_names(), default=list(codec_names()))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    each = arguments.count if arguments.each else -(-arguments.count // len(arguments.codec))
    sizes = [min(PIECE, each - start) for start in range(0, each, PIECE)]
    totals = {name: Tally() for name in arguments.codec}
    with ProcessPoolExecutor(arguments.processes) as pool:
        work = [(name, pool.submit(piece, name, arguments.seed + place, size))
                for place, size in enumerate(sizes) for name in arguments.codec]  # fmt: skip
        for name, result in work:
            totals[name].add(result.result())
    print("| codec | payloads | refused | decoded | broken | slowest, ms | most memory, models |\n" + "|---" * 7 + "|")
    whole = Tally()
    for name, tally in [*totals.items(), ("all", whole)]:
        count = tally.refused + tally.decoded + tally.broken
        print(f"| {name} | {count} | {tally.refused} | {tally.decoded} | {tally.broken} | "
              f"{tally.slowest_s * 1e3:.1f} | {tally.memory:.2f} |")  # fmt: skip
        if name != "all":
            whole.add(tally)
    return 1 if whole.broken or whole.decoded + whole.refused != each * len(totals) else 0


if __name__ == "__main__":
    sys.exit(main())
