# ruff: noqa: RUF001 - the paper's symbols stand in texts for people
"""Reddi's counterexample: where Adam ends at the wrong bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import SGD, Adam, RMSprop

from amgt_fed.optimizer import AMGT
from amgt_fed.schedules import InverseTime

from .claims import Claim, Curve, Effort, Figure, Section, Table, judge
from .rivals import Factory


@dataclass(frozen=True, slots=True)
class ReddiRun:
    """Iterates of the counterexample, and the last cycle's range."""

    path: NDArray[np.float64]

    @property
    def low(self) -> float:
        """Smallest x of the last 101 steps."""
        return float(self.path[-101:].min())

    @property
    def high(self) -> float:
        """Largest x of the last 101 steps."""
        return float(self.path[-101:].max())


def run_reddi(make: Factory, cycles: int) -> ReddiRun:
    """Gradient +1010 once in 101 steps, else -10; x in [-1, 1] from 0; rate .01 / (1 + 1e-4 (t - 1)) for all, (10).

    Source: Reddi, Kale, Kumar (2018), "On the convergence of Adam and beyond", section 3.
    """
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    schedule = InverseTime(0.01, 1e-4)
    optimizer = make([x], schedule(1))
    path = np.empty(101 * cycles)
    for t in range(1, path.size + 1):
        optimizer.param_groups[0]["lr"] = schedule(t)
        x.grad = torch.full_like(x, 1010.0 if t % 101 == 1 else -10.0)
        optimizer.step()
        with torch.no_grad():
            path[t - 1] = float(x.clamp_(-1, 1))
    return ReddiRun(path)


def check_reddi(effort: Effort) -> Section:
    """AMGT within .05 of the optimum, -1, where Adam ends at the wrong bound, +1."""
    betas = (0.9, 0.99)
    makes: dict[str, Factory] = {
        "AMGT, γ = 1": lambda params, lr: AMGT(params, lr=lr, betas=betas, gamma=1.0),
        "AMGT, default γ": lambda params, lr: AMGT(params, lr=lr, betas=betas),
        "Adam": lambda params, lr: Adam(params, lr=lr, betas=betas),
        "AMSGrad": lambda params, lr: Adam(params, lr=lr, betas=betas, amsgrad=True),
        "RMSProp": lambda params, lr: RMSprop(params, lr=lr, alpha=0.99),
        "SGD": lambda params, lr: SGD(params, lr=lr),
    }
    runs = {name: run_reddi(make, effort.cycles) for name, make in makes.items()}
    slope = (1010 - 100 * 10) / 101
    optimum = -1.0 if slope > 0 else 1.0
    ours, adam = runs["AMGT, γ = 1"], runs["Adam"]
    distance = max(abs(ours.low - optimum), abs(ours.high - optimum))
    adam_distance = min(abs(adam.low + optimum), abs(adam.high + optimum))
    claim = Claim(
        "reddi",
        "AMGT converges where Adam does not",
        "introduction; Reddi et al. (2018)",
        "addresses Adam's failure",
        f"AMGT within {distance:.3f} of the optimum {optimum:+g}, Adam within {adam_distance:.3f} of {-optimum:+g}",
        judge(as_printed=distance <= 0.05 and adam_distance <= 0.05, corrected=distance <= 0.05),
        f"The mean gradient is {slope:+.3f}, so the optimum of [-1, 1] is {optimum:+g}. Over the last cycle of "
        f"{effort.cycles} AMGT moves in [{ours.low:.3f}, {ours.high:.3f}], Adam in [{adam.low:.3f}, {adam.high:.3f}]; "
        "the same schedule (10) for all.",
    )
    rows = tuple(
        (name, f"{run.low:.3f}", f"{run.high:.3f}", f"{max(abs(run.low - optimum), abs(run.high - optimum)):.3f}")
        for name, run in runs.items()
    )
    table = Table(
        "reddi",
        "Reddi's counterexample: the last cycle",
        ("optimizer", "lowest x", "highest x", "farthest from the optimum"),
        rows,
        "rate .01 / (1 + 1e-4 (t - 1)), β = (.9, .99), x from 0, projected on [-1, 1].",
    )
    figure = Figure(
        "reddi",
        "Reddi's counterexample: the optimum is -1",
        "step",
        "x",
        tuple(
            Curve(
                name, tuple(float(101 * (i + 1)) for i in range(effort.cycles)), tuple(map(float, run.path[100::101]))
            )
            for name, run in runs.items()
        ),
        "x at the end of every cycle of 101 steps.",
        log_x=False,
        log_y=False,
    )
    return Section("Reddi's counterexample", (claim,), (table,), (figure,))
