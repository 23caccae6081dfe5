"""Elementwise work on lists of tensors: one call for a list of one, or one call for all.

The two do the same arithmetic in the same order, so a step has the same bits with either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Tensors = list[Tensor]
Scalars = Sequence[float]

_LERP_TAKES_A_LIST = "ScalarList" in torch.ops.aten._foreach_lerp_.overloads()  # type: ignore[no-untyped-call]


class Kernels(Protocol):
    """In-place work ends in `_` and overwrites its first argument; scalars come one per tensor."""

    def mul_(self, a: Tensors, factor: float) -> None:
        """a *= factor."""

    def mul_each_(self, a: Tensors, factors: Scalars) -> None:
        """a *= factors."""

    def add_(self, a: Tensors, b: Tensors, scales: Scalars) -> None:
        """a += scales * b."""

    def addcmul_(self, a: Tensors, b: Tensors, c: Tensors, scales: Scalars) -> None:
        """a += scales * b * c."""

    def lerp_(self, a: Tensors, b: Tensors, weights: Scalars) -> None:
        """a += weights * (b - a)."""

    def maximum_(self, a: Tensors, b: Tensors) -> None:
        """a = max(a, b)."""

    def clamped(self, a: Tensors, b: Tensors, scales: Scalars) -> Tensors:
        """max(a + scales * b^2, 0), good until the next call."""
        ...

    def inverse_root(self, a: Tensors, offsets: Scalars) -> Tensors:
        """1 / sqrt(a + offsets), good until the next call."""
        ...

    def sums(self, a: Tensors) -> list[float]:
        """Sum of each tensor."""
        ...


def _sums(a: Tensors) -> list[float]:
    if a[0].device.type == "cpu":
        return [float(x.sum()) for x in a]
    values: list[float] = torch.stack([x.sum() for x in a]).tolist()  # one wait for the device, not one per tensor
    return values


class _Loop:
    """Lists of one tensor, with one scratch tensor for all results."""

    # A fresh result of some hundred kB means fresh pages from the system every time, which costs more than the
    # arithmetic.
    def __init__(self, size: int) -> None:
        self._size = size
        self._memory: Tensor | None = None

    def _scratch(self, like: Tensor) -> Tensor:
        if self._memory is None:
            self._memory = torch.empty(self._size, dtype=like.dtype, device=like.device)
        return self._memory[: like.numel()].view(like.shape)

    def mul_(self, a: Tensors, factor: float) -> None:
        for x in a:
            x.mul_(factor)

    def mul_each_(self, a: Tensors, factors: Scalars) -> None:
        for x, factor in zip(a, factors, strict=True):
            x.mul_(factor)

    def add_(self, a: Tensors, b: Tensors, scales: Scalars) -> None:
        for x, y, scale in zip(a, b, scales, strict=True):
            x.addcmul_(y, _one(y), value=scale)

    def addcmul_(self, a: Tensors, b: Tensors, c: Tensors, scales: Scalars) -> None:
        for x, y, z, scale in zip(a, b, c, scales, strict=True):
            x.addcmul_(y, z, value=scale)

    def lerp_(self, a: Tensors, b: Tensors, weights: Scalars) -> None:
        for x, y, weight in zip(a, b, weights, strict=True):
            x.lerp_(y, weight)

    def maximum_(self, a: Tensors, b: Tensors) -> None:
        for x, y in zip(a, b, strict=True):
            torch.maximum(x, y, out=x)

    def clamped(self, a: Tensors, b: Tensors, scales: Scalars) -> Tensors:
        (x,), (y,), (scale,) = a, b, scales
        return [torch.addcmul(x, y, y, value=scale, out=self._scratch(x)).clamp_min_(0)]

    def inverse_root(self, a: Tensors, offsets: Scalars) -> Tensors:
        (x,), (offset,) = a, offsets
        return [torch.add(x, offset, out=self._scratch(x)).rsqrt_()]

    def sums(self, a: Tensors) -> list[float]:
        return _sums(a)


class _Foreach:
    def mul_(self, a: Tensors, factor: float) -> None:
        torch._foreach_mul_(a, factor)

    def mul_each_(self, a: Tensors, factors: Scalars) -> None:
        torch._foreach_mul_(a, factors)

    def add_(self, a: Tensors, b: Tensors, scales: Scalars) -> None:
        torch._foreach_addcmul_(a, b, [_one(y) for y in b], scales)

    def addcmul_(self, a: Tensors, b: Tensors, c: Tensors, scales: Scalars) -> None:
        torch._foreach_addcmul_(a, b, c, scales)

    def lerp_(self, a: Tensors, b: Tensors, weights: Scalars) -> None:
        if not _LERP_TAKES_A_LIST:
            for x, y, weight in zip(a, b, weights, strict=True):
                x.lerp_(y, weight)
            return
        torch._foreach_lerp_(a, b, weights)

    def maximum_(self, a: Tensors, b: Tensors) -> None:
        torch._foreach_maximum_(a, b)

    def clamped(self, a: Tensors, b: Tensors, scales: Scalars) -> Tensors:
        excess = torch._foreach_addcmul(a, b, b, scales)
        torch._foreach_clamp_min_(excess, 0)
        return list(excess)

    def inverse_root(self, a: Tensors, offsets: Scalars) -> Tensors:
        roots = torch._foreach_add(a, offsets)
        torch._foreach_rsqrt_(roots)
        return list(roots)

    def sums(self, a: Tensors) -> list[float]:
        return _sums(a)


def _one(like: Tensor) -> Tensor:
    """A one that broadcasts: there is no list form of `add` with a scale per tensor, only of `addcmul`."""
    return torch.ones((), dtype=like.dtype, device=like.device).expand_as(like)


FOREACH: Kernels = _Foreach()


def loop(size: int) -> Kernels:
    """Kernels for lists of one tensor of at most `size` elements."""
    return _Loop(size)
