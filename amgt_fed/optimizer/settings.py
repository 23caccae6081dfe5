"""The settings of one parameter group: names, defaults, ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal, TypeAlias

import torch

from amgt_fed.optimizer.errors import InvalidHyperparameter

Mode: TypeAlias = Literal["relative", "absolute"]
NonFinite: TypeAlias = Literal["raise", "skip"]

_MODES: dict[str, tuple[str, ...]] = {
    "threshold_mode": ("relative", "absolute"),
    "variance": ("relative", "absolute"),
    "threshold_rule": ("exact", "sufficient"),
    "nonfinite": ("raise", "skip"),
}
_NOT_NEGATIVE = ("lr", "eps", "gamma", "lr_decay", "t0", "threshold", "weight_decay")
_SWITCHES = (
    "preconditioned",
    "decoupled_weight_decay",
    "amsgrad",
    "maximize",
    "capturable",
    "differentiable",
)


def check_settings(group: Mapping[str, Any]) -> None:
    """Raise unless every setting of a parameter group is usable.

    Raises:
        InvalidHyperparameter: a ValueError that names the setting, its value and the allowed range.
    """
    for name in _NOT_NEGATIVE:
        if not _number(name, group[name], "a finite number >= 0") >= 0:
            raise InvalidHyperparameter(name, group[name], "a finite number >= 0")
    _check_betas(group["betas"])
    if not 0 <= _number("kappa", group["kappa"], "a number in [0, 1]") <= 1:
        raise InvalidHyperparameter("kappa", group["kappa"], "a number in [0, 1]")
    steps = group["threshold_steps"]
    if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps < 2**31:
        raise InvalidHyperparameter("threshold_steps", steps, "a whole number >= 0 and < 2^31")
    for name, choices in _MODES.items():
        if group[name] not in choices:
            raise InvalidHyperparameter(name, group[name], " or ".join(map(repr, choices)))
    for name in _SWITCHES:
        if not isinstance(group[name], bool):
            raise InvalidHyperparameter(name, group[name], "True or False")
    for name in ("foreach", "fused"):
        if group[name] is not None and not isinstance(group[name], bool):
            raise InvalidHyperparameter(name, group[name], "True, False or None (chosen by device)")
    _check_step_size(group)
    _check_paths(group)


def _check_betas(betas: object) -> None:
    allowed = "two numbers in [0, 1)"
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise InvalidHyperparameter("betas", betas, allowed)
    for index, beta in enumerate(betas):
        if not 0 <= _number(f"betas[{index}]", beta, "a number in [0, 1)") < 1:
            raise InvalidHyperparameter(f"betas[{index}]", beta, "a number in [0, 1)")


def _check_step_size(group: Mapping[str, Any]) -> None:
    mu = group["mu"]
    if mu is None:
        if group["t0"] != 0:
            raise InvalidHyperparameter("t0", group["t0"], "0 unless mu is given (alpha_t = 1 / (mu (t + t0)))")
        return
    if not _number("mu", mu, "None or a finite number > 0") > 0:
        raise InvalidHyperparameter("mu", mu, "None or a finite number > 0")
    if group["lr_decay"] != 0:
        raise InvalidHyperparameter("lr_decay", group["lr_decay"], "0 when mu is given; the two are alternatives")


def _check_paths(group: Mapping[str, Any]) -> None:
    for path in ("foreach", "fused"):
        for exclusive in ("differentiable", "capturable") if path == "fused" else ("differentiable",):
            if group[path] and group[exclusive]:
                raise InvalidHyperparameter(path, group[path], f"False or None when {exclusive}=True")
    if group["foreach"] and group["fused"]:
        raise InvalidHyperparameter("fused", True, "False or None when foreach=True")


def _number(name: str, value: object, allowed: str) -> float:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex():
            raise InvalidHyperparameter(name, value, allowed + ", or a tensor of one element")
        value = float(value.detach())
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidHyperparameter(name, value, allowed)
    return float(value)
