"""Test accuracy over three decades of learning rates, label noise and batch sizes, for AMGT and six rivals.

    python benchmarks/robustness.py [--quick] [--json] [--plot FILE] [--data-dir DIR] [--workers N]

Prints, for every data set, label noise and batch size, each optimizer's best mean accuracy and its area: the mean
accuracy over the whole grid of rates (log-spaced, so the mean is the normalised area under the curve). "AMGT" runs with
its defaults throughout; so do the rivals. Further settings of AMGT, each fixed over the whole grid, are judged beside
it; only the last has a falling rate. SGD's rates are ten times the others', where its own optimum lies. With --data-dir
(or AMGT_DATA) Fashion-MNIST, read from DIR/fashion_mnist, joins digits.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from amgt_fed.optimizer import AMGT

NAME = "AMGT"
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AMGT": AMGT,
    "AMGT no threshold": lambda params, lr: AMGT(params, lr, threshold=0.0),
    "AMGT kappa .1 gamma 0": lambda params, lr: AMGT(params, lr, kappa=0.1, gamma=0.0),
    "AMGT decay .01": lambda params, lr: AMGT(params, lr, lr_decay=0.01),
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "AMSGrad": lambda params, lr: torch.optim.Adam(params, lr, amsgrad=True),
    "RAdam": torch.optim.RAdam,
    "NAdam": torch.optim.NAdam,
    "SGD": lambda params, lr: torch.optim.SGD(params, 10 * lr, momentum=0.9),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One training run of the grid."""

    data: str
    optimizer: str
    lr: float
    label_noise: float
    batch_size: int
    seed: int
    epochs: int
    data_dir: str | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """Images (n, 1, h, w) in [0, 1] and labels (n,)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load_digits_split() -> Split:
    x, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    train, test = order[:1297], order[1297:]
    return Split(images[train], labels[train], images[test], labels[test])


def load_fashion(directory: Path) -> Split:
    """Read the idx files; the first 6,000 training and 2,000 test images keep the grid affordable."""

    def read(name: str, header: int, count: int, width: int) -> Tensor:
        with gzip.open(directory / "fashion_mnist" / name) as file:
            raw = np.frombuffer(file.read(header + count * width)[header:], dtype=np.uint8)
        return torch.from_numpy(raw.copy())

    def images(name: str, count: int) -> Tensor:
        pixels = read(name, 16, count, 784).view(-1, 1, 28, 28).float() / 255
        return nn.functional.avg_pool2d(pixels, 2)  # 14 x 14

    return Split(
        images("train-images-idx3-ubyte.gz", 6000),
        read("train-labels-idx1-ubyte.gz", 8, 6000, 1).long(),
        images("t10k-images-idx3-ubyte.gz", 2000),
        read("t10k-labels-idx1-ubyte.gz", 8, 2000, 1).long(),
    )


_LOADED: dict[str, Split] = {}


def split_of(run: Run) -> Split:
    if run.data not in _LOADED:
        _LOADED[run.data] = load_digits_split() if run.data == "digits" else load_fashion(Path(run.data_dir or ""))
    return _LOADED[run.data]


def small_cnn(side: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (side // 2) ** 2, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def accuracy_of(run: Run, build: Callable[..., torch.optim.Optimizer] | None = None) -> float:
    """Train one network and give its test accuracy after the last epoch."""
    split = split_of(run)
    torch.manual_seed(run.seed)
    rng = torch.Generator().manual_seed(run.seed)
    labels = split.train_y.clone()
    wrong = torch.rand(len(labels), generator=rng) < run.label_noise
    labels[wrong] = torch.randint(0, 10, (int(wrong.sum()),), generator=rng)
    model = small_cnn(split.train_x.shape[-1])
    optimizer = (build or OPTIMIZERS[run.optimizer])(model.parameters(), lr=run.lr)
    for _ in range(run.epochs):
        for batch in torch.randperm(len(labels), generator=rng).split(run.batch_size):
            loss = nn.functional.cross_entropy(model(split.train_x[batch]), labels[batch])
            if not torch.isfinite(loss):
                return 0.1  # diverged: no better than a guess, whatever the weights are
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return float((model(split.test_x).argmax(1) == split.test_y).float().mean())


def one_thread() -> None:
    torch.set_num_threads(1)


def run_all(runs: list[Run], workers: int | None) -> dict[Run, float]:
    with ProcessPoolExecutor(
        workers or os.cpu_count(), mp_context=get_context("spawn"), initializer=one_thread
    ) as pool:
        return dict(zip(runs, pool.map(accuracy_of, runs, chunksize=8), strict=True))


def grid(quick: bool, data_dir: str | None) -> list[Run]:
    rates = np.logspace(-4, -1, 4 if quick else 7)
    base = Run("digits", "", 0, 0, 32, 0, epochs=3 if quick else 4)
    bases = [base] if quick else [base, replace(base, batch_size=128)]
    if data_dir is not None:
        bases.append(replace(base, data="fashion", data_dir=data_dir, batch_size=64, epochs=1 if quick else 3))
    return [
        replace(b, optimizer=name, lr=float(lr), label_noise=noise, seed=seed)
        for b in bases
        for noise in (0.0, 0.3)
        for name in OPTIMIZERS
        for lr in rates
        for seed in range(2 if quick else 5)
    ]


CELL = ("data", "label_noise", "batch_size")


def cell_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in CELL)


def summarise(results: dict[Run, float]) -> list[dict[str, Any]]:
    """One row for each data set, noise, batch size and optimizer."""
    rows = []
    cells = dict.fromkeys((r.data, r.label_noise, r.batch_size, r.optimizer) for r in results)
    for data, noise, batch_size, name in cells:
        cell = (data, noise, batch_size, name)
        mine = {r: a for r, a in results.items() if (r.data, r.label_noise, r.batch_size, r.optimizer) == cell}
        rates = sorted({r.lr for r in mine})
        curve = [fmean(a for r, a in mine.items() if r.lr == lr) for lr in rates]
        areas = [fmean(a for r, a in mine.items() if r.seed == seed) for seed in sorted({r.seed for r in mine})]
        rows.append(
            {
                "data": data,
                "label_noise": noise,
                "batch_size": batch_size,
                "optimizer": name,
                "rates": rates,
                "accuracy": curve,
                "best": max(curve),
                "best_rate": rates[curve.index(max(curve))],
                "area": fmean(areas),
                "area_spread": stdev(areas) if len(areas) > 1 else 0.0,
            }
        )
    return rows


def verdicts(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Does a setting of AMGT meet the two targets in a cell? One entry for each cell and setting."""
    rows, found = list(rows), []
    for key in dict.fromkeys(cell_of(r) for r in rows):
        cell = [r for r in rows if cell_of(r) == key]
        rivals = [r for r in cell if not r["optimizer"].startswith(NAME)]
        best, area = max(rivals, key=lambda r: r["best"]), max(rivals, key=lambda r: r["area"])
        for ours in (r for r in cell if r["optimizer"].startswith(NAME)):
            found.append(
                {
                    **{name: ours[name] for name in CELL},
                    "optimizer": ours["optimizer"],
                    "best_gap": ours["best"] - best["best"],
                    "best_rival": best["optimizer"],
                    "best_within_0.3_pt": ours["best"] >= best["best"] - 0.003,
                    "area_gap": ours["area"] - area["area"],
                    "area_rival": area["optimizer"],
                    "area_above_every_rival": ours["area"] > area["area"],
                }
            )
    return found


def table(rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    lines = []
    for key in dict.fromkeys(cell_of(r) for r in rows):
        lines.append(f"\n{key[0]}, {key[1]:.0%} wrong labels, batches of {key[2]}")
        lines.append(f"  {'optimizer':<24}{'best':>7}{'at rate':>10}{'area':>8}{'+-':>7}   accuracy at each rate")
        for r in sorted((r for r in rows if cell_of(r) == key), key=lambda r: -r["area"]):
            curve = " ".join(f"{100 * a:5.1f}" for a in r["accuracy"])
            lines.append(
                f"  {r['optimizer']:<24}{100 * r['best']:>7.2f}{r['best_rate']:>10.1e}{100 * r['area']:>8.2f}"
                f"{100 * r['area_spread']:>7.2f}   {curve}"
            )
        for v in (v for v in found if cell_of(v) == key):
            lines.append(
                f"  {v['optimizer']}: best {100 * v['best_gap']:+.2f} pt against {v['best_rival']} "
                f"({'within' if v['best_within_0.3_pt'] else 'NOT within'} 0.3); area {100 * v['area_gap']:+.2f} pt "
                f"against {v['area_rival']} ({'above' if v['area_above_every_rival'] else 'NOT above'} every rival)"
            )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = list(dict.fromkeys(cell_of(r) for r in rows))
    figure, axes = pyplot.subplots(-(-len(cells) // 2), 2, figsize=(10, 3.4 * -(-len(cells) // 2)), squeeze=False)
    for axis, cell in zip(axes.flat, cells, strict=False):
        for r in rows:
            if cell_of(r) == cell:
                ours = r["optimizer"].startswith(NAME)
                style = {"linewidth": 2.2 if r["optimizer"] == NAME else 1.2, "linestyle": "-" if ours else "--"}
                axis.semilogx(r["rates"], r["accuracy"], label=r["optimizer"], **style)
        axis.set(title=f"{cell[0]}, {cell[1]:.0%} wrong labels, batch {cell[2]}", xlabel="rate", ylabel="test accuracy")
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="accuracy over learning rates, AMGT beside six optimizers")
    parser.add_argument("--quick", action="store_true", help="four rates, two seeds, three epochs, one batch size")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--plot", type=Path, help="write the curves to this PNG")
    parser.add_argument(
        "--data-dir", default=os.environ.get("AMGT_DATA"), help="holds fashion_mnist/; default AMGT_DATA"
    )
    parser.add_argument("--workers", type=int, help="processes; default: one for each core")
    arguments = parser.parse_args()
    runs = grid(arguments.quick, arguments.data_dir)
    start = time.perf_counter()
    rows = summarise(run_all(runs, arguments.workers))
    found, seconds = verdicts(rows), time.perf_counter() - start
    if arguments.plot:
        plot(rows, arguments.plot)
    if arguments.json:
        print(json.dumps({"runs": len(runs), "seconds": seconds, "rows": rows, "verdicts": found}, indent=1))
    else:
        print(f"{len(runs)} runs in {seconds:.0f} s" + table(rows, found))


if __name__ == "__main__":
    main()
