"""The paper's two quadratics, federated: each client holds a shifted copy, and the copies' mean is the paper's f."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from amgt_fed.errors import TaskError
from amgt_fed.tasks.base import Batch, Examples, IndexArray, Task, TaskSettings
from amgt_fed.tasks.facts import Constants, Reference
from amgt_fed.tasks.natural import option, refuse_unknown

HESSIANS = {
    1: ((4.0, -2.0), (-2.0, 4.0)),  # f = 2 x^2 + 2 y^2 - 2 x y + 2
    2: ((2.0, -2.0), (-2.0, 4.0)),  # f = x^2 + 2 y^2 - 2 x y + 2
}
F_STAR = 2.0  # both, at the origin


class Point(nn.Module):
    """Two numbers to be optimised."""

    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start))

    def forward(self) -> Tensor:
        """x, shape (2,)."""
        return self.x


class PaperQuadratic(Task):
    """f_i(x) = f(x - s_i) - mean_j s_j^T H s_j / 2 with sum_i s_i = 0, so that the mean over all clients is f.

    Options: `application` 1 or 2; `start`, two numbers with a comma; `spread`, the standard deviation of the shifts.
    """

    name: ClassVar[str] = "paper-quadratic"
    primary_metric: ClassVar[str] = "gap"
    defaults: ClassVar[Mapping[str, bool | int | float | str]] = {
        "rounds": 60,
        "partition.scheme": "natural",
        "partition.num_clients": 10,
        "federation.clients_per_round": 10,
        "client.optimizer": "sgd",
        "client.momentum": 0.0,
        "client.lr": 0.25,
        "client.steps": 1,
        "codec.uplink": "dense",
        "codec.uplink_budget": "none",
        "codec.downlink": "dense",
        "codec.downlink_budget": "none",
        "baseline.lr": 0.25,
    }
    reference: ClassVar[Reference | None] = Reference(
        "gap", 1.735e-16, "python benchmarks/centralised.py --task paper-quadratic"
    )

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        refuse_unknown(settings, "application", "start", "spread")
        self.hessian = np.array(HESSIANS[option(settings, "application", 1, (1, 2))])
        self.spread = option(settings, "spread", 1.0)
        if not 0 <= self.spread < float("inf"):
            raise TaskError(f"options.spread = {self.spread!r} is not allowed; give a finite number >= 0")
        text = option(settings, "start", "1,0")
        try:
            first, second = (float(part) for part in text.split(","))
        except ValueError:
            raise TaskError(f"options.start = {text!r} is not allowed; give two numbers, e.g. 1,0") from None
        if not np.isfinite([first, second]).all():
            raise TaskError(f"options.start = {text!r} is not allowed; give two finite numbers, e.g. 1,0")
        self.start = (first, second)

    def model(self) -> nn.Module:
        """The start."""
        return Point(self.start)

    def train_data(self) -> Examples:
        """One example per client: its shift (2,) and its offset, the constant that makes the mean exactly f."""
        count = self.settings.num_clients
        shifts = np.random.default_rng(self.settings.seed).normal(size=(count, 2)) * self.spread
        shifts -= shifts.mean(0)
        # On a grid, so that float32 holds them and their sum exactly: rounded, they would move the minimum by 1e-8.
        grid = 2.0 ** math.ceil(math.log2(float(np.abs(shifts).max()) or 1.0)) / 2**16
        shifts = np.round(shifts / grid) * grid
        shifts[-1] -= shifts.sum(0)
        offset = float(np.einsum("ni,ij,nj->n", shifts, self.hessian, shifts).mean()) / 2
        return Examples(torch.from_numpy(shifts).float(), torch.full((count,), offset))

    def test_data(self) -> Examples:
        """f itself: no shift, no offset."""
        return Examples(torch.zeros(1, 2), torch.zeros(1))

    def partitions(self) -> Sequence[IndexArray]:
        """Client i holds example i."""
        if self.settings.scheme != "natural":
            raise TaskError(
                f"task {self.name} gives each client one function; partition.scheme is {self.settings.scheme!r}, "
                "set it to natural"
            )
        return [np.array([client]) for client in range(self.settings.num_clients)]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean of the batch's functions at x."""
        shifts, offsets = batch
        away = model() - shifts
        hessian = torch.as_tensor(self.hessian, dtype=away.dtype, device=away.device)
        mean: Tensor = (0.5 * ((away @ hessian) * away).sum(-1) - offsets).mean()
        return mean + F_STAR

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, float]:
        """`gap` = f(x) - f*, computed from x - x* so that it does not cancel, and `distance` = ||x - x*||."""
        x = model().detach().cpu().double().numpy()
        return {"gap": float(x @ self.hessian @ x) / 2, "distance": float(np.linalg.norm(x))}

    def constants(self) -> Constants:
        """The ends of the spectrum, exactly; the minimum is 2."""
        low, high = self._eigenvalues
        return Constants(mu=low, smoothness=high, f_low=F_STAR, f_star=F_STAR)

    @cached_property
    def _eigenvalues(self) -> tuple[float, float]:
        low, high = np.linalg.eigvalsh(self.hessian)
        return float(low), float(high)
