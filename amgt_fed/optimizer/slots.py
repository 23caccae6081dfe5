"""What a step works on: a parameter, its gradient and its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amgt_fed.optimizer.errors import UnsupportedTensor

_HALF = (torch.float16, torch.bfloat16)
_ON_HOST = ("step", "beta1_product")


@dataclass(slots=True)
class Slot:
    """A parameter, its gradient, and AMGT's state for it."""

    param: Tensor
    grad: Tensor
    exp_avg: Tensor  # m
    exp_avg_sq: Tensor  # v
    max_exp_avg_sq: Tensor | None  # running maximum of v, for amsgrad
    step: Tensor  # t, 0-d
    beta1_product: Tensor  # c, 0-d float64


def home(name: str, param: Tensor, group: dict[str, Any]) -> torch.device:
    """Where a state tensor lives: with its parameter, but the scalars on the host unless `capturable`."""
    return torch.device("cpu") if name in _ON_HOST and not group["capturable"] else param.device


def slot_of(index: int, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Slot:
    """Give parameter `index` of a group its slot; fills an empty `state`.

    Raises:
        UnsupportedTensor: the gradient is sparse or complex.
    """
    if grad.layout != torch.strided:
        raise UnsupportedTensor(
            f"parameter {index} of shape {tuple(param.shape)} has a sparse gradient; AMGT needs dense ones "
            "(for an embedding: sparse=False)"
        )
    if not state:
        # Squares of half-precision gradients leave that type's range, so their moments are kept in float32.
        dtype = torch.float32 if param.dtype in _HALF else param.dtype
        state["step"] = torch.zeros((), dtype=torch.float32, device=home("step", param, group))
        state["beta1_product"] = torch.ones((), dtype=torch.float64, device=home("beta1_product", param, group))
        state["exp_avg"] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
    if group["amsgrad"] and "max_exp_avg_sq" not in state:
        state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()
    return Slot(
        param,
        grad,
        state["exp_avg"],
        state["exp_avg_sq"],
        state["max_exp_avg_sq"] if group["amsgrad"] else None,
        state["step"],
        state["beta1_product"],
    )


def by_device(slots: list[Slot]) -> list[list[Slot]]:
    """Sort slots into lists that one kernel call can take."""
    parts: dict[tuple[torch.device, torch.dtype], list[Slot]] = {}
    for slot in slots:
        parts.setdefault((slot.param.device, slot.exp_avg.dtype), []).append(slot)
    return list(parts.values())


def bad_slot(slots: list[Slot]) -> Slot | None:
    """Give the first slot whose gradient, or its square, is not finite; changes nothing."""
    for part in by_device([slot for slot in slots if slot.grad.numel()]):
        # One quick look at all norms; only an overflow or a real fault needs the close look.
        norms = torch.stack(torch._foreach_norm([slot.grad.to(slot.exp_avg.dtype) for slot in part]))
        if float(norms.square().sum()) < torch.inf:
            continue
        for slot in part:
            peak = torch.linalg.vector_norm(slot.grad.to(slot.exp_avg.dtype), ord=torch.inf)
            if not bool(torch.isfinite(peak * peak)):
                return slot
    return None


def store(slot: Slot, new: Slot, state: dict[str, Any], *, differentiable: bool) -> None:
    """Write a functional step's result back; under autograd the state is replaced, so that the graph stays intact."""
    for name in ("step", "beta1_product", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        value = getattr(new, name)
        if value is None:
            continue
        if differentiable:
            state[name] = value
        else:
            getattr(slot, name).copy_(value)
    slot.param.copy_(new.param)
