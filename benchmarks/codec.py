"""Every codec on real updates and synthetic vectors: bits, error, speed, memory. `python benchmarks/codec.py`.

--json FILE   write all rows; --quick: two nets, one stage; --plot FILE: rate-distortion curves (SVG or PNG).
"""

from __future__ import annotations

import argparse
import json
import math
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from codec_updates import NETS, Update, make_updates

from amgt_fed.codec import ImpossibleBudget, Layout, RelativeError, decode_into, get_codec
from amgt_fed.layout import Float32Vector

ERRORS = (0.7, 0.3, 0.1, 0.03, 0.01)
FIXED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dense", {}), ("float16", {}), ("int8", {}), ("qsgd", {"levels": 7}), ("qsgd", {"levels": 127}),
    ("topk", {"fraction": 0.01}), ("stc", {"fraction": 0.01}), ("sign", {}),
    ("eden", {"bits": 1}), ("eden", {"bits": 2}), ("eden", {"bits": 4}),
    ("powersgd", {"rank": 1}), ("powersgd", {"rank": 4}),
)  # fmt: skip


def synthetic(size: int) -> Iterator[Update]:
    rng = np.random.default_rng(0)
    layout = Layout.from_shapes({"x": (size,)})
    for name, values in (
        ("gaussian", rng.standard_normal(size)),
        ("laplace", rng.laplace(size=size)),
        ("heavy-tailed", rng.standard_t(2.5, size)),
    ):
        yield Update("synthetic", name, "", layout, values.astype(np.float32))


def measure(update: Update, codec: str, parameters: dict[str, Any], budget: RelativeError | None) -> dict[str, Any]:
    """One row; times are the better of two, memory is numpy's peak beyond the update, in models."""
    made = get_codec(codec, **parameters)
    encode_s = decode_s = math.inf
    for _ in range(2):
        start = time.perf_counter()
        encoded = made.encode(update.vector, update.layout, budget)
        encode_s = min(encode_s, time.perf_counter() - start)
        out = np.zeros(update.layout.size)
        start = time.perf_counter()
        decode_into(encoded.payload, update.layout, out, 1.0)
        decode_s = min(decode_s, time.perf_counter() - start)
    tracemalloc.start()
    made.encode(update.vector, update.layout, budget)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = 4 * update.layout.size
    label = codec + "".join(f" {value}" for value in parameters.values())
    return {
        "update": update.name,
        "codec": label,
        "nmse": encoded.nmse,
        "asked_nmse": budget.nmse if budget else None,
        "bytes": len(encoded.payload),
        "bits": encoded.bits_per_parameter,
        "encode_gb_s": size / encode_s / 1e9,
        "decode_gb_s": size / decode_s / 1e9,
        "encode_memory_models": peak / size,
    }


def entropy_at(vector: Float32Vector, nmse: float) -> float:
    """The least order-0 entropy, in bits a value, of a dead-zone quantizer with centroids at this error."""
    magnitude = np.abs(vector).astype(np.float64)
    energy = float(np.dot(magnitude, magnitude))
    best = math.inf
    for threshold in (0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9):
        low, high = 1e-4 * magnitude.max(), 2 * magnitude.max()
        bits = math.inf
        for _ in range(22):
            step = math.sqrt(low * high)
            scaled = magnitude / step
            levels = np.where(scaled < threshold, 0, np.maximum(1, np.floor(scaled + 0.45))).astype(np.int64)
            counts = np.bincount(levels)
            centroids = np.bincount(levels, magnitude) / np.maximum(counts, 1)
            centroids[0] = 0
            lost = magnitude - centroids[levels]
            if float(np.dot(lost, lost)) > nmse * energy:
                high = step
            else:
                low = step
                share = counts[counts > 0] / magnitude.size
                bits = float(-(share * np.log2(share)).sum()) + 1 - counts[0] / magnitude.size
        best = min(best, bits)
    return best


def rows_of(updates: Iterable[Update]) -> Iterator[dict[str, Any]]:
    for update in updates:
        for nmse in ERRORS:
            for codec in ("amgt", "deadzone", "unbiased"):
                yield measure(update, codec, {}, RelativeError(nmse))
            bound = {"update": update.name, "asked_nmse": nmse, "nmse": nmse}
            yield bound | {"codec": "order-0 entropy", "bits": entropy_at(update.vector, nmse)}
            yield bound | {"codec": "Gaussian bound", "bits": 0.5 * math.log2(1 / nmse)}
        for codec, parameters in FIXED:
            try:
                yield measure(update, codec, parameters, None)
            except ImpossibleBudget as error:
                print(f"{update.name}: {codec}: {error}")


def best_peer(rows: list[dict[str, Any]], update: str, nmse: float) -> dict[str, Any]:
    """The peer of fewest bits that is at least as accurate; the plain dead zone among them."""
    peers = [
        row for row in rows
        if row["update"] == update and row["nmse"] <= nmse
        and row["codec"] not in ("amgt", "unbiased", "order-0 entropy", "Gaussian bound")
    ]  # fmt: skip
    return min(peers, key=lambda row: row["bits"])


def print_tables(rows: list[dict[str, Any]]) -> None:
    print("\n## Bits per parameter at an error; x: times fewer than the best peer, the plain dead zone included\n")
    print("| update | " + " | ".join(f"nmse {nmse}" for nmse in ERRORS) + " |")
    print("|---" * (len(ERRORS) + 1) + "|")
    for update in dict.fromkeys(row["update"] for row in rows):
        cells = []
        for nmse in ERRORS:
            mine = next(r for r in rows if (r["update"], r["codec"], r["asked_nmse"]) == (update, "amgt", nmse))
            peer = best_peer(rows, update, nmse)
            cells.append(f"{mine['bits']:.4f} ({peer['bits'] / mine['bits']:.1f}x {peer['codec']})")
        print(f"| {update} | " + " | ".join(cells) + " |")
    print("\n## All codecs on the first update\n")
    print("| codec | bits | nmse | encode GB/s | decode GB/s | memory, models |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        if row["update"] == rows[0]["update"] and "bytes" in row:
            print(f"| {row['codec']} | {row['bits']:.4f} | {row['nmse']:.4f} | {row['encode_gb_s']:.3f} | "
                  f"{row['decode_gb_s']:.3f} | {row['encode_memory_models']:.1f} |")  # fmt: skip


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "amgt"
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["update"] for row in rows))
    chosen = [n for n in names if n.endswith(("middle", "laplace/"))][:6] or names[:6]
    lines = -(-len(chosen) // 3)
    figure, axes = plt.subplots(lines, 3, figsize=(13, 3.75 * lines), squeeze=False)
    for axis in axes.flat[len(chosen) :]:
        axis.remove()
    for axis, name in zip(axes.flat, chosen, strict=False):
        mine = [row for row in rows if row["update"] == name]
        for codec, style in (
            ("amgt", "o-"),
            ("deadzone", "s-"),
            ("unbiased", "^-"),
            ("order-0 entropy", "k--"),
            ("Gaussian bound", "k:"),
        ):
            points = sorted((r["bits"], r["nmse"]) for r in mine if r["codec"] == codec)
            axis.loglog(*zip(*points, strict=True), style, label=codec, markersize=4)
        for row in mine:
            if row["asked_nmse"] is None and 1e-4 < row["nmse"] < 1:
                axis.plot(row["bits"], row["nmse"], "x", color="grey")
                axis.annotate(row["codec"], (row["bits"], row["nmse"]), fontsize=6)
        axis.set(title=name, xlabel="bits per parameter", ylabel="normalised squared error")
    axes.flat[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--nets", nargs="+", choices=tuple(NETS), default=list(NETS))
    arguments = parser.parse_args()
    if arguments.quick:
        updates = [u for u in make_updates(("cnn-151k",)) if u.stage == "middle"]
        updates += list(synthetic(1 << 16))
    else:
        updates = [*make_updates(tuple(arguments.nets)), *synthetic(1 << 20)]
    rows: list[dict[str, Any]] = []
    for row in rows_of(updates):
        rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print_tables(rows)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
