"""Heart disease in four hospitals: logistic regression with a rigorous certificate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from amgt_fed.tasks.base import Examples, IndexArray
from amgt_fed.tasks.datasets import read_npz
from amgt_fed.tasks.facts import Reference
from amgt_fed.tasks.logistic import RegularisedLogistic
from amgt_fed.tasks.natural import NaturalTask

# Fixed centres and scales, round numbers of medicine: statistics of the data would have to cross the hospitals' walls.
_MEASURED = {
    "age": (55.0, 10.0),
    "sex": (0.5, 0.5),
    "trestbps": (130.0, 20.0),
    "chol": (240.0, 50.0),
    "fbs": (0.5, 0.5),
    "thalach": (140.0, 25.0),
    "exang": (0.5, 0.5),
    "oldpeak": (1.0, 1.0),
    "ca": (1.0, 1.0),
}
_CODED = {"cp": (1, 2, 3, 4), "restecg": (0, 1, 2), "slope": (1, 2, 3), "thal": (3, 6, 7)}
_ZERO_IS_MISSING = ("chol", "trestbps")
FEATURES = 2 * len(_MEASURED) + sum(len(codes) + 1 for codes in _CODED.values())
_TEST_SHARE, _SPLIT_SEED = 5, 920  # every fifth patient of each hospital, after a fixed shuffle


class HeartDisease(RegularisedLogistic, NaturalTask):
    """Disease or not, 13 clinical columns; each of four hospitals is a client.

    A missing measurement is the mean over the training patients of the same hospital (the fixed centre where it has
    none), and a second column says that it was missing. A missing code is a category of its own.
    """

    name: ClassVar[str] = "heart-disease"
    default_mu: ClassVar[float] = 0.02
    defaults: ClassVar[Mapping[str, bool | int | float | str]] = {
        "rounds": 40,
        "partition.scheme": "natural",
        "partition.num_clients": 4,
        "federation.clients_per_round": 4,
        # The certified gap after 40 rounds is .016; with AMGT at .01, the one rate tried, .052.
        "client.optimizer": "sgd",
        "client.momentum": 0.0,
        "client.lr": 0.1,
        "client.lr_decay": 0.1,
        "codec.uplink_budget": "nmse=0.1",
        "codec.downlink_budget": "nmse=0.1",
        "baseline.lr": 0.05,
    }
    reference: ClassVar[Reference | None] = Reference(
        "accuracy", 0.8352, "python benchmarks/centralised.py --task heart-disease"
    )

    def train_data(self) -> Examples:
        """738 patients, features (35,), with their labels."""
        return self._everything.subset(self.rows[0])

    def test_data(self) -> Examples:
        """A fifth of each hospital's patients: 182."""
        return self._everything.subset(self.rows[1])

    def owners(self) -> IndexArray:
        """The hospital."""
        return self._site[self.rows[0]].astype(np.int64)

    def test_owners(self) -> IndexArray:
        """The hospital."""
        return self._site[self.rows[1]].astype(np.int64)

    @cached_property
    def rows(self) -> tuple[IndexArray, IndexArray]:
        """The rows of the data file for training and for testing."""
        train, test = [], []
        rng = np.random.default_rng(_SPLIT_SEED)
        for site in np.unique(self._site):
            rows = rng.permutation(np.flatnonzero(self._site == site))
            count = len(rows) // _TEST_SHARE
            test.append(rows[:count])
            train.append(rows[count:])
        return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))

    @property
    def _site(self) -> NDArray[np.uint8]:
        return self._arrays["site"]

    @cached_property
    def _arrays(self) -> dict[str, NDArray[np.uint8]]:
        return read_npz(self.settings.data_dir, "heart_disease/heart_disease.npz")

    @cached_property
    def _everything(self) -> Examples:
        raw = self._arrays["X"].astype(np.float32)
        names = [str(name) for name in self._arrays["columns"]]
        features = np.zeros((len(raw), FEATURES), np.float32)
        is_training = np.isin(np.arange(len(raw)), self.rows[0])
        for site in np.unique(self._site):
            here = self._site == site
            features[here] = site_features(raw[here], names, is_training[here])
        return Examples(torch.from_numpy(features), torch.from_numpy(self._arrays["y"].astype(np.int64)))


def site_features(raw: NDArray[np.float32], names: list[str], is_training: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Features (patients, 35) of one hospital, from its own rows alone.

    Args:
        raw: (patients, 13), NaN where missing.
        names: of the 13 columns.
        is_training: (patients,), whose values may fill the gaps.
    """
    columns: list[NDArray[np.float32]] = []
    for name, (centre, scale) in _MEASURED.items():
        values = raw[:, names.index(name)].copy()
        if name in _ZERO_IS_MISSING:
            values[values == 0] = np.nan
        missing = np.isnan(values)
        known = values[is_training & ~missing]
        values[missing] = known.mean() if len(known) else centre
        columns += [(values - centre) / scale, missing.astype(np.float32)]
    for name, codes in _CODED.items():
        values = raw[:, names.index(name)]
        columns += [(values == code).astype(np.float32) for code in codes]
        columns.append(np.isnan(values).astype(np.float32))
    return np.column_stack(columns).astype(np.float32)
