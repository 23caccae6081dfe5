"""What a Task does for those who write only a model and data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from amgt_fed.errors import TaskError
from amgt_fed.tasks import Examples, Task, TaskSettings
from amgt_fed.tasks.base import IndexArray


class Plain(Task):
    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def train_data(self) -> Dataset[Any]:
        return Examples(torch.arange(80.0).reshape(40, 2), torch.arange(40) % 2)


class NotExamples(Plain):
    def train_data(self) -> Dataset[Any]:
        return TensorDataset(torch.zeros(40, 2), torch.arange(40) % 2)


def test_the_clients_data_are_the_federations() -> None:
    task = Plain(TaskSettings(num_clients=4, min_examples=2))
    rows = torch.cat([task.client_data(client).tensors[0] for client in range(4)])  # type: ignore[attr-defined]
    assert sorted(rows[:, 0].tolist()) == [2.0 * i for i in range(40)]


def test_changing_a_subset_leaves_the_whole_alone() -> None:
    task = Plain(TaskSettings(num_clients=4, min_examples=2))
    part = task.client_data(0)
    assert isinstance(part, Examples)
    part.tensors[0].fill_(-1)
    assert isinstance(task.train_set, Examples)
    assert float(task.train_set.tensors[0].min()) == 0.0


def test_a_dataset_without_labels_is_dealt_iid_and_otherwise_asks_for_them() -> None:
    assert len(NotExamples(TaskSettings(num_clients=4, scheme="iid")).client_data(0)) == 10  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=r"implement labels\(\), or set partition\.scheme=iid"):
        NotExamples(TaskSettings(num_clients=4)).client_data(0)


def test_natural_clients_must_be_the_tasks_own() -> None:
    with pytest.raises(TaskError, match="no natural clients"):
        Plain(TaskSettings(scheme="natural")).client_data(0)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ([np.arange(20), np.arange(20, 40)], "has 2 clients, partition.num_clients is 3; set it to 2"),
        ([np.arange(40), np.arange(0), np.arange(0)], "client 1 has no examples"),
    ],
)
def test_a_partition_that_does_not_fit_is_named(parts: Sequence[IndexArray], named: str) -> None:
    class Own(Plain):
        def partitions(self) -> Sequence[IndexArray]:
            return parts

    with pytest.raises(TaskError, match=named):
        Own(TaskSettings(num_clients=3)).client_data(0)


def test_examples_need_tensors_of_one_length() -> None:
    with pytest.raises(TaskError, match=r"lengths \[3, 4\]"):
        Examples(torch.zeros(3), torch.zeros(4))
    with pytest.raises(TaskError, match="one length"):
        Examples()


def test_there_is_no_test_data_unless_the_task_says_so_and_clients_use_their_own() -> None:
    task = Plain(TaskSettings(num_clients=4, min_examples=2))
    assert task.test_data() is None
    own = task.client_test_data(2)
    assert own is not None
    assert len(own) == len(task.client_data(2))  # type: ignore[arg-type]
