"""Every codec on real updates and synthetic vectors: bits, error, speed, memory. `python benchmarks/codec.py`.

--json FILE   write all rows; --quick: one net, one stage; --plot FILE: rate-distortion curves (SVG or PNG).

Five nets are trained here by SGD and by AMGT, and give an update early, midway and late; three synthetic vectors have
no structure. SZ3 and ZFP are rows where pysz and zfpy are installed. The last table asks every tensor of every update,
by itself, whether the pipeline ever takes more than the plain dead zone.
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
from codec_outside import Outside, outside
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
    """One row; times are the better of two, memory is numpy's peak beyond the update and the sum, in models."""
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
    encode_peak = tracemalloc.get_traced_memory()[1]
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    decode_into(encoded.payload, update.layout, out, 1.0)
    decode_peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    size = 4 * update.layout.size
    label = codec + "".join(f" {value}" for value in parameters.values())
    row = _row(update, label, encoded.nmse, len(encoded.payload), encode_s, decode_s)
    row |= {"encode_memory_models": encode_peak / size, "decode_memory_models": decode_peak / size}
    return row | {"asked_nmse": budget.nmse if budget else None}


def measure_outside(update: Update, codec: Outside, nmse: float) -> dict[str, Any]:
    """The same of another library's codec; its memory is not numpy's and is not seen."""
    bound = codec.widest(update.vector, nmse)
    encode_s = decode_s = math.inf
    for _ in range(2):
        start = time.perf_counter()
        data = codec.compress(update.vector, bound)
        encode_s = min(encode_s, time.perf_counter() - start)
        start = time.perf_counter()
        back = codec.decompress(data, update.layout.size)
        decode_s = min(decode_s, time.perf_counter() - start)
    lost, all_of_it = back.astype(np.float64) - update.vector, update.vector.astype(np.float64)
    reached = float(np.dot(lost, lost) / np.dot(all_of_it, all_of_it))
    return _row(update, codec.name, reached, len(data), encode_s, decode_s) | {"asked_nmse": nmse}


def _row(update: Update, codec: str, nmse: float, size: int, encode_s: float, decode_s: float) -> dict[str, Any]:
    whole = 4 * update.layout.size
    return {
        "update": update.name,
        "parameters": update.layout.size,
        "codec": codec,
        "nmse": nmse,
        "asked_nmse": None,
        "bytes": size,
        "bits": 8 * size / update.layout.size,
        "encode_gb_s": whole / encode_s / 1e9,
        "decode_gb_s": whole / decode_s / 1e9,
        "encode_memory_models": None,
        "decode_memory_models": None,
    }


def against_dead_zone(update: Update) -> Iterator[dict[str, Any]]:
    """Bytes of every tensor by itself, by the pipeline and by the plain dead zone."""
    for segment, values in update.layout.views(update.vector):
        if not values.any():
            continue
        alone = Layout.from_shapes({segment.name: segment.shape})
        for nmse in ERRORS:
            mine, plain = (
                len(get_codec(name).encode(values.copy(), alone, RelativeError(nmse)).payload)
                for name in ("amgt", "deadzone")
            )
            yield {"update": update.name, "tensor": segment.name, "shape": list(segment.shape), "asked_nmse": nmse,
                   "amgt_bytes": mine, "deadzone_bytes": plain}  # fmt: skip


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
    others, missing = outside()
    for package in missing:
        print(f"{package} is not installed: its rows are left out (pip install {package})")
    for update in updates:
        for nmse in ERRORS:
            for codec in ("amgt", "deadzone", "unbiased"):
                yield measure(update, codec, {}, RelativeError(nmse))
            for other in others:
                yield measure_outside(update, other, nmse)
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
    names = list(dict.fromkeys(row["update"] for row in rows))
    for name in [n for n in names if n.endswith("middle")] or names[:1]:
        print(f"\n## All codecs on {name}\n")
        print("| codec | bits | nmse | encode GB/s | decode GB/s | memory of encoding, models | of decoding |")
        print("|---" * 7 + "|")
        for row in rows:
            if row["update"] == name and "bytes" in row:
                memory = [f"{row[k]:.1f}" if row.get(k) is not None else "not seen" for k in
                          ("encode_memory_models", "decode_memory_models")]  # fmt: skip
                print(f"| {row['codec']} | {row['bits']:.4f} | {row['nmse']:.4f} | {row['encode_gb_s']:.3f} | "
                      f"{row['decode_gb_s']:.3f} | {' | '.join(memory)} |")  # fmt: skip


def print_tensors(tensors: list[dict[str, Any]]) -> None:
    print("\n## Bytes of the pipeline over those of the plain dead zone: whole updates' tensors, each by itself\n")
    print("| update | tensors | least | median | most | above 1.01 | the most is of |")
    print("|---" * 7 + "|")
    for name in dict.fromkeys(row["update"] for row in tensors):
        mine = [row for row in tensors if row["update"] == name]
        ratios = [row["amgt_bytes"] / row["deadzone_bytes"] for row in mine]
        worst = mine[int(np.argmax(ratios))]
        print(f"| {name} | {len({row['tensor'] for row in mine})} | {min(ratios):.3f} | {np.median(ratios):.3f} | "
              f"{max(ratios):.3f} | {sum(ratio > 1.01 for ratio in ratios)} of {len(ratios)} | "
              f"{worst['tensor']} at {worst['asked_nmse']}, {worst['amgt_bytes']} bytes |")  # fmt: skip


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "amgt"
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["update"] for row in rows))
    shown = ("cnn-545k/sgd/middle", "cnn-545k/amgt/middle", "lstm/amgt/middle", "transformer/sgd/middle",
             "transformer/amgt/middle", "synthetic/laplace/")  # fmt: skip
    chosen = [n for n in names if n in shown] if len(names) > 6 else names
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
            ("SZ3", "v-"),
            ("order-0 entropy", "k--"),
            ("Gaussian bound", "k:"),
        ):
            # An error of zero, where the dead zone gives up its 127 levels, has no place on a logarithmic axis.
            points = sorted((r["bits"], r["nmse"]) for r in mine if r["codec"] == codec and r["nmse"] > 0)
            if not points:
                continue
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
    rows = list(rows_of(updates))
    tensors = [row for update in updates for row in against_dead_zone(update)]
    if arguments.json:
        arguments.json.write_text(json.dumps({"codecs": rows, "tensors": tensors}, indent=1) + "\n")
    print_tables(rows)
    print_tensors(tensors)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
