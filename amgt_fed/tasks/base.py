"""The Task: a model, its data and how the data falls to clients. Subclass it to bring your own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from amgt_fed.errors import TaskError
from amgt_fed.tasks.facts import Constants, Reference
from amgt_fed.tasks.partition import partition_by

Batch: TypeAlias = Any
"""What the task's dataset collates to; for `Examples` a tuple of tensors."""

IndexArray: TypeAlias = NDArray[np.int64]


class Examples(Dataset[tuple[Tensor, ...]]):
    """Tensors whose first dimension counts the examples: the fast path of a dataset.

    Raises:
        TaskError: no tensor, or tensors of different lengths.
    """

    def __init__(self, *tensors: Tensor) -> None:
        if not tensors or any(len(tensor) != len(tensors[0]) for tensor in tensors):
            raise TaskError(f"Examples needs tensors of one length; got lengths {[len(tensor) for tensor in tensors]}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        """One example, or a batch where `index` is a tensor or array of indices."""
        return tuple(tensor[index] for tensor in self.tensors)

    def subset(self, indices: IndexArray) -> Examples:
        """The examples at `indices`, copied."""
        chosen = torch.from_numpy(np.asarray(indices, np.int64))
        return Examples(*(tensor[chosen] for tensor in self.tensors))


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What a run tells its task.

    Attributes:
        seed: of the partition.
        num_clients, scheme, alpha, shards_per_client, min_examples: see the `partition` section of the configuration.
        data_dir: directory of the larger data sets; None where the user named none.
        options: the configuration's `options` table, for the task's own use.
    """

    seed: int = 0
    num_clients: int = 20
    scheme: str = "dirichlet"
    alpha: float = 0.5
    shards_per_client: int = 2
    min_examples: int = 8
    data_dir: Path | None = None
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)


RECIPE_KEYS = frozenset(
    {
        *("codec.uplink", "codec.downlink", "codec.link_budgets", "client.optimizer", "client.scaffold"),
        *("server.optimizer", "federation.mode", "federation.max_staleness"),
    }
)
"""Who names one of these has a method of their own in mind, which a task's recipe may not go with."""


class Task(ABC):
    """What a federation trains. `model` and `train_data` are enough; everything else has a default.

    The same settings must give the same model shapes and the same partition in every process: draw from
    generators seeded with `self.settings.seed`, never from the clock.
    """

    name: ClassVar[str] = ""
    primary_metric: ClassVar[str] = "accuracy"
    """The metric tables and plots show; the default `metrics` gives accuracy."""
    defaults: ClassVar[Mapping[str, bool | int | float | str]] = {}
    """Configuration, by dotted keys, that suits this task; it holds wherever the user says nothing else."""
    recipe: ClassVar[Mapping[str, bool | int | float | str]] = {}
    """Keys that only hold together, before `defaults`; left away whole where the user names one of `RECIPE_KEYS`."""
    reference: ClassVar[Reference | None] = None
    """The centralised score to show beside the federated one, where it has been measured."""

    @classmethod
    def defaults_beside(cls, keys: Collection[str]) -> dict[str, bool | int | float | str]:
        """What holds where the user says nothing else, given the dotted keys that the user does name."""
        return dict(cls.defaults) if RECIPE_KEYS & set(keys) else {**cls.defaults, **cls.recipe}

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings

    @abstractmethod
    def model(self) -> nn.Module:
        """A fresh model. Torch's global generator is seeded before the call."""

    @abstractmethod
    def train_data(self) -> Dataset[Any]:
        """All training data of the federation: `Examples`, or any map-style dataset."""

    def test_data(self) -> Dataset[Any] | None:
        """Data the server scores the global model on; None: it cannot."""
        return None

    def client_test_data(self, client: int) -> Dataset[Any] | None:
        """Data one client scores the model on (`federation.evaluate = "clients"`); its training data unless told."""
        return self.client_data(client)

    def labels(self) -> NDArray[Any]:
        """One label per training example, for the label-skewed partitions; the last tensor of `Examples`."""
        data = self.train_set
        if isinstance(data, Examples):
            return data.tensors[-1].numpy()
        raise TaskError(
            f"task {type(self).__name__} has no labels to partition by; implement labels(), or set partition.scheme=iid"
        )

    def partitions(self) -> Sequence[IndexArray]:
        """For each client, the indices of its training examples."""
        settings = self.settings
        scheme = settings.scheme
        if scheme == "natural":
            raise TaskError(
                f"task {type(self).__name__} has no natural clients; use partition.scheme = dirichlet, iid or shards"
            )
        # Every map-style dataset has a length; torch's base class only leaves it undeclared.
        size = len(self.train_set)  # type: ignore[arg-type]
        labels = np.zeros(size, np.int64) if scheme == "iid" else self.labels()
        return partition_by(
            scheme,
            labels,
            num_clients=settings.num_clients,
            alpha=settings.alpha,
            shards_per_client=settings.shards_per_client,
            min_examples=settings.min_examples,
            seed=settings.seed,
        )

    def client_data(self, client: int) -> Dataset[Any]:
        """One client's training data. A device with data of its own overrides this and reads it."""
        indices = self.client_indices[client]
        if isinstance(self.train_set, Examples):
            return self.train_set.subset(indices)
        return torch.utils.data.Subset(self.train_set, indices.tolist())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss over a batch, a scalar; cross-entropy of (inputs, labels) unless told."""
        inputs, targets = batch
        return nn.functional.cross_entropy(model(inputs), targets)

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor | float]:
        """Means over a batch, by name; accuracy of (inputs, labels) unless told. Called without gradients."""
        inputs, targets = batch
        return {"accuracy": (model(inputs).argmax(-1) == targets).float().mean()}

    def constants(self) -> Constants | None:
        """What is known of the objective, for the certificate and the bounds; None: nothing."""
        return None

    def summarise(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Metrics over all of a data set from their means over its examples: say, a root of a mean square."""
        return means

    @cached_property
    def train_set(self) -> Dataset[Any]:
        """`train_data()`, loaded once."""
        return self.train_data()

    @cached_property
    def client_indices(self) -> Sequence[IndexArray]:
        """`partitions()`, computed once and checked.

        Raises:
            TaskError: another number of clients than configured, or a client without examples.
        """
        parts = self.partitions()
        if len(parts) != self.settings.num_clients:
            raise TaskError(
                f"task {type(self).__name__} has {len(parts)} clients, partition.num_clients is "
                f"{self.settings.num_clients}; set it to {len(parts)}"
            )
        for client, part in enumerate(parts):
            if len(part) == 0:
                raise TaskError(
                    f"client {client} has no examples; lower partition.num_clients or raise partition.alpha"
                )
        return parts
