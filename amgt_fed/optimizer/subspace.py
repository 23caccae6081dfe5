"""AMGT for matrices that move in a few given directions only: (7)-(9) with a matrix as second moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from amgt_fed.optimizer.errors import InvalidHyperparameter
from amgt_fed.optimizer.threshold import hard_threshold


class SubspaceAMGT(torch.optim.Optimizer):
    """Steps each matrix W by c U S, where S holds its directions; W - W_0 never leaves their span.

    G is the gradient of the coefficients B. The second moment of (7) is v = E[G^T G], rank x rank, and m_hat is divided
    by its root as a matrix, so that the step is as large along every combination of directions: what many examples have
    in common (a mean activation, say) does not fill it. An entry of B moves by about lr a step, as in AMGT.

    Args:
        params: matrices, or tensors seen as (first dimension, all others).
        signs: S of each, +-1, shape (rank, longer side).
        lr, betas, gamma, threshold, weight_decay: as AMGT; the decay is seen only as far as it lies in the span.
        damping: added to v, as a share of its largest eigenvalue.

    Raises:
        InvalidHyperparameter: lists of different lengths, signs that fit no side, or lr or damping out of range.

    Source: (7)-(9), (25); the root of a one-sided second moment is Shampoo's (Gupta et al. 2018, arXiv 1802.09568).
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        signs: Sequence[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        *,
        gamma: float = 0.1,
        threshold: float = 0.0,
        weight_decay: float = 0.0,
        damping: float = 1e-3,
    ) -> None:
        if len(params) != len(signs):
            raise InvalidHyperparameter("signs", len(signs), f"as many as parameters, {len(params)}: one each")
        for name, value in (("lr", lr), ("damping", damping)):
            if not 0 < value < math.inf:
                raise InvalidHyperparameter(name, value, "a finite number above 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise InvalidHyperparameter("betas", betas, "two numbers in [0, 1)")
        for param, s in zip(params, signs, strict=True):
            if s.shape[1] != max(len(param), param[0].numel()):
                raise InvalidHyperparameter("signs", tuple(s.shape), f"(rank, longer side of {tuple(param.shape)})")
        defaults = {
            "lr": lr,
            "betas": betas,
            "gamma": gamma,
            "threshold": threshold,
            "weight_decay": weight_decay,
            "damping": damping,
        }
        super().__init__(params, defaults)
        self._signs = list(signs)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every matrix that has a gradient; gives what the closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param, signs in zip(group["params"], self._signs, strict=True):
                if param.grad is not None:
                    self._move(param, signs, group)
        return loss

    def _move(self, param: Tensor, signs: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[param], group["betas"]
        scale = 1.0 / math.sqrt(len(signs))
        matrix = param.grad.flatten(1)  # type: ignore[union-attr]  # the caller looked
        transposed = len(matrix) > matrix.shape[1]
        g = (matrix.T if transposed else matrix) @ signs.T * scale  # (short side, rank)
        if not state:
            rank = len(signs)
            state.update(t=0, c=1.0, m=torch.zeros_like(g), v=g.new_zeros(rank, rank))
        m, v = state["m"], state["v"]
        before = m.square().sum() / max(1.0 - state["c"], 1e-12) ** 2 if state["t"] else 0.0
        state["t"] += 1
        v.mul_(beta2).addmm_(g.T, g, alpha=1 - beta2)
        v_hat = v / (1 - beta2 ** state["t"])
        energy = float(v_hat.trace())
        if energy == 0:
            return
        noise = min(max(1.0 - float(before) / energy, 0.0), 1.0)  # (9), D1: tr v_hat = E ||G||^2
        b1 = beta1 / (1 + group["gamma"] * noise)
        state["c"] *= b1
        m.mul_(b1).add_(g, alpha=1 - b1)
        m_hat = m / (1 - state["c"])
        if group["threshold"]:
            m_hat = hard_threshold(m_hat, group["threshold"] * float(m_hat.norm()) / state["t"])
        values, vectors = torch.linalg.eigh(v_hat)
        root = (values.clamp(min=0) + group["damping"] * values[-1]).rsqrt()
        # The columns of m_hat v^-1/2 have length 1 at most; times the root of their own length, an entry is about 1.
        u = m_hat @ (vectors * root) @ vectors.T * math.sqrt(len(m_hat))
        move = (u @ signs * scale).T if transposed else u @ signs * scale
        if group["weight_decay"]:
            param.mul_(1 - group["lr"] * group["weight_decay"])
        param.sub_(move.reshape(param.shape), alpha=group["lr"])
