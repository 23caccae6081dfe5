"""Human activity from a phone at the waist: 30 people are the clients."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amgt_fed.tasks.base import Examples, IndexArray, TaskSettings
from amgt_fed.tasks.datasets import read_npz
from amgt_fed.tasks.facts import Reference
from amgt_fed.tasks.natural import NaturalTask, option, refuse_unknown

WINDOW = 128  # samples; neighbouring windows share half of them
_TEST_SHARE = 0.2


class MotionCNN(nn.Module):
    """Two 1-D convolutions, a mean over time and a dense layer: 12,838 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(6, 32, 9, padding=4)
        self.conv2 = nn.Conv1d(32, 64, 5, padding=2)
        self.fc = nn.Linear(128, 6)

    def forward(self, windows: Tensor) -> Tensor:
        """Scores (batch, 6) of signals (batch, 6 channels, 128 samples)."""
        hidden = nn.functional.max_pool1d(torch.relu(self.conv1(windows)), 4)
        hidden = torch.relu(self.conv2(hidden))
        return self.fc(torch.cat([hidden.mean(-1), hidden.amax(-1)], -1))  # type: ignore[no-any-return]


class HAR(NaturalTask):
    """Six activities; each person is a client.

    Options:
        model: `cnn`, on windows of raw signal, or `mlp`, on 219 features.
        split: `people`, 21 people are the clients and the server tests on the 9 others, whom nobody trained on; or
            `time`, all 30 are clients and the server tests on the last fifth of each person's windows of each
            activity. Training windows that share a sample with a test window are left out.
    """

    name: ClassVar[str] = "har"
    defaults: ClassVar[Mapping[str, bool | int | float | str]] = {
        "rounds": 50,
        "partition.scheme": "natural",
        "partition.num_clients": 21,
        "federation.clients_per_round": 10,
        "client.epochs": 2,
        "client.lr": 0.003,
        "client.lr_decay": 0.02,
        "codec.uplink_budget": "nmse=0.3",
        "codec.downlink_budget": "nmse=0.3",
        "baseline.lr": 0.05,
    }
    reference: ClassVar[Reference | None] = Reference("accuracy", 0.9119, "python benchmarks/centralised.py --task har")

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        refuse_unknown(settings, "model", "split")
        self.kind = option(settings, "model", "cnn", ("cnn", "mlp"))
        self.split = option(settings, "split", "people", ("people", "time"))

    def model(self) -> nn.Module:
        """A `MotionCNN`, or a dense net with one hidden layer: 14,470 parameters."""
        if self.kind == "cnn":
            return MotionCNN()
        return nn.Sequential(nn.Linear(219, 64), nn.ReLU(), nn.Linear(64, 6))

    def train_data(self) -> Examples:
        """Signals (6, 128) in g and rad/s, or features (219,) in [-1, 1], with their labels."""
        return self._everything.subset(self.rows[0])

    def test_data(self) -> Examples:
        """Of the people, or the times, that `split` holds back."""
        return self._everything.subset(self.rows[1])

    def owners(self) -> IndexArray:
        """The person, counted from 0 in the order of their numbers."""
        return np.searchsorted(self._people, self._arrays["subject"][self.rows[0]])

    def test_owners(self) -> IndexArray | None:
        """The person; None with `split` = people, whose test people are no clients."""
        if self.split == "people":
            return None
        return np.searchsorted(self._people, self._arrays["subject"][self.rows[1]])

    @property
    def _people(self) -> NDArray[Any]:
        return np.unique(self._arrays["subject"][self.rows[0]])

    @cached_property
    def rows(self) -> tuple[IndexArray, IndexArray]:
        """The rows of the data file for training and for testing."""
        if self.split == "people":
            held_back = self._arrays["test_subject"]
            return np.flatnonzero(~held_back), np.flatnonzero(held_back)
        return split_by_time(self._arrays)

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        name = "har/har_windows.npz" if self.kind == "cnn" else "har/har_features.npz"
        return read_npz(self.settings.data_dir, name)

    @cached_property
    def _everything(self) -> Examples:
        inputs = self._arrays["X"].astype(np.float32)
        if self.kind == "cnn":
            inputs = np.ascontiguousarray((inputs * self._arrays["scale"]).transpose(0, 2, 1))
        return Examples(torch.from_numpy(inputs), torch.from_numpy(self._arrays["y"].astype(np.int64)))


def split_by_time(arrays: Mapping[str, NDArray[Any]]) -> tuple[IndexArray, IndexArray]:
    """Rows for training and testing: the last fifth of each person's windows of each activity is for testing.

    No training window shares a sample with a test window.
    """
    subject, label = arrays["subject"], arrays["y"]
    experiment, start = arrays["experiment"].astype(np.int64), arrays["start"].astype(np.int64)
    is_test = np.zeros(len(label), bool)
    for person in np.unique(subject):
        for activity in np.unique(label):
            rows = np.flatnonzero((subject == person) & (label == activity))
            rows = rows[np.lexsort((start[rows], experiment[rows]))]
            is_test[rows[len(rows) - round(_TEST_SHARE * len(rows)) :]] = True
    touches = np.zeros(len(label), bool)
    for recording in np.unique(experiment):
        rows = np.flatnonzero(experiment == recording)
        tested = start[rows[is_test[rows]]]
        touches[rows] = (np.abs(start[rows][:, None] - tested[None, :]) < WINDOW).any(1)
    return np.flatnonzero(~is_test & ~touches), np.flatnonzero(is_test)
