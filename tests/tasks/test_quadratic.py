"""The paper's quadratics: the clients' mean is f, the constants are exact."""

from __future__ import annotations

import math

import pytest
import torch

from amgt_fed.errors import TaskError
from amgt_fed.tasks import TaskSettings, load_task
from amgt_fed.tasks.quadratic import Point

FUNCTIONS = {
    1: lambda x, y: 2 * x * x + 2 * y * y - 2 * x * y + 2,
    2: lambda x, y: x * x + 2 * y * y - 2 * x * y + 2,
}
SPECTRA = {1: (2.0, 6.0), 2: (3 - math.sqrt(5), 3 + math.sqrt(5))}


@pytest.mark.parametrize("application", [1, 2])
@pytest.mark.parametrize("clients", [1, 3, 10])
def test_the_mean_of_the_clients_is_the_papers_function(application: int, clients: int) -> None:
    settings = TaskSettings(scheme="natural", num_clients=clients, options={"application": application})
    task = load_task("paper-quadratic", settings)
    for x, y in ((1.0, 1.0), (-0.5, 2.0), (0.0, 0.0)):
        model = Point((x, y))
        expected = FUNCTIONS[application](x, y)
        losses = [task.loss(model, task.client_data(client).tensors).item() for client in range(clients)]  # type: ignore[attr-defined]
        assert sum(losses) / clients == pytest.approx(expected, rel=1e-5)
        assert task.loss(model, task.test_data().tensors).item() == pytest.approx(expected)  # type: ignore[union-attr]
        metrics = task.metrics(model, task.test_data().tensors)  # type: ignore[union-attr]
        assert metrics["gap"] == pytest.approx(expected - 2)
        assert metrics["distance"] == pytest.approx(math.hypot(x, y))
    constants = task.constants()
    assert constants is not None
    assert (constants.mu, constants.smoothness) == pytest.approx(SPECTRA[application])
    assert constants.f_star == constants.f_low == 2.0


def test_the_clients_disagree_and_the_start_is_the_users() -> None:
    task = load_task("paper-quadratic", TaskSettings(scheme="natural", num_clients=4, options={"start": "1, -2.5"}))
    assert torch.equal(task.model().x, torch.tensor([1.0, -2.5]))  # type: ignore[arg-type]
    assert len({tuple(shift.tolist()) for shift in task.train_set.tensors[0]}) == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options", [{"application": 3}, {"start": "1"}, {"start": "a,b"}, {"start": "nan,0"}, {"spread": -1.0}, {"x": 1}]
)
def test_options_out_of_range_are_refused(options: dict[str, float | str]) -> None:
    with pytest.raises(TaskError, match=rf"options\.{next(iter(options))}"):
        load_task("paper-quadratic", TaskSettings(options=options))


def test_another_scheme_is_refused() -> None:
    with pytest.raises(TaskError, match="set it to natural"):
        load_task("paper-quadratic", TaskSettings(scheme="iid")).client_indices  # noqa: B018
