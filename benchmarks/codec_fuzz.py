"""Throw damaged and made-up payloads at every codec's decoder: `python benchmarks/codec_fuzz.py 1000000`.

Each is decoded or refused with CodecError; anything else is printed and fails. Prints the slowest decode, and the
largest memory taken by a sample of the decodes as a multiple of the model.
"""

from __future__ import annotations

import struct
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import numpy as np

from amgt_fed.codec import CodecError, Layout, MaxBytes, codec_names, decode, get_codec
from amgt_fed.codec.frame import FRAME_BYTES

LAYOUT = Layout.from_shapes({"w": (48, 64), "conv": (8, 4, 3, 3), "b": (48,), "s": ()})


def seeds(layout: Layout = LAYOUT) -> list[bytes]:
    """Honest payloads of every codec, several sizes of the library's own."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(layout.size) * rng.exponential(size=layout.size)).astype(np.float32)
    x[:600] += np.outer(rng.standard_normal(20), rng.standard_normal(30)).reshape(-1).astype(np.float32) * 3
    made = []
    for name in codec_names():
        budgets = (
            [MaxBytes(count) for count in (60, 300, 2000, 6000)] if name in ("amgt", "unbiased", "deadzone") else [None]
        )
        made += [get_codec(name).encode(x, layout, budget).payload for budget in budgets]
    made.append(get_codec("amgt").encode(x * np.float32(1e25), layout, MaxBytes(300)).payload)
    return made


def resealed(payload: bytes, layout: Layout = LAYOUT) -> bytes:
    """The payload with a right checksum, so that its body is really read."""
    head, tail = payload[: FRAME_BYTES - 4], payload[FRAME_BYTES:]
    return head + struct.pack("<I", zlib.crc32(tail, zlib.crc32(layout.digest, zlib.crc32(head)))) + tail


def mutations(count: int, seed: int, layout: Layout = LAYOUT) -> Iterator[bytes]:
    """Flipped, cut, spliced, overwritten and random payloads, four in five with a right checksum."""
    rng = np.random.default_rng(seed)
    honest = seeds(layout)
    for _ in range(count):
        payload = bytearray(honest[rng.integers(len(honest))])
        kind = rng.integers(6)
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
        else:
            at = int(rng.integers(FRAME_BYTES, FRAME_BYTES + 12))
            payload[at : at + 1] = bytes([rng.choice([0, 1, 127, 128, 254, 255])])
        whole = bytes(payload)
        yield resealed(whole, layout) if len(whole) >= FRAME_BYTES and rng.random() < 0.8 else whole


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    accepted = refused = broken = 0
    slowest = 0.0
    most = 0
    for place, payload in enumerate(mutations(count, seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)):
        sample = place % 100 == 0
        if sample:
            tracemalloc.start()
        start = time.perf_counter()
        try:
            accepted += bool(np.isfinite(decode(payload, LAYOUT)).all())
        except CodecError:
            refused += 1
        except BaseException as error:
            broken += 1
            print(f"{type(error).__name__}: {error}: {payload.hex()}")
        if sample:
            most = max(most, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        else:
            slowest = max(slowest, time.perf_counter() - start)
    print(f"{count} payloads: {refused} refused, {accepted} decoded, {broken} broken; slowest {slowest * 1e3:.1f} ms, "
          f"most memory {most / 1024:.0f} KiB for a model of {4 * LAYOUT.size / 1024:.0f} KiB")  # fmt: skip
    return 1 if broken or accepted + refused != count else 0


if __name__ == "__main__":
    sys.exit(main())
