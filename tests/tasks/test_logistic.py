"""Regularised logistic regression: the constants hold, the regulariser is in the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call

from amgt_fed.errors import TaskError
from amgt_fed.tasks import TaskSettings, load_task


def test_the_hessians_spectrum_lies_between_mu_and_the_bound_at_random_points() -> None:
    task = load_task("digits-logreg", TaskSettings(options={"mu": 0.05}))
    constants = task.constants()
    assert constants is not None
    assert constants.mu == 0.05
    assert constants.smoothness is not None
    model = task.model().double()
    inputs, labels = task.train_set.tensors  # type: ignore[attr-defined]
    batch = (inputs.double(), labels)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = torch.split(flat, [shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        scores = functional_call(model, named, (batch[0],))
        return torch.nn.functional.cross_entropy(scores, batch[1]) + 0.5 * 0.05 * flat.square().sum()

    size = sum(shape.numel() for shape in shapes.values())
    for seed, scale in ((0, 0.0), (1, 0.3)):
        generator = torch.Generator().manual_seed(seed)
        point = scale * torch.randn(size, generator=generator, dtype=torch.float64)
        torch.nn.utils.vector_to_parameters(point, model.parameters())
        assert task.loss(model, batch).item() == pytest.approx(float(loss(point)), rel=1e-12)
        spectrum = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, point).numpy())
        assert spectrum[0] >= 0.05 - 1e-9
        assert spectrum[-1] <= constants.smoothness


@pytest.mark.parametrize("mu", [0, -1.0, float("nan"), float("inf"), "small", True])
def test_a_regulariser_that_is_none_is_refused(mu: float | str) -> None:
    with pytest.raises(TaskError, match=r"options\.mu"):
        load_task("digits-logreg", TaskSettings(options={"mu": mu}))


def test_an_option_nobody_reads_is_refused() -> None:
    with pytest.raises(TaskError, match=r"options\.m is unknown.*mu"):
        load_task("digits-logreg", TaskSettings(options={"m": 1.0}))
