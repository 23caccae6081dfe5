"""The hard threshold with an l2 budget, T of (25)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amgt_fed.optimizer.errors import InvalidBudget

_SORTED = 1 << 12
"""Up to this many entries a sort is quickest."""
_PIECE = 1 << 18
"""Entries counted at a time: the counts need 16 bytes an entry."""
_BINS = 1 << 15
"""Values of a float's upper 16 bits, sign aside; they order magnitudes."""


def hard_threshold(moment: Tensor, budget: float, *, exact: bool = True) -> Tensor:
    """Zero as many of the smallest entries as an l2 budget allows.

    Args:
        moment: any shape, real floating point; not modified.
        budget: delta_t >= 0, in the units of `moment`; 0 keeps every entry.
        exact: drop the most entries the budget allows; ties go by position, first dropped first. False: the cheap
            sufficient rule, which drops the entries with |m_i| <= delta_t / sqrt(n) and may leave budget unspent.

    Returns:
        Same shape, dtype and device, with ||moment - result||_2 <= budget. NaN and infinities are never dropped.

    Raises:
        InvalidBudget: `budget` is negative or NaN.

    Source: (25), (27).
    """
    if not budget >= 0:  # written so that NaN, which fails every comparison, is refused too
        raise InvalidBudget(budget)
    kept = moment.detach().clone(memory_format=torch.contiguous_format)
    hard_threshold_(kept.view(-1), float(budget), exact=exact)
    return kept


def hard_threshold_(flat: Tensor, budget: float, *, exact: bool = True) -> float:
    """Zero in place as many of the smallest entries of a flat tensor as an l2 budget allows.

    Returns:
        The measured ||T(m) - m||_2.
    """
    if budget == 0 or flat.numel() == 0:
        return 0.0
    if not exact:
        return _drop_(flat, budget / math.sqrt(flat.numel()), budget)
    if flat.numel() <= _SORTED or flat.device.type != "cpu":
        spent = _drop_smallest_(flat, torch.arange(flat.numel(), device=flat.device), budget, 0.0)
        return budget * math.sqrt(spent)
    # Sum the squares by the magnitude's upper bits; everything below the bin where the budget runs out is dropped,
    # and only that bin needs sorting.
    below = _energy_by_bin(flat, budget).cumsum_(0)
    full = int((below <= 1).sum())  # bins are cumulative, so the True ones come first
    if full == _BINS:
        return _drop_(flat, math.inf, budget)
    edge = _positions_in_bin(flat, full)
    spent = float(below[full - 1]) if full else 0.0
    lower = _bin_floor(full, flat.dtype)
    for piece in torch.split(flat, _PIECE):
        piece.masked_fill_(piece.abs() < lower, 0)
    return budget * math.sqrt(_drop_smallest_(flat, edge, budget, spent))


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


def _relative_square(values: Tensor, budget: float) -> Tensor:
    # float64 and relative to the budget: a float32 running sum drifts past what it is compared with, and the square
    # of a float64 overflows.
    return values.abs().double().div_(budget).square_()


def _drop_(flat: Tensor, limit: float, budget: float) -> float:
    """Zero |m_i| <= limit and give the norm of what was dropped."""
    spent = 0.0
    for piece in torch.split(flat, _PIECE if flat.device.type == "cpu" else flat.numel()):
        dropped = (piece.abs() <= limit) & piece.isfinite()
        spent += float(_relative_square(torch.where(dropped, piece, 0), budget).sum())
        piece.masked_fill_(dropped, 0)
    return budget * math.sqrt(spent) if math.isfinite(budget) else math.nan


def _drop_smallest_(flat: Tensor, positions: Tensor, budget: float, spent: float) -> float:
    """Zero the smallest of the entries at `positions` while budget is left; give the share spent, squared."""
    magnitude, order = flat[positions].abs().sort(stable=True)
    running = _relative_square(magnitude, budget).cumsum_(0).add_(spent)
    count = int((running <= 1).sum())
    flat[positions[order[:count]]] = 0
    return float(running[count - 1]) if count else spent


def _bits(piece: Tensor) -> tuple[Tensor, int]:
    """Give the magnitudes' bits as integers of the same order, and the shift that leaves the upper 16."""
    if piece.dtype == torch.float64:
        return piece.abs().view(torch.int64), 48
    return piece.abs().float().view(torch.int32), 16


def _bin_floor(index: int, dtype: torch.dtype) -> float:
    kind, bits, shift = (torch.float64, torch.int64, 48) if dtype == torch.float64 else (torch.float32, torch.int32, 16)
    return float(torch.tensor(index << shift, dtype=bits).view(kind))


def _energy_by_bin(flat: Tensor, budget: float) -> Tensor:
    energy = torch.zeros(_BINS, dtype=torch.float64)
    for piece in torch.split(flat, _PIECE):
        bits, shift = _bits(piece)
        energy += torch.bincount(bits >> shift, weights=_relative_square(piece, budget), minlength=_BINS)
    return energy


def _positions_in_bin(flat: Tensor, index: int) -> Tensor:
    found = []
    for number, piece in enumerate(torch.split(flat, _PIECE)):
        bits, shift = _bits(piece)
        found.append(((bits >> shift) == index).nonzero().view(-1) + number * _PIECE)
    return torch.cat(found)
