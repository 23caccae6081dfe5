"""The facts the documentation states of the built-in task."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from amgt_fed.tasks import FlatModel, TaskSettings
from amgt_fed.tasks.digits import Digits


def test_the_network_has_151306_parameters() -> None:
    model = Digits(TaskSettings()).model()
    assert sum(parameter.numel() for parameter in model.parameters()) == 151_306
    assert FlatModel(model).layout.size == 151_306


def test_1438_images_train_and_359_test_and_together_they_are_the_data_set() -> None:
    task = Digits(TaskSettings())
    train, test = task.train_data(), task.test_data()
    assert (len(train), len(test)) == (1438, 359)
    images, labels = load_digits(return_X_y=True)
    known = sorted((row.tobytes(), int(label)) for row, label in zip((images / 16).astype("f4"), labels, strict=True))
    inputs = torch.cat([train.tensors[0], test.tensors[0]]).reshape(-1, 64).numpy()
    targets = torch.cat([train.tensors[1], test.tensors[1]]).numpy()
    assert sorted((row.tobytes(), int(label)) for row, label in zip(inputs, targets, strict=True)) == known
    assert train.tensors[0].dtype == torch.float32
    assert 0.0 <= float(train.tensors[0].min()) < float(train.tensors[0].max()) == 1.0


def test_the_split_is_the_same_for_every_seed() -> None:
    one, two = Digits(TaskSettings(seed=0)), Digits(TaskSettings(seed=99))
    assert torch.equal(one.test_data().tensors[0], two.test_data().tensors[0])
    assert any(not np.array_equal(a, b) for a, b in zip(one.client_indices, two.client_indices, strict=True))


def test_training_and_test_images_do_not_overlap_beyond_the_data_sets_own_duplicates() -> None:
    task = Digits(TaskSettings())
    train = {row.tobytes() for row in task.train_data().tensors[0].reshape(-1, 64).numpy()}
    test = [row.tobytes() for row in task.test_data().tensors[0].reshape(-1, 64).numpy()]
    images = load_digits(return_X_y=True)[0]
    duplicates = len(images) - len({row.tobytes() for row in images})
    assert sum(row in train for row in test) <= duplicates


def test_every_class_is_in_both_parts() -> None:
    task = Digits(TaskSettings())
    for part in (task.train_data(), task.test_data()):
        assert set(part.tensors[1].tolist()) == set(range(10))
