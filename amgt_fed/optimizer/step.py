"""One step on one tensor, in place, (7)-(9), (14), (25)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amgt_fed.optimizer.rule import Rule
from amgt_fed.optimizer.threshold import hard_threshold_


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


def ascent_free_gradient(param: Tensor, grad: Tensor, rule: Rule, dtype: torch.dtype) -> Tensor:
    """Give g: in the state's precision, negated to maximize, with coupled weight decay added."""
    g = grad.to(dtype)
    if rule.maximize:
        g = -g
    if rule.weight_decay and not rule.decoupled:
        g = g.add(param.to(dtype), alpha=rule.weight_decay)
    return g


def step_tensor(slot: Slot, rule: Rule) -> float:
    """Step one tensor; modifies the parameter and all its state, never the gradient.

    Returns:
        The squared threshold error ||T(m_hat) - m_hat||_2^2.
    """
    param, m, v = slot.param, slot.exp_avg, slot.exp_avg_sq
    g = ascent_free_gradient(param, slot.grad, rule, m.dtype)
    t = int(slot.step) + 1
    c_prev = float(slot.beta1_product)

    v.mul_(rule.beta2).addcmul_(g, g, value=1 - rule.beta2)
    beta1 = rule.beta1
    if rule.gamma:
        # m_hat_prev is 0 at the first step, where 1 - c is 0 too.
        weight = rule.unbias2(t) / (1 - c_prev) ** 2 if t > 1 else 0.0
        spread = torch.addcmul(v, m, m, value=-weight).clamp_min_(0).sum()
        beta1 = rule.beta1_at(float(spread), float(v.sum()), v.numel(), t)
    m.lerp_(g, 1 - beta1)
    c = c_prev * beta1
    slot.step.fill_(t)
    slot.beta1_product.fill_(c)

    second = v
    if slot.max_exp_avg_sq is not None:
        second = torch.maximum(slot.max_exp_avg_sq, v, out=slot.max_exp_avg_sq)
    direction, error = m, 0.0
    if rule.kappa or rule.theta:
        direction = m.clone()
        if rule.kappa:
            direction.lerp_(g.mul(1 - c), rule.kappa)  # D3, in units of m: m_hat (1 - c)
        if rule.theta:
            error = threshold_(direction, rule, t, 1 - c)
    target = param if param.dtype == m.dtype else param.to(m.dtype)
    if rule.weight_decay and rule.decoupled:
        target.mul_(1 - rule.step_size(t) * rule.weight_decay)
    if rule.preconditioned:
        denominator = torch.add(second, rule.denominator_offset(t, m.dtype)).sqrt_()
        target.addcdiv_(direction, denominator, value=-rule.scale(t, c))
    else:
        target.add_(direction, alpha=-rule.scale(t, c))
    if target is not param:
        param.copy_(target)
    return error


def threshold_(direction: Tensor, rule: Rule, t: int, unbias1: float) -> float:
    """Apply T of (25) to a contiguous `direction` = m_hat * unbias1 and give the squared error in units of m_hat."""
    flat = direction.view(-1) if direction.is_contiguous() else direction.as_strided((direction.numel(),), (1,))
    if rule.relative_threshold:
        share = rule.theta / t
        norm = float(torch.linalg.vector_norm(flat, dtype=torch.float64))
        if share >= 1:  # decided here, not by how two roundings of the same norm compare
            flat.zero_()
            return (norm / unbias1) ** 2
        budget = share * norm
    else:
        budget = rule.theta / t * unbias1
    return (hard_threshold_(flat, budget, exact=rule.exact_threshold) / unbias1) ** 2
