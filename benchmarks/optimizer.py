"""Time and peak memory of one optimizer step, AMGT beside torch's Adam and AdamW.

    python benchmarks/optimizer.py [--quick] [--json] [--plot FILE] [--sizes 100000 1000000] [--threads N]

Every optimizer steps the same float32 tensors, in turns; a time is the least of the rounds, which other work on the
machine disturbs least. Ratios are against Adam with fused=True and with foreach=True. Peak memory is what one step
allocates beyond parameters, gradients and state, in tensors of the largest parameter, read from torch's profiler. 10^8
parameters run where three times their 1.6 GB are free.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from amgt_fed.optimizer import AMGT
from amgt_fed.optimizer.errors import FusedStepUnavailable

Build = Callable[[list[Tensor]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Build] = {
    "Adam": torch.optim.Adam,
    "Adam foreach": partial(torch.optim.Adam, foreach=True),
    "Adam fused": partial(torch.optim.Adam, fused=True),
    "AdamW": torch.optim.AdamW,
    # The defaults' threshold is over after 40 steps; what a step costs while it lasts stands below.
    "AMGT": partial(AMGT, threshold=0.0),
    "AMGT fused": partial(AMGT, threshold=0.0, fused=True),
    "AMGT theta 1": partial(AMGT, threshold=1.0, threshold_steps=0),
    "AMGT theta 1 fused": partial(AMGT, threshold=1.0, threshold_steps=0, fused=True),
}
SECONDS = 6.0  # what the rounds of one row may take together


def tensors(total: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        param = torch.randn(total // count, generator=generator).requires_grad_()
        param.grad = torch.randn(total // count, generator=generator)
        made.append(param)
    return made


def allocated(optimizer: torch.optim.Optimizer, largest: int) -> float:
    """Peak bytes alive during a step above what was alive before it, in tensors of the largest parameter."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        optimizer.step()
    alive = peak = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak / (4 * largest)


def measure(total: int, count: int, names: list[str]) -> dict[str, Any]:
    params = tensors(total, count)
    times: dict[str, list[float]] = {name: [] for name in names}
    memory: dict[str, float] = {}
    # One optimizer's state at a time for the largest: eight would not fit.
    together = total < 50_000_000
    held: dict[str, torch.optim.Optimizer] = {}
    for name in names:
        optimizer = OPTIMIZERS[name](params)
        optimizer.step()
        memory[name] = allocated(optimizer, total // count)
        if together:
            held[name] = optimizer
            continue
        times[name] = [_timed(optimizer) for _ in range(3)]
        del optimizer
    stop = time.perf_counter() + SECONDS
    while held and (time.perf_counter() < stop or len(times[names[0]]) < 8):
        for name, optimizer in held.items():
            times[name].append(_timed(optimizer))
    milliseconds = {name: 1e3 * min(values) for name, values in times.items()}
    return {
        "parameters": total,
        "tensors": count,
        "milliseconds": milliseconds,
        "to_fused_adam": {name: value / milliseconds["Adam fused"] for name, value in milliseconds.items()},
        "to_foreach_adam": {name: value / milliseconds["Adam foreach"] for name, value in milliseconds.items()},
        "peak_in_tensors": memory,
        "rounds": min(map(len, times.values())),
    }


def _timed(optimizer: torch.optim.Optimizer) -> float:
    start = time.perf_counter()
    optimizer.step()
    return time.perf_counter() - start


def free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        lines.append(f"\n{row['parameters']:,} parameters in {row['tensors']} tensors, {row['rounds']} rounds")
        lines.append(f"  {'':<20}{'ms':>10}{'/ fused':>10}{'/ foreach':>11}{'peak, tensors':>15}")
        for name, value in row["milliseconds"].items():
            lines.append(
                f"  {name:<20}{value:>10.3f}{row['to_fused_adam'][name]:>10.2f}{row['to_foreach_adam'][name]:>11.2f}"
                f"{row['peak_in_tensors'][name]:>15.2f}"
            )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 4))
    names = list(rows[0]["milliseconds"])
    for index, name in enumerate(names):
        at = [row + 0.8 * index / len(names) for row in range(len(rows))]
        axis.bar(at, [row["to_fused_adam"][name] for row in rows], 0.8 / len(names), label=name)
    axis.set_xticks([i + 0.4 for i in range(len(rows))], [f"{r['parameters']:.0e}\nin {r['tensors']}" for r in rows])
    axis.set(ylabel="time of a step / fused Adam", yscale="log", xlabel="parameters, tensors")
    axis.axhline(1.25, color="black", linewidth=0.8, linestyle=":")
    axis.legend(fontsize=7, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="time and memory of a step, AMGT beside Adam and AdamW")
    parser.add_argument("--quick", action="store_true", help="10^5 and 10^6 parameters, a second each")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--plot", type=Path, help="write the ratios to this PNG")
    parser.add_argument("--sizes", type=int, nargs="+", help="parameters in all")
    parser.add_argument("--threads", type=int, help="torch's threads; default: its own choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.quick:
        global SECONDS
        SECONDS = 1.0
    names = list(OPTIMIZERS)
    try:
        AMGT([torch.zeros(1)], fused=True)
    except FusedStepUnavailable as error:
        print(f"without the fused AMGT: {error}")
        names = [name for name in names if not (name.startswith("AMGT") and name.endswith("fused"))]
    sizes = arguments.sizes or ([10**5, 10**6] if arguments.quick else [10**5, 10**6, 10**7, 10**8])
    rows = []
    for total in sizes:
        if total >= 50_000_000 and free_bytes() < 3 * 16 * total:
            print(f"{total:,} parameters left out: they need {3 * 16 * total / 1e9:.1f} GB free")
            continue
        rows += [measure(total, count, names) for count in (2, 200)]
    if arguments.plot and rows:
        plot(rows, arguments.plot)
    print(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=1) if arguments.json else table(rows))


if __name__ == "__main__":
    main()
