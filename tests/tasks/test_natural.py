"""The tasks on real data: natural clients, and nothing of the test data in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from amgt_fed.errors import TaskError
from amgt_fed.tasks import TaskSettings, load_task
from amgt_fed.tasks.beijing import TEST_FROM, TRAIN_HOURS, BeijingAir, station_features
from amgt_fed.tasks.har import HAR
from amgt_fed.tasks.heart import HeartDisease, site_features
from amgt_fed.tasks.shakespeare import ALPHABET, Shakespeare


def settings(data_dir: Path, clients: int, **options: int | str) -> TaskSettings:
    return TaskSettings(scheme="natural", num_clients=clients, data_dir=data_dir, options=options)


@pytest.mark.parametrize(("split", "clients"), [("people", 21), ("time", 30)])
def test_har_gives_each_person_a_client_and_no_sample_to_both_sides(data_dir: Path, split: str, clients: int) -> None:
    task = HAR(settings(data_dir, clients, model="mlp", split=split))
    arrays = task._arrays
    train, test = task.rows
    for part in task.client_indices:
        assert len(np.unique(arrays["subject"][train[part]])) == 1
    assert sum(map(len, task.client_indices)) == len(train)
    if split == "people":
        assert not set(arrays["subject"][train]) & set(arrays["subject"][test])
        assert sorted(set(arrays["subject"][test])) == [2, 4, 9, 10, 12, 13, 18, 20, 24]
    samples = [
        {(arrays["experiment"][row], arrays["start"][row] + k) for row in rows for k in (0, 127)}
        for rows in (train, test)
    ]
    for row in test:
        begin, recording = int(arrays["start"][row]), arrays["experiment"][row]
        assert not any((recording, begin + k) in samples[0] for k in range(128))
    assert set(arrays["y"][test]) == set(range(6))


def test_heart_features_of_a_hospital_depend_on_its_own_training_rows_only(data_dir: Path) -> None:
    task = HeartDisease(settings(data_dir, 4))
    assert [len(part) for part in task.client_indices] == [243, 236, 99, 160]
    train, test = task.rows
    assert not set(train) & set(test)
    assert len(train) + len(test) == 920
    assert torch.isfinite(task.train_set.tensors[0]).all()  # type: ignore[attr-defined]
    arrays, names = task._arrays, [str(name) for name in task._arrays["columns"]]
    raw = arrays["X"][arrays["site"] == 3].astype(np.float32)
    is_training = np.arange(len(raw)) % 3 != 0
    other = raw.copy()
    other[~is_training] = 1000.0  # test rows changed: training rows must not notice
    before, after = site_features(raw, names, is_training), site_features(other, names, is_training)
    assert np.array_equal(before[is_training], after[is_training])
    zeros = raw[:, names.index("chol")] == 0
    assert zeros.any()
    assert (before[zeros, 7] == 1).all()  # chol's own "was missing"


def test_beijing_knows_no_future_and_no_other_station(data_dir: Path) -> None:
    task = BeijingAir(settings(data_dir, 12))
    assert len(task.client_indices) == 12
    assert TRAIN_HOURS < TEST_FROM
    inputs, targets = task.train_set.tensors  # type: ignore[attr-defined]
    assert torch.isfinite(inputs).all()
    assert torch.isfinite(targets).all()
    rng = np.random.default_rng(0)
    names = ["PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "WSPM"]
    values = rng.normal(size=(50, 11)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    wind = rng.integers(0, 16, 50).astype(np.uint8)
    later = values.copy()
    later[30:] = 9.0
    assert np.array_equal(station_features(values, wind, names)[0][:30], station_features(later, wind, names)[0][:30])


def test_beijing_scores_are_those_of_the_whole_set_not_means_of_batches() -> None:
    task = BeijingAir(TaskSettings())
    model = torch.nn.Flatten(0)
    targets = torch.tensor([100.0, 300.0, 200.0, 50.0])
    predicted = torch.tensor([1.1, 2.0, 2.0, 1.5])  # in units of 100
    halves = [task.metrics(model, (predicted[part], targets[part])) for part in (slice(0, 2), slice(2, 4))]
    means = {name: float(sum(float(half[name]) for half in halves)) / 2 for name in halves[0]}
    scores = task.summarise(means)
    errors = 100 * predicted - targets
    assert scores["rmse"] == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-5)
    assert scores["r2"] == pytest.approx(1 - float(errors.square().mean() / targets.var(correction=0)), rel=1e-5)


def test_shakespeares_held_out_text_is_the_end_of_each_role(data_dir: Path) -> None:
    task = Shakespeare(settings(data_dir, 34, min_characters=20_000))
    assert len(task.client_indices) == 34
    text, following = task.client_data(0).tensors  # type: ignore[attr-defined]
    assert torch.equal(text[:, 1:], following[:, :-1])
    assert int(text.max()) < len(ALPHABET)
    arrays = np.load(data_dir / "shakespeare/shakespeare_by_role.npz")
    role = int(np.flatnonzero(np.diff(arrays["offset"]) >= 20_000)[0])
    words = bytes(arrays["text"][arrays["offset"][role] : arrays["offset"][role + 1]]).decode("ascii")
    read = "".join(ALPHABET[code] for code in text.flatten().tolist())
    assert words.startswith(read)
    assert len(read) <= 0.9 * len(words)
    tested = "".join(ALPHABET[code] for code in task._roles[0][1][:, :-1].flatten().tolist())
    assert words[len(words) - round(0.1 * len(words)) :].startswith(tested)


def test_shakespeares_transformer_sees_no_later_symbol() -> None:
    model = Shakespeare(TaskSettings(options={"model": "transformer"})).model()
    text = torch.zeros(1, 80, dtype=torch.uint8)
    changed = text.clone()
    changed[0, 40:] = 7
    assert torch.allclose(model(text)[:, :40], model(changed)[:, :40], atol=1e-5)
    assert not torch.allclose(model(text)[:, 40:], model(changed)[:, 40:], atol=1e-2)


@pytest.mark.parametrize(("task", "there"), [("har", 21), ("heart-disease", 4), ("beijing-air", 12)])
def test_another_number_of_clients_names_the_right_one(data_dir: Path, task: str, there: int) -> None:
    with pytest.raises(TaskError, match=f"has {there} clients.*set it to {there}"):
        load_task(task, TaskSettings(scheme="natural", num_clients=5, data_dir=data_dir)).client_indices  # noqa: B018


@pytest.mark.parametrize(
    ("task", "clients", "options"),
    [
        ("beijing-air", 12, {}),
        ("har", 30, {"split": "time", "model": "mlp"}),
        ("heart-disease", 4, {}),
        ("shakespeare", 5, {"roles": 5}),
    ],
)
def test_the_clients_held_out_examples_are_the_servers_dealt_to_their_owners(
    data_dir: Path, task: str, clients: int, options: dict[str, int | str]
) -> None:
    found = load_task(task, settings(data_dir, clients, **options))
    parts = [found.client_test_data(client).tensors for client in range(clients)]  # type: ignore[union-attr]
    for column, whole in enumerate(found.test_data().tensors):  # type: ignore[union-attr]
        dealt = torch.cat([part[column] for part in parts])
        assert min(len(part[column]) for part in parts) > 0
        assert sorted(row.numpy().tobytes() for row in dealt) == sorted(row.numpy().tobytes() for row in whole)
    own = {row.numpy().tobytes() for row in parts[1][0]}
    trained = {row.numpy().tobytes() for row in found.client_data(1).tensors[0]}  # type: ignore[attr-defined]
    assert len(own & trained) <= 0.02 * len(own)  # but for lines a role says twice, or equal hours


def test_har_people_nobody_trained_on_are_no_clients_own(data_dir: Path) -> None:
    task = HAR(settings(data_dir, 21, model="mlp"))
    scored = task.client_test_data(3)
    assert torch.equal(scored.tensors[0], task.client_data(3).tensors[0])  # type: ignore[union-attr,attr-defined]
