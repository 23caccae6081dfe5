"""What contexts would save on top of low-rank terms: `python benchmarks/codec_contexts.py`.

Both ends know more than the tables of a payload say: how many survivors each row and column had so far, whether the
neighbours above and to the left survived, the low-rank part at that place, and the last global step. Survivors and
levels of real payloads are counted again, as an adaptive binary (and level) coder with such contexts would pay for
them, learning included (Krichevsky-Trofimov), and only in the tensors where that pays. The coder itself is taken to be
perfect, and the last step to be known without error, so these are upper bounds on the gain.

The same is asked of the factors, most of a payload: a number's context is how large the earlier terms were in its row
(or column). The last column is the share of an update's energy that the last step explains, one factor a tensor.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
import torch
from codec_updates import NETS, OPTIMIZERS, client, digits, flatten, layout_of, train
from numpy.typing import NDArray

from amgt_fed.codec import RelativeError, encode
from amgt_fed.codec.body import PIPELINE, TensorLevels
from amgt_fed.codec.frame import FRAME_BYTES
from amgt_fed.codec.reader import read
from amgt_fed.codec.symbols import SYMBOLS, WIDTH, gap_symbols, level_symbols
from amgt_fed.codec.tables import gap_book, level_book
from amgt_fed.codec.tensor import matrix_shape
from amgt_fed.layout import Float32Vector, Layout

CLIENTS, ROUNDS = 4, 6
KNOWN = ("rows and columns", "last step", "both")
_LEARN = 8.0  # positions before a row's own share outweighs the tensor's
_ACTIVITY, _SIZES = 12, 8

_log2_gamma = np.vectorize(lambda x: math.lgamma(x) / math.log(2))


@dataclass(frozen=True, slots=True)
class Source:
    """An update, and the global step of the round before it."""

    name: str
    layout: Layout
    update: Float32Vector
    step: Float32Vector


def sources(nets: tuple[str, ...]) -> list[Source]:
    """One client's update in the last of a few rounds of federated averaging."""
    made = []
    for net in nets:
        build, load = NETS[net]
        data = load()
        for optimizer in ("sgd", "amgt"):
            torch.manual_seed(1)
            module = build()
            step = update = np.zeros(0, np.float32)
            for _ in range(ROUNDS):
                before = flatten(module)
                kept = {k: v.clone() for k, v in module.state_dict().items()}
                updates = []
                for number in range(CLIENTS):
                    module.load_state_dict(kept)
                    train(module, OPTIMIZERS[optimizer](module), client(data, number, non_iid=load is digits), 2)
                    updates.append(before - flatten(module))
                last, step, update = step, np.mean(updates, axis=0, dtype=np.float32), updates[0]
                module.load_state_dict(kept)
                after, at = torch.from_numpy(before - step), 0
                with torch.no_grad():
                    for parameter in module.parameters():
                        parameter.copy_(after[at : at + parameter.numel()].view_as(parameter))
                        at += parameter.numel()
            made.append(Source(f"{net}/{optimizer}", layout_of(module), update, last))
    return made


def adaptive_bits(counts: NDArray[np.int64]) -> float:
    """Krichevsky-Trofimov's cost of sequences with these counts, shape (contexts, symbols), each learned by itself."""
    counts = counts[counts.sum(axis=1) > 0]
    symbols = counts.shape[1]
    each = _log2_gamma(counts + 0.5).sum(axis=1) - symbols * float(_log2_gamma(0.5))
    whole = _log2_gamma(counts.sum(axis=1) + 0.5 * symbols) - float(_log2_gamma(0.5 * symbols))
    return float((whole - each).sum())


def activity(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Class of every place from survivors before it: its row's and its column's share, and two neighbours."""
    rows, columns = mask.shape
    share = max(mask.mean(), 1e-6)
    ones = mask.astype(np.float64)
    left = (np.cumsum(ones, axis=1) - ones + _LEARN * share) / (np.arange(columns) + _LEARN)
    above = (np.cumsum(ones, axis=0) - ones + _LEARN * share) / (np.arange(rows)[:, None] + _LEARN)
    score = np.log2(left / share) + np.log2(above / share)
    near = np.zeros(mask.shape, np.int64)
    near[:, 1:] += mask[:, :-1]
    near[1:] += 2 * mask[:-1].astype(np.int64)
    return np.asarray(4 * np.clip(np.round(score * 1.5) + 6, 0, _ACTIVITY - 1).astype(np.int64) + near)


def sizes(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Class of every place from a magnitude that both ends know: octaves about the tensor's root mean square."""
    scale = math.sqrt(float(np.square(values, dtype=np.float64).mean()))
    if scale == 0:
        return np.zeros(values.shape, np.int64)
    octave = np.log2(np.maximum(np.abs(values), 1e-30) / scale)
    return np.asarray(np.clip(np.round(octave) + 5, 0, _SIZES - 1), np.int64)


def recounted(tensor: TensorLevels, shape: tuple[int, ...], last: Float32Vector) -> tuple[float, dict[str, float]]:
    """Bits of one tensor's gaps and levels, by the tables and with each kind of context (never above the tables)."""
    gaps, gap_counts = gap_symbols(tensor.indices)
    levels, level_counts = level_symbols(tensor.levels)
    now = sum(
        float(book.best(counts[None])[1][0]) + float(counts @ WIDTH)
        for book, counts in ((gap_book(), gap_counts), (level_book(), level_counts))
    )
    del gaps
    sides = matrix_shape(shape) or (1, math.prod(shape))
    mask = np.zeros(sides, np.bool_)
    mask.reshape(-1)[tensor.indices] = True
    around, step = activity(mask).reshape(-1), sizes(last)
    if tensor.factors is not None:
        base = np.concatenate([block.reshape(-1) for _, block in tensor.factors.blocks(sides[0])])
        around = around * _SIZES + sizes(base)
    bits = {}
    for name, context in zip(KNOWN, (around, step, around * _SIZES + step), strict=True):
        classes = np.unique(context, return_inverse=True)[1]
        number = int(classes.max()) + 1
        survived = np.bincount(classes[tensor.indices], minlength=number)
        places = np.stack([np.bincount(classes, minlength=number) - survived, survived], axis=1)
        table = np.zeros((number, SYMBOLS), np.int64)
        np.add.at(table, (classes[tensor.indices], levels.astype(np.int64)), 1)
        used = max(2, int(levels.max()) + 1)
        level_bits = min(adaptive_bits(table[:, :used]), adaptive_bits(level_counts[None, :used]))
        with_context = adaptive_bits(places) + level_bits + float(level_counts @ WIDTH)
        bits[name] = min(now, with_context)
    return now, bits


def factors_recounted(tensor: TensorLevels) -> tuple[float, float]:
    """Bits of one tensor's factors, by the tables, and with contexts wherever that pays."""
    now = best = 0.0
    if tensor.factors is None:
        return now, best
    for side in (tensor.factors.left, tensor.factors.right):
        so_far = np.zeros(side.shape[1])
        table = np.zeros((_SIZES, SYMBOLS), np.int64)
        here = plain = 0.0
        for row in np.asarray(side, np.int64):
            symbols, counts = level_symbols(np.where(row == 0, 1, np.abs(row) + 1))
            here += float(level_book().best(counts[None])[1][0]) + 8
            plain += float(counts @ WIDTH) + float((row != 0).sum())
            context = sizes(np.sqrt(so_far)) if so_far.any() else np.zeros(row.size, np.int64)
            np.add.at(table, (context, symbols.astype(np.int64)), 1)
            so_far += row**2 / max(1.0, float(np.square(row, dtype=np.float64).mean()))
        used = max(2, int(np.flatnonzero(table.sum(axis=0)).max(initial=0)) + 1)
        now += here + plain
        best += min(here, adaptive_bits(table[:, :used])) + plain
    return now, best


def explained(source: Source) -> float:
    """Share of the update's energy that the last step explains, one factor for each tensor."""
    total = gain = 0.0
    for (_, x), (_, g) in zip(source.layout.views(source.update), source.layout.views(source.step), strict=True):
        a, b = x.astype(np.float64), g.astype(np.float64)
        total += float(a @ a)
        gain += float(a @ b) ** 2 / float(b @ b) if b.any() else 0.0
    return gain / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", choices=tuple(NETS), default=["cnn-151k", "mlp", "lstm", "transformer"])
    arguments = parser.parse_args()
    print("| update | nmse | bits a parameter | of it gaps and levels | " + " | ".join(f"saved: {k}" for k in KNOWN)
          + " | of it factors | saved: factors | explained by the last step |\n" + "|---" * 10 + "|")  # fmt: skip
    for source in sources(tuple(arguments.nets)):
        for nmse in (0.7, 0.3, 0.1, 0.03, 0.01):
            payload = encode(source.update, source.layout, RelativeError(nmse)).payload
            body = memoryview(payload)[FRAME_BYTES:]
            if body[0] != PIPELINE:
                continue
            content = read(body, source.layout)[0]
            now, saved = 0.0, dict.fromkeys(KNOWN, 0.0)
            terms = factor_saving = 0.0
            for tensor, (segment, last) in zip(content.tensors, source.layout.views(source.step), strict=True):
                each, best = factors_recounted(tensor)
                terms += each
                factor_saving += each - best
                if tensor.indices.size:
                    bits, others = recounted(tensor, segment.shape, last)
                    now += bits
                    for name in KNOWN:
                        saved[name] += bits - others[name]
            whole = 8 * len(payload)
            print(f"| {source.name} | {nmse} | {whole / source.layout.size:.4f} | {now / whole:.0%} | "
                  + " | ".join(f"{saved[name] / whole:.1%}" for name in KNOWN)
                  + f" | {terms / whole:.0%} | {factor_saving / whole:.1%} | {explained(source):.1%} |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
