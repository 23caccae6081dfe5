"""The codec's speed and memory, in numpy and with the C kernel. `python benchmarks/codec_speed.py`.

10^7 Laplace values at 1 % and 5 % survivors; and a CNN's real updates with low-rank terms, beside one epoch of that
CNN over 1,797 digits. One thread. GB/s are of float32; every time is the best of several, beside a copy of the vector
in the same run. Memory is numpy's peak beyond the update, in updates.

--json FILE   write all rows
"""

from __future__ import annotations

import argparse
import json
import math
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codec_updates import NETS, OPTIMIZERS, Update, make_updates, train

from amgt_fed.codec import Budget, Encoded, Layout, RelativeError, decode, encode
from amgt_fed.codec.native import use_kernel
from amgt_fed.layout import Float32Vector

SIZE = 10_000_000
# Of a Laplace vector: the survivors' share and the error that leaves it.
SHARES = ((0.01, 0.845), (0.05, 0.58))
REPEATS = 9


def best_of(work: Callable[[], object], repeats: int = REPEATS) -> float:
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(vector: Float32Vector, layout: Layout, budget: Budget, *, kernel: bool, warm: bool) -> dict[str, Any]:
    """One row. Encoding includes the exact error and the residual, which is left in the vector's place."""
    left = vector.copy()
    with use_kernel(kernel) as used:
        if used != kernel:
            raise SystemExit("no C compiler: the kernel cannot be measured")
        encoded = encode(vector, layout, budget)
        state = encoded.state if warm else None

        def round_trip() -> None:
            encode(vector, layout, budget, state=state).subtract_from_(left)

        encode_s = best_of(round_trip)
        decode_s = best_of(lambda: decode(encoded.payload, layout))
        again = encode(vector, layout, budget, state=state)
        peak = peak_of(lambda: encode(vector, layout, budget, state=state))
    size = 4 * vector.size
    copy_s = best_of(vector.copy)
    return {
        "way": "C kernel" if kernel else "numpy",
        "state": "known" if warm else "none",
        "nmse": again.nmse,
        "survivors": survivors(again, layout),
        "bytes": len(again.payload),
        "encode_ms": 1e3 * encode_s,
        "encode_gb_s": size / encode_s / 1e9,
        "decode_gb_s": size / decode_s / 1e9,
        "encode_in_copies": encode_s / copy_s,
        "copy_gb_s": size / copy_s / 1e9,
        "memory_updates": peak / size,
    }


def survivors(encoded: Encoded, layout: Layout) -> float | None:
    """Their share; None where low-rank terms leave hardly a zero."""
    if any(tensor.rank for tensor in encoded.tensors):
        return None
    return sum(tensor.nonzero for tensor in encoded.tensors) / layout.size


def epoch_seconds(update: Update) -> float:
    """One epoch of the update's net over the digits, 1,797 examples in batches of 32."""
    build, load = NETS[update.net]
    torch.manual_seed(1)
    module = build()
    optimizer = OPTIMIZERS[update.optimizer](module)
    return best_of(lambda: train(module, optimizer, load(), 1), 3)


def rows() -> list[dict[str, Any]]:
    laplace = np.random.default_rng(0).laplace(size=SIZE).astype(np.float32)
    layout = Layout.from_shapes({"x": (SIZE,)})
    out = []
    for share, nmse in SHARES:
        for kernel in (False, True):
            row = measure(laplace, layout, RelativeError(nmse), kernel=kernel, warm=False)
            out.append({"update": f"laplace, {share:.0%}", **row})
    for update in make_updates(("cnn-545k",), ("sgd", "amgt")):
        if update.stage != "middle":
            continue
        epoch_s = epoch_seconds(update)
        for nmse in (0.3, 0.1, 0.01):
            for kernel, warm in ((False, False), (True, False), (True, True)):
                row = measure(update.vector, update.layout, RelativeError(nmse), kernel=kernel, warm=warm)
                row["epoch_share"] = row["encode_ms"] / 1e3 / epoch_s
                out.append({"update": update.name, **row})
    return out


def show(table: list[dict[str, Any]]) -> None:
    print("| update | nmse | way | state | encode GB/s | in copies | decode GB/s | memory, updates | of an epoch |")
    print("|---" * 9 + "|")
    for row in table:
        share = f"{row['epoch_share']:.1%}" if "epoch_share" in row else ""
        print(
            f"| {row['update']} | {row['nmse']:.3f} | {row['way']} | {row['state']} | {row['encode_gb_s']:.3f} | "
            f"{row['encode_in_copies']:.1f} | {row['decode_gb_s']:.2f} | {row['memory_updates']:.2f} | {share} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = rows()
    show(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
