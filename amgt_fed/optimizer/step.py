"""The step in place, (7)-(9), (14), (25), on blocks that stay in cache.

Equation (9) needs a sum over the whole tensor before the first moment can move, so there are two passes: one over
g, m and v, one over everything. A large tensor is walked in blocks, forwards and then backwards, so that the second
pass finds the last blocks still in cache; small tensors share a block. Either way no temporary exceeds one block,
unless kappa or a threshold asks for a copy of one tensor's first moment.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amgt_fed.optimizer import lists
from amgt_fed.optimizer.rule import Rule
from amgt_fed.optimizer.slots import Slot
from amgt_fed.optimizer.threshold import hard_threshold_

BLOCK = 1 << 17
"""Elements of a block on the CPU: a few MiB of float32; smaller blocks cost more in calls than they save in cache."""
DEVICE_BLOCK = 1 << 24
"""Elements of small tensors that share a block elsewhere; large tensors are not cut there."""


@dataclass(slots=True)
class Block:
    """Tensors, or pieces of one tensor, that are worked on together; all lists have one entry per tensor."""

    x: list[Tensor]
    grad: list[Tensor]
    m: list[Tensor]
    v: list[Tensor]
    peak: list[Tensor]  # empty without amsgrad

    def gradient(self, rule: Rule) -> list[Tensor]:
        """Give g: in the state's precision, negated to maximize, with coupled weight decay added."""
        g = [grad.to(m.dtype) for grad, m in zip(self.grad, self.m, strict=True)]
        if rule.maximize:
            g = [-gradient for gradient in g]
        if rule.weight_decay and not rule.decoupled:
            g = [
                gradient.add(x.to(gradient.dtype), alpha=rule.weight_decay)
                for gradient, x in zip(g, self.x, strict=True)
            ]
        return g


def step_slots(slots: list[Slot], rule: Rule, *, foreach: bool) -> float:
    """Step every tensor of a group; modifies parameters and state, never a gradient.

    Args:
        slots: tensors of one device.
        foreach: work on many small tensors with one call; the bits are the same either way (on the CPU).

    Returns:
        The squared threshold error, sum of ||T(m_hat) - m_hat||_2^2 over the tensors.
    """
    error = 0.0
    small: list[Slot] = []
    room = 0
    for slot in slots:
        on_cpu = slot.param.device.type == "cpu"
        limit = BLOCK if on_cpu else DEVICE_BLOCK
        if slot.param.numel() > limit:
            error += _step([slot], _pieces(slot) if on_cpu else [_whole([slot])], rule)
            continue
        if small and (not foreach or slot.param.numel() > room):
            error += _step(small, [_whole(small)], rule)
            small = []
        room = (room if small else limit) - slot.param.numel()
        small.append(slot)
    return error + (_step(small, [_whole(small)], rule) if small else 0.0)


def _whole(slots: list[Slot]) -> Block:
    return Block(
        [slot.param for slot in slots],
        [slot.grad for slot in slots],
        [slot.exp_avg for slot in slots],
        [slot.exp_avg_sq for slot in slots],
        [slot.max_exp_avg_sq for slot in slots if slot.max_exp_avg_sq is not None],
    )


def _pieces(slot: Slot) -> list[Block]:
    """Cut a tensor into blocks; tensors that do not lie in memory the same way stay whole."""
    whole = _whole([slot])
    tensors = [whole.x[0], whole.grad[0], whole.m[0], whole.v[0], *whole.peak]
    flat = [_flat(tensor) for tensor in tensors]
    if any(tensor.stride() != tensors[0].stride() for tensor in tensors) or any(f is None for f in flat):
        return [whole]
    cut = [torch.split(tensor, BLOCK) for tensor in flat if tensor is not None]
    return [Block([x], [grad], [m], [v], list(peak)) for x, grad, m, v, *peak in zip(*cut, strict=True)]


def _flat(tensor: Tensor) -> Tensor | None:
    """View a tensor's memory as a vector, whatever the order of its dimensions; None if it has gaps."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    dense = torch.ops.aten.is_non_overlapping_and_dense(tensor)
    return tensor.as_strided((tensor.numel(),), (1,)) if dense else None


def _step(slots: list[Slot], blocks: list[Block], rule: Rule) -> float:
    """Step the tensors of `slots`: one block with all of them, or the pieces of a single one."""
    kernels = lists.FOREACH if len(slots) > 1 else lists.loop(max(block.m[0].numel() for block in blocks))
    t = [int(slot.step) + 1 for slot in slots]
    c_prev = [float(slot.beta1_product) for slot in slots]
    beta1 = _second_moment_(blocks, rule, kernels, t, c_prev, [slot.param.numel() for slot in slots])
    c = [old * factor for old, factor in zip(c_prev, beta1, strict=True)]
    for slot, step, product in zip(slots, t, c, strict=True):
        slot.step.fill_(step)
        slot.beta1_product.fill_(product)
    if rule.kappa == 0 and not any(rule.theta_at(step) for step in t):
        for block in reversed(blocks):
            kernels.lerp_(block.m, block.gradient(rule), [1 - b for b in beta1])  # (8)
            _descend_(block, block.m, rule, kernels, t, c)
        return 0.0
    error = 0.0
    for block in blocks:
        kernels.lerp_(block.m, block.gradient(rule), [1 - b for b in beta1])
    if len(slots) == 1:
        directions, error = _direction(blocks, rule, t[0], c[0])
    else:
        together: list[Tensor] = []
        for index, slot in enumerate(slots):
            own, squared = _direction([_whole([slot])], rule, t[index], c[index])
            together.extend(own[0])
            error += squared
        directions = [together]
    for block, direction in zip(blocks, directions, strict=True):
        _descend_(block, direction, rule, kernels, t, c)
    return error


def _second_moment_(
    blocks: list[Block], rule: Rule, kernels: lists.Kernels, t: list[int], c_prev: list[float], counts: list[int]
) -> list[float]:
    """Move v, (7), and give b1_t for each tensor, (9)."""
    spread, square = [0.0] * len(t), [0.0] * len(t)
    # m_hat_prev is 0 at the first step, where 1 - c is 0 too. In units of v: m_hat_prev^2 (1 - b2^t).
    weights = [-rule.unbias2(s) / (1 - c) ** 2 if s > 1 else 0.0 for s, c in zip(t, c_prev, strict=True)]
    for block in blocks:
        g = block.gradient(rule)
        kernels.mul_(block.v, rule.beta2)
        kernels.addcmul_(block.v, g, g, [1 - rule.beta2] * len(g))
        if rule.gamma:
            excess = kernels.clamped(block.v, block.m, weights)
            for index, value in enumerate(kernels.sums(excess)):
                spread[index] += value
            for index, value in enumerate(kernels.sums(block.v)):
                square[index] += value
        if block.peak:
            kernels.maximum_(block.peak, block.v)
    if not rule.gamma:
        return [rule.beta1] * len(t)
    return [rule.beta1_at(*sums) for sums in zip(spread, square, counts, t, strict=True)]


def _direction(blocks: list[Block], rule: Rule, t: int, c: float) -> tuple[list[list[Tensor]], float]:
    """Copy one tensor's m, correct it (2), threshold it (25); still to be divided by 1 - c.

    Returns:
        One list of one tensor for each block, views of one copy, and the squared threshold error of m_hat.
    """
    sizes = [block.m[0].numel() for block in blocks]
    flat = torch.empty(sum(sizes), dtype=blocks[0].m[0].dtype, device=blocks[0].m[0].device)
    parts = list(torch.split(flat, sizes))
    for index, block in enumerate(blocks):
        parts[index] = parts[index].view(block.m[0].shape)
        parts[index].copy_(block.m[0])
        if rule.kappa:
            parts[index].lerp_(block.gradient(rule)[0].mul(1 - c), rule.kappa)  # D3
    return [[part] for part in parts], threshold_(flat, rule, t, 1 - c) if rule.theta_at(t) else 0.0


def threshold_(flat: Tensor, rule: Rule, t: int, unbias1: float) -> float:
    """Apply T of (25) in place to a flat m_hat * unbias1 and give the squared error in units of m_hat."""
    if rule.relative_threshold:
        share = rule.theta_at(t) / t
        norm = float(torch.linalg.vector_norm(flat, dtype=torch.float64))
        if share >= 1:  # decided here, not by how two roundings of the same norm compare
            flat.zero_()
            return (norm / unbias1) ** 2
        budget = share * norm
    else:
        budget = rule.theta_at(t) / t * unbias1
    return (hard_threshold_(flat, budget, exact=rule.exact_threshold) / unbias1) ** 2


def _descend_(
    block: Block, direction: list[Tensor], rule: Rule, kernels: lists.Kernels, t: list[int], c: list[float]
) -> None:
    """Move x, (7) or (14), against `direction` = u (1 - c)."""
    dtype = block.m[0].dtype
    x = [param.to(dtype) for param in block.x]
    if rule.weight_decay and rule.decoupled:
        kernels.mul_each_(x, [1 - rule.step_size(s) * rule.weight_decay for s in t])
    scales = [-rule.scale(s, product) for s, product in zip(t, c, strict=True)]
    if rule.preconditioned:
        second = block.peak or block.v
        inverse = kernels.inverse_root(second, [rule.denominator_offset(s, dtype) for s in t])
        kernels.addcmul_(x, direction, inverse, scales)
    else:
        kernels.add_(x, direction, scales)
    for param, stepped in zip(block.x, x, strict=True):
        if stepped is not param:
            param.copy_(stepped)
