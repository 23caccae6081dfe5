"""The constructor's surface and what it refuses."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from amgt_fed import AMGT
from amgt_fed.optimizer.errors import InvalidHyperparameter, UnsupportedTensor

NAMES = (
    *("params", "lr", "betas", "eps", "gamma", "kappa", "lr_decay", "mu", "t0", "threshold", "threshold_mode"),
    "threshold_steps",
    *("variance", "preconditioned", "weight_decay", "amsgrad", "maximize", "foreach", "capturable"),
    *("differentiable", "nonfinite"),
)


def test_the_constructor_takes_every_documented_setting() -> None:
    assert set(NAMES) <= set(inspect.signature(AMGT).parameters)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, bad) for name in ("lr", "eps", "gamma", "lr_decay", "threshold", "weight_decay") for bad in (-1, "1")],
        *[("lr", bad) for bad in (float("nan"), float("inf"), True, torch.ones(2))],
        *[("betas", bad) for bad in ((0.9,), 0.9, (0.9, 1.0), (-0.1, 0.9), (0.9, float("nan")))],
        *[("kappa", bad) for bad in (-0.1, 1.1)],
        *[("mu", bad) for bad in (0, -1.0, float("inf"))],
        *[(name, "sometimes") for name in ("threshold_mode", "variance", "threshold_rule", "nonfinite")],
        *[(name, 1) for name in ("preconditioned", "amsgrad", "maximize", "capturable", "differentiable")],
        *[(name, "yes") for name in ("foreach", "fused")],
        *[("threshold_steps", bad) for bad in (-1, 1.5, True, "3", 2**31)],
        ("t0", 3.0),
    ],
)
def test_a_bad_setting_is_a_value_error_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        AMGT([torch.zeros(2)], **{name: value})
    assert isinstance(caught.value, InvalidHyperparameter)
    assert isinstance(value, torch.Tensor | tuple) or repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"foreach": True, "differentiable": True}, {"fused": True, "foreach": True}, {"mu": 1.0, "lr_decay": 0.1}],
)
def test_settings_that_exclude_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidHyperparameter):
        AMGT([torch.zeros(2)], **options)


def test_a_group_is_checked_like_the_constructor() -> None:
    optimizer = AMGT([torch.zeros(2)])
    with pytest.raises(InvalidHyperparameter, match="gamma"):
        optimizer.add_param_group({"params": [torch.zeros(2)], "gamma": -1.0})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_complex_and_integer_parameters_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedTensor, match=str(dtype)):
        AMGT([torch.zeros(2, dtype=dtype)])


def test_a_sparse_gradient_is_refused() -> None:
    table = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = AMGT(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(UnsupportedTensor, match="sparse"):
        optimizer.step()
