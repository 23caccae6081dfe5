"""Local training against a loop written by hand; evaluation against the mean over all examples at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from amgt_fed import AMGT
from amgt_fed.errors import RoundError, TaskError
from amgt_fed.federated.client import LocalResult
from amgt_fed.tasks import Examples, FlatModel, LocalSettings, Task, TaskSettings, evaluate, train_locally


class Toy(Task):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def train_data(self) -> Dataset[Any]:
        return data(37)


class Sentences(Task):
    """Batches that are dictionaries, with text in them and text first."""

    def model(self) -> nn.Module:
        return nn.Linear(4, 3)

    def train_data(self) -> Dataset[Any]:
        return Lines()

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        assert isinstance(batch["text"][0], str)
        return nn.functional.cross_entropy(model(batch["inputs"]), batch["label"])

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor | float]:
        return {"accuracy": (model(batch["inputs"]).argmax(-1) == batch["label"]).float().mean()}


class Lines(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 300

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs, labels = data(300)[index]
        return {"text": f"line {index}", "inputs": inputs, "label": labels}


def data(count: int) -> Examples:
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, 4, generator=generator)
    return Examples(inputs, (inputs @ torch.randn(4, 3, generator=generator)).argmax(-1))


def settings(**changes: Any) -> LocalSettings:
    fields: dict[str, Any] = {
        "optimizer": "sgd",
        "lr": 0.1,
        "epochs": 2,
        "steps": 0,
        "batch_size": 8,
        "momentum": 0.5,
        "beta2": 0.99,
        "gamma": 0.1,
        "threshold": 0.0,
        "weight_decay": 0.01,
        "prox_mu": 0.0,
    }
    return LocalSettings(**{**fields, **changes})


def flat_of(task: Task) -> FlatModel:
    torch.manual_seed(1)
    return FlatModel(task.model())


def by_hand(start: nn.Module, examples: Examples, chosen: LocalSettings, seed: int) -> tuple[np.ndarray, float, int]:
    model = copy.deepcopy(start)
    anchors = [parameter.detach().clone() for parameter in model.parameters()]
    betas = (chosen.momentum, chosen.beta2)
    optimizer: torch.optim.Optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, chosen.lr, chosen.momentum, weight_decay=chosen.weight_decay),
        "adam": lambda p: torch.optim.Adam(p, chosen.lr, betas, weight_decay=chosen.weight_decay),
        "adamw": lambda p: torch.optim.AdamW(p, chosen.lr, betas, weight_decay=chosen.weight_decay),
        "amgt": lambda p: AMGT(
            p, chosen.lr, betas, gamma=chosen.gamma, threshold=chosen.threshold, weight_decay=chosen.weight_decay
        ),
    }[chosen.optimizer](model.parameters())
    inputs, labels = examples.tensors
    rng = np.random.default_rng(seed)
    losses: list[float] = []
    wanted = chosen.steps or chosen.epochs * -(-len(examples) // chosen.batch_size)
    while len(losses) < wanted:
        order = rng.permutation(len(examples))
        for begin in range(0, len(examples), chosen.batch_size):
            if len(losses) == wanted:
                break
            batch = order[begin : begin + chosen.batch_size]
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            losses.append(float(loss.detach()))
            penalty = sum(((p - a) ** 2).sum() for p, a in zip(model.parameters(), anchors, strict=True))
            optimizer.zero_grad()
            (loss + chosen.prox_mu / 2 * penalty).backward()
            optimizer.step()
    vector = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]).numpy()
    return vector, float(np.mean(losses)), len(losses)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "amgt"])
@pytest.mark.parametrize("changes", [{}, {"steps": 7}, {"batch_size": 64, "steps": 3}, {"prox_mu": 0.7}])
def test_training_is_the_loop_one_would_write_by_hand(optimizer: str, changes: dict[str, Any]) -> None:
    task, examples = Toy(TaskSettings()), data(37)
    flat = flat_of(task)
    chosen = settings(optimizer=optimizer, **changes)
    expected, loss, _ = by_hand(flat.module, examples, chosen, seed=9)
    result = train_locally(task, flat, examples, flat.read(), chosen, seed=9)
    np.testing.assert_allclose(result.vector, expected, rtol=2e-5, atol=2e-6)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.num_examples == 37


def test_the_start_is_not_modified_and_the_module_need_not_stand_at_it() -> None:
    task, examples = Toy(TaskSettings()), data(37)
    flat = flat_of(task)
    start = flat.read()
    start.flags.writeable = False
    first = train_locally(task, flat, examples, start, settings(), seed=9)
    second = train_locally(task, flat, examples, start, settings(), seed=9)  # the module now stands elsewhere
    assert first.vector.tobytes() == second.vector.tobytes()
    other = train_locally(task, flat, examples, start, settings(), seed=10)
    assert other.vector.tobytes() != first.vector.tobytes()


def test_the_pull_of_fedprox_keeps_the_model_nearer() -> None:
    task, examples = Toy(TaskSettings()), data(37)
    flat = flat_of(task)
    start = flat.read()

    def distance(mu: float) -> float:
        moved = train_locally(task, flat, examples, start, settings(prox_mu=mu, epochs=10), seed=0)
        return float(np.linalg.norm(moved.vector - start))

    assert distance(10.0) < distance(1.0) < distance(0.0)


def test_a_frozen_parameter_stays_where_it_is() -> None:
    task = Toy(TaskSettings())
    flat = flat_of(task)
    flat.module[0].weight.requires_grad_(False)
    start = flat.read()
    moved = train_locally(task, flat, data(37), start, settings(prox_mu=0.1), seed=0).vector
    frozen = next(segment for segment in flat.layout.segments if segment.name == "0.weight")
    assert moved[frozen.offset : frozen.stop].tobytes() == start[frozen.offset : frozen.stop].tobytes()
    assert moved.tobytes() != start.tobytes()


def test_any_map_style_dataset_trains_to_the_same_bits_as_examples() -> None:
    task, examples = Toy(TaskSettings()), data(37)
    flat = flat_of(task)
    start = flat.read()
    fast = train_locally(task, flat, examples, start, settings(), seed=4)
    slow = train_locally(task, flat, TensorDataset(*examples.tensors), start, settings(), seed=4)
    assert fast.vector.tobytes() == slow.vector.tobytes()


def test_batches_that_are_dictionaries_train_and_count_right() -> None:
    task = Sentences(TaskSettings(num_clients=3, scheme="iid"))
    flat = flat_of(task)
    loss, metrics, count = evaluate(task, flat, task.train_set)
    result = train_locally(task, flat, task.client_data(1), flat.read(), settings(epochs=1), seed=0)
    assert result.num_examples == 100
    assert count == 300
    with torch.no_grad():
        torch.manual_seed(1)
        fresh = task.model()
        inputs, labels = data(300).tensors
        assert loss == pytest.approx(float(nn.functional.cross_entropy(fresh(inputs), labels)), rel=1e-5)
        assert metrics["accuracy"] == pytest.approx(float((fresh(inputs).argmax(-1) == labels).float().mean()))


def test_training_and_evaluation_draw_from_no_global_generator() -> None:
    task = Sentences(TaskSettings(num_clients=3, scheme="iid"))
    flat = flat_of(task)
    before = torch.get_rng_state()
    train_locally(task, flat, task.client_data(0), flat.read(), settings(epochs=1), seed=0)
    evaluate(task, flat, task.client_data(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_score_is_the_mean_over_examples_whatever_the_batches() -> None:
    task, examples = Toy(TaskSettings()), data(600)  # 256 + 256 + 88
    flat = flat_of(task)
    loss, metrics, count = evaluate(task, flat, examples)
    with torch.no_grad():
        scores = flat.module(examples.tensors[0])
        assert loss == pytest.approx(float(nn.functional.cross_entropy(scores, examples.tensors[1])), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(float((scores.argmax(-1) == examples.tensors[1]).float().mean()))
    assert count == 600


def test_evaluation_is_without_dropout_and_training_with_it() -> None:
    class Dropping(Toy):
        def model(self) -> nn.Module:
            return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))

    task = Dropping(TaskSettings())
    flat = flat_of(task)
    assert evaluate(task, flat, data(50)) == evaluate(task, flat, data(50))
    torch.manual_seed(0)
    one: LocalResult = train_locally(task, flat, data(50), flat.read() * 1, settings(epochs=1), seed=0)
    assert flat.module.training
    assert np.isfinite(one.vector).all()


def test_a_diverging_loss_names_the_rate() -> None:
    task = Toy(TaskSettings())
    flat = flat_of(task)
    with pytest.raises(RoundError, match=r"lower client\.lr \(now 1e\+30\)"):
        train_locally(task, flat, data(37), flat.read(), settings(lr=1e30, optimizer="sgd"), seed=0)


def test_no_data_is_an_error() -> None:
    task = Toy(TaskSettings())
    flat = flat_of(task)
    empty = Examples(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(TaskError, match="no training examples"):
        train_locally(task, flat, empty, flat.read(), settings(), seed=0)
    with pytest.raises(TaskError, match="no examples to evaluate"):
        evaluate(task, flat, empty)
