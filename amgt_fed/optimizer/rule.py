"""One parameter group's settings as numbers, and the scalars of one step; shared by every path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Rule:
    """What a step needs to know of its parameter group."""

    lr: float
    lr_factor: float  # what schedulers have made of `lr` since the start; scales alpha_t of (13)
    lr_decay: float
    mu: float | None
    t0: float
    beta1: float
    beta2: float
    eps: float
    gamma: float
    kappa: float
    theta: float
    threshold_steps: int
    relative_threshold: bool
    exact_threshold: bool
    relative_variance: bool
    preconditioned: bool
    weight_decay: float
    decoupled: bool
    amsgrad: bool
    maximize: bool

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Rule:
        """Read a checked parameter group."""
        lr = float(group["lr"])
        initial_lr = float(group.get("initial_lr", lr))
        return cls(
            lr=lr,
            lr_factor=lr / initial_lr if initial_lr > 0 else 1.0,
            lr_decay=float(group["lr_decay"]),
            mu=None if group["mu"] is None else float(group["mu"]),
            t0=float(group["t0"]),
            beta1=float(group["betas"][0]),
            beta2=float(group["betas"][1]),
            eps=float(group["eps"]),
            gamma=float(group["gamma"]),
            kappa=float(group["kappa"]),
            theta=float(group["threshold"]),
            threshold_steps=group["threshold_steps"],
            relative_threshold=group["threshold_mode"] == "relative",
            exact_threshold=group["threshold_rule"] == "exact",
            relative_variance=group["variance"] == "relative",
            preconditioned=group["preconditioned"],
            weight_decay=float(group["weight_decay"]),
            decoupled=group["decoupled_weight_decay"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
        )

    def theta_at(self, t: int) -> float:
        """theta of (27) in step t, from 1; 0 once the threshold is over."""
        return self.theta if not self.threshold_steps or t <= self.threshold_steps else 0.0

    def step_size(self, t: int) -> float:
        """eta_t of (10), or alpha_t of (13) and (26) when mu is given; t counts from 1."""
        if self.mu is not None:
            return self.lr_factor / (self.mu * (t + self.t0))  # D4: t0 keeps the first steps below 2/L
        return self.lr / (1 + self.lr_decay * (t - 1))

    def unbias2(self, t: int) -> float:
        """1 - b2^t, the divisor that takes v to v_hat, (7)."""
        return 1 - self.beta2**t

    def beta1_at(self, spread: float, square: float, count: int, t: int) -> float:
        """b1_t = lam b1 of (3), (8), D2, from the two sums over one tensor.

        Args:
            spread: sum of max(v - (1 - b2^t) m_hat_prev^2, 0), so in units of v, not of v_hat.
            square: sum of v.
            count: elements of the tensor.
            t: the step, from 1.
        """
        if self.relative_variance:
            noise = spread / square if square > 0 else 0.0  # D1; nothing seen yet: nothing is noise
            noise = 1.0 if math.isnan(noise) else noise  # both sums overflowed
        else:
            noise = spread / self.unbias2(t) / count if count else 0.0
        return self.beta1 / (1 + self.gamma * noise)  # (9)

    def denominator_offset(self, t: int, dtype: torch.dtype) -> float:
        """eps in units of v: sqrt(v_hat + eps) = sqrt(v + this) / sqrt(1 - b2^t).

        Never below the smallest normal number, so that eps = 0 cannot turn 0 / 0 into NaN where no gradient came.
        """
        return max(self.eps * self.unbias2(t), torch.finfo(dtype).tiny)

    def scale(self, t: int, beta1_product: float) -> float:
        """What multiplies m / sqrt(v + offset), or m in the plain form, in the update of x."""
        eta = self.step_size(t) / (1 - beta1_product)
        return eta * math.sqrt(self.unbias2(t)) if self.preconditioned else eta
