"""The hard threshold with an l2 budget, T of (25)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amgt_fed.optimizer.errors import InvalidBudget


def hard_threshold(moment: Tensor, budget: float, *, exact: bool = True) -> Tensor:
    """Zero as many of the smallest entries as an l2 budget allows.

    Args:
        moment: any shape, real floating point; not modified.
        budget: delta_t >= 0, in the units of `moment`; 0 keeps every entry.
        exact: drop the most entries the budget allows; ties go by position, first dropped first. False: the cheap
            sufficient rule, which drops the entries with |m_i| <= delta_t / sqrt(n) and may leave budget unspent.

    Returns:
        Same shape, dtype and device, with ||moment - result||_2 <= budget. NaN counts as infinitely large: it stays,
        as an infinity does, unless the budget is infinite.

    Raises:
        InvalidBudget: `budget` is negative or NaN.

    Source: (25), (27).
    """
    if not budget >= 0:  # written so that NaN, which fails every comparison, is refused too
        raise InvalidBudget(budget)
    kept = moment.clone(memory_format=torch.contiguous_format)
    hard_threshold_(kept.view(-1), budget, exact=exact)
    return kept


def hard_threshold_(flat: Tensor, budget: float, *, exact: bool = True) -> float:
    """Zero in place as many of the smallest entries of a flat tensor as an l2 budget allows.

    Returns:
        The measured ||T(m) - m||_2.
    """
    if budget == 0 or flat.numel() == 0:
        return 0.0
    if exact:
        # float64 and relative to the budget: a float32 running sum drifts past what it is compared with, and the
        # square of a float64 overflows.
        magnitude, order = flat.abs().sort(stable=True)
        ratio = magnitude.double().div_(budget)
        spent = ratio.square_().cumsum_(0)
        count = int((spent <= 1).sum())
        flat[order[:count]] = 0
        return budget * math.sqrt(float(spent[count - 1])) if count else 0.0
    dropped = flat.abs() <= budget / math.sqrt(flat.numel())
    error = float(torch.where(dropped, flat, 0).double().div_(budget).square_().sum())
    flat.masked_fill_(dropped, 0)
    return budget * math.sqrt(error)


def hard_threshold_mask(moment: Tensor, budget: Tensor, *, exact: bool = True) -> Tensor:
    """Mark what `hard_threshold` would drop, for a budget that lives on the device.

    Args:
        moment: any shape; not modified.
        budget: 0-d tensor >= 0.

    Returns:
        Boolean tensor of the moment's shape, True where the entry is dropped. Nothing is read back to the host, so
        the call may be captured in a CUDA graph or compiled.
    """
    flat = moment.detach().reshape(-1).abs()
    if not exact:
        return (flat <= budget / math.sqrt(max(1, flat.numel()))).view(moment.shape)
    magnitude, order = flat.sort(stable=True)
    dropped = (magnitude.double() / budget).square().cumsum(0) <= 1
    return torch.empty_like(dropped).scatter_(0, order, dropped).view(moment.shape)
