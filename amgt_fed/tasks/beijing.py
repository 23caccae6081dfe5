"""Fine dust from the other sensors of an air station: 12 stations in Beijing are the clients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amgt_fed.errors import TaskError
from amgt_fed.tasks.base import Batch, Examples, IndexArray, TaskSettings
from amgt_fed.tasks.datasets import read_npz
from amgt_fed.tasks.facts import Reference
from amgt_fed.tasks.natural import NaturalTask, refuse_unknown

# Fixed centres and scales in the columns' own units: statistics of the data would tell one station of another.
_SCALES = {
    "PM10": (100.0, 100.0),
    "SO2": (15.0, 20.0),
    "NO2": (50.0, 35.0),
    "CO": (1200.0, 1000.0),
    "O3": (60.0, 50.0),
    "TEMP": (13.0, 11.0),
    "PRES": (1010.0, 10.0),
    "DEWP": (2.0, 14.0),
    "RAIN": (0.0, 1.0),
    "WSPM": (1.7, 1.2),
}
PM_SCALE = 100.0  # ug/m3 of one unit of the model's output
FEATURES = 2 * len(_SCALES) + 2 + 4
TRAIN_HOURS = 365 * 3 * 24  # 2013-03-01 to 2016-02-28
TEST_FROM = (365 * 3 + 1) * 24  # 2016-03-01 on; the day between keeps the two apart


class BeijingAir(NaturalTask):
    """PM2.5 from the same hour's other pollutants, weather, wind and calendar; each station is a client.

    Training is on the first three years, the server tests on the fourth, of all stations. A missing value is the
    station's last known one, and a second column says so; hours without PM2.5 are left out.
    """

    name: ClassVar[str] = "beijing-air"
    primary_metric: ClassVar[str] = "rmse"
    defaults: ClassVar[Mapping[str, bool | int | float | str]] = {
        "rounds": 30,
        "partition.scheme": "natural",
        "partition.num_clients": 12,
        "federation.clients_per_round": 10,
        "client.epochs": 1,
        "client.batch_size": 128,
        "client.lr": 0.002,
        "client.lr_decay": 0.05,
        "baseline.lr": 0.05,
    }
    reference: ClassVar[Reference | None] = Reference(
        "rmse", 20.17, "python benchmarks/centralised.py --task beijing-air"
    )

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        refuse_unknown(settings)

    def model(self) -> nn.Module:
        """A dense net with two hidden layers of 64: 5,953 parameters."""
        return nn.Sequential(
            nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0)
        )

    def train_data(self) -> Examples:
        """Features (26,) and PM2.5 in ug/m3 of every station's first three years."""
        return Examples(*(torch.cat(parts) for parts in zip(*self._years[0], strict=True)))

    def test_data(self) -> Examples:
        """The fourth year."""
        return Examples(*(torch.cat(parts) for parts in zip(*self._years[1], strict=True)))

    def owners(self) -> IndexArray:
        """The station."""
        return _stations(self._years[0])

    def test_owners(self) -> IndexArray:
        """The station."""
        return _stations(self._years[1])

    def labels(self) -> NDArray[Any]:
        """None: this is a regression.

        Raises:
            TaskError: always.
        """
        raise TaskError("task beijing-air has no labels to partition by; use partition.scheme = natural or iid")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean squared error, in units of (100 ug/m3)^2."""
        inputs, targets = batch
        return nn.functional.mse_loss(model(inputs), targets / PM_SCALE)

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor | float]:
        """Moments that `summarise` makes the scores of, and `mae` in ug/m3."""
        inputs, targets = batch
        error = PM_SCALE * model(inputs) - targets
        wide = targets.double()
        return {
            "mse": error.double().square().mean(),
            "mae": error.abs().mean(),
            "_mean": wide.mean(),
            "_square": wide.square().mean(),
        }

    def summarise(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """`rmse` and `mae` in ug/m3, and `r2` = 1 - mse / variance over the data scored."""
        variance = means["_square"] - means["_mean"] ** 2
        # Hours of one and the same value: no variance to explain.
        r2 = 1.0 - means["mse"] / variance if variance > 0 else 0.0
        return {"rmse": math.sqrt(means["mse"]), "mae": means["mae"], "r2": r2}

    @cached_property
    def _years(self) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
        arrays = read_npz(self.settings.data_dir, "beijing_air/beijing_air.npz")
        names = [str(name) for name in arrays["columns"]]
        train: list[tuple[Tensor, Tensor]] = []
        test: list[tuple[Tensor, Tensor]] = []
        for values, wind in zip(arrays["X"], arrays["wd"], strict=True):
            features, target = station_features(values, wind, names)
            known = ~np.isnan(target)
            for kept, hours in ((train, slice(0, TRAIN_HOURS)), (test, slice(TEST_FROM, None))):
                rows = known[hours]
                kept.append((torch.from_numpy(features[hours][rows]), torch.from_numpy(target[hours][rows])))
        return train, test


def _stations(parts: list[tuple[Tensor, Tensor]]) -> IndexArray:
    return np.repeat(np.arange(len(parts)), [len(targets) for _, targets in parts])


def station_features(
    values: NDArray[np.float32], wind: NDArray[np.uint8], names: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (hours, 26) and PM2.5 (hours,), NaN where missing, of one station, each hour from its past alone.

    Args:
        values: (hours, 11), NaN where missing.
        wind: (hours,), 0..15 from N by 22.5 degrees, 255 where missing.
        names: of the columns.
    """
    hours = np.arange(len(values))
    columns: list[NDArray[Any]] = []
    for name, (centre, scale) in _SCALES.items():
        raw = values[:, names.index(name)]
        missing = np.isnan(raw)
        last = np.maximum.accumulate(np.where(missing, -1, hours))
        filled = np.where(last >= 0, raw[np.maximum(last, 0)], centre)  # the centre before the first known value
        columns += [(filled - centre) / scale, missing]
    angle = 2 * np.pi * wind / 16
    columns += [np.where(wind == 255, 0.0, turn(angle)) for turn in (np.sin, np.cos)]
    for period in (24.0, 24 * 365.25):
        columns += [turn(2 * np.pi * hours / period) for turn in (np.sin, np.cos)]
    return np.column_stack(columns).astype(np.float32), values[:, names.index("PM2.5")]
