"""The same step out of place, every scalar a tensor: for autograd, CUDA graphs and torch.compile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amgt_fed.optimizer.slots import Slot
from amgt_fed.optimizer.threshold import hard_threshold_mask


def step_functional(slot: Slot, group: Mapping[str, Any], finite: Tensor) -> tuple[Slot, Tensor]:
    """Give the slot after one step, with new tensors, without reading anything back to the host.

    Args:
        slot: not modified.
        group: the checked parameter group; `lr` may be a tensor and gets a gradient when autograd records.
        finite: 0-d bool; where False the slot comes back as it was.

    Returns:
        The new slot, and the squared threshold error, 0-d.
    """
    dtype = slot.exp_avg.dtype
    beta1, beta2 = group["betas"]
    x = slot.param.clone().to(dtype)
    g = torch.where(finite, slot.grad.to(dtype), 0)
    g = -g if group["maximize"] else g
    if group["weight_decay"] and not group["decoupled_weight_decay"]:
        g = g + group["weight_decay"] * x
    t = slot.step.to(torch.float64) + 1
    unbias2 = 1 - torch.pow(torch.full_like(t, beta2), t)

    v = beta2 * slot.exp_avg_sq + (1 - beta2) * g * g
    unbias1_prev = torch.where(t > 1, 1 - slot.beta1_product, 1.0)
    m_hat_prev = slot.exp_avg / unbias1_prev.to(dtype)
    spread = (v / unbias2.to(dtype) - m_hat_prev * m_hat_prev).clamp_min(0)
    if group["variance"] == "relative":
        square = (v / unbias2.to(dtype)).sum()
        noise = (spread.sum() / torch.where(square > 0, square, 1)).nan_to_num(1.0)  # D1; NaN: both sums overflowed
    else:
        noise = spread.sum() / max(1, v.numel())
    beta1_t = beta1 / (1 + group["gamma"] * noise.to(torch.float64))  # (9), D2
    weight = beta1_t.to(dtype)
    m = weight * slot.exp_avg + (1 - weight) * g
    c = slot.beta1_product * beta1_t
    m_hat = m / (1 - c).to(dtype)
    if group["kappa"]:
        m_hat = m_hat + group["kappa"] * (g - m_hat)  # D3
    u, error = _threshold(m_hat, group, t)

    second = v if slot.max_exp_avg_sq is None else torch.maximum(slot.max_exp_avg_sq, v)
    eta = _step_size(group, t).to(dtype)
    if group["weight_decay"] and group["decoupled_weight_decay"]:
        x = x * (1 - eta * group["weight_decay"])
    if group["preconditioned"]:
        u = u / (second / unbias2.to(dtype) + max(group["eps"], torch.finfo(dtype).tiny)).sqrt()
    stepped = (x - eta * u).to(slot.param.dtype)

    def guarded(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(finite, new.to(old.dtype), old)

    peak = None if slot.max_exp_avg_sq is None else guarded(second, slot.max_exp_avg_sq)
    new = Slot(
        param=guarded(stepped, slot.param),
        grad=slot.grad,
        exp_avg=guarded(m, slot.exp_avg),
        exp_avg_sq=guarded(v, slot.exp_avg_sq),
        max_exp_avg_sq=peak,
        step=guarded(t, slot.step),
        beta1_product=guarded(c, slot.beta1_product),
    )
    return new, torch.where(finite, error, 0)


def _step_size(group: Mapping[str, Any], t: Tensor) -> Tensor:
    """(10), or (13) when mu is given."""
    lr = group["lr"]
    if group["mu"] is None:
        return torch.as_tensor(lr / (1 + group["lr_decay"] * (t - 1)))
    initial_lr = group.get("initial_lr", lr)
    factor = lr / initial_lr if float(initial_lr) > 0 else 1.0
    return torch.as_tensor(factor / (group["mu"] * (t + group["t0"])))


def _threshold(m_hat: Tensor, group: Mapping[str, Any], t: Tensor) -> tuple[Tensor, Tensor]:
    if not group["threshold"]:
        return m_hat, torch.zeros_like(t)
    share = group["threshold"] / t
    if group["threshold_steps"]:
        share = torch.where(t <= group["threshold_steps"], share, 0)
    norm = torch.linalg.vector_norm(m_hat.detach(), dtype=torch.float64)
    relative = group["threshold_mode"] == "relative"
    dropped = hard_threshold_mask(m_hat, share * norm if relative else share, exact=group["threshold_rule"] == "exact")
    if relative:
        dropped = dropped | (share >= 1)
    error = torch.where(dropped, m_hat.detach(), 0).double().square().sum()
    return torch.where(dropped, 0, m_hat), error
