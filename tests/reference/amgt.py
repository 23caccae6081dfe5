"""AMGT in plain numpy float64, one tensor, by the book; slow, and imports nothing of the project."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def threshold(m: Vector, delta: float) -> Vector:
    """(25): keep the largest magnitudes, drop as many of the smallest as fit into the l2 budget `delta`."""
    kept = m.copy()
    spent = 0.0
    for i in np.argsort(np.abs(m), kind="stable"):
        spent += float(m[i]) ** 2
        if spent > delta**2:
            break
        kept[i] = 0.0
    return kept


def sufficient_threshold(m: Vector, delta: float) -> Vector:
    """The cheap rule: drop |m_i| <= delta / sqrt(n)."""
    return np.where(np.abs(m) <= delta / np.sqrt(m.size), 0.0, m)


class ReferenceAMGT:
    """The trajectory of one tensor; `step` gives the next x."""

    def __init__(
        self,
        x: Vector,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        gamma: float = 0.0,
        kappa: float = 0.0,
        lr_decay: float = 0.0,
        mu: float | None = None,
        t0: float = 0.0,
        theta: float = 0.0,
        threshold_steps: int = 0,
        threshold_mode: str = "relative",
        variance: str = "relative",
        preconditioned: bool = True,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        amsgrad: bool = False,
        maximize: bool = False,
        exact: bool = True,
    ) -> None:
        self.__dict__.update({k: v for k, v in locals().items() if k not in ("self", "x")})
        self.x = x.astype(np.float64)
        self.m = np.zeros_like(self.x)
        self.v = np.zeros_like(self.x)
        self.v_peak = np.zeros_like(self.x)
        self.m_hat_prev = np.zeros_like(self.x)
        self.c = 1.0
        self.t = 0
        self.error = 0.0

    def step(self, gradient: Vector) -> Vector:
        self.t += 1
        t, x = self.t, self.x
        b1, b2 = self.betas
        g = -gradient if self.maximize else gradient
        if not self.decoupled:
            g = g + self.weight_decay * x
        self.v = b2 * self.v + (1 - b2) * g**2
        v_hat = self.v / (1 - b2**t)
        spread = np.maximum(v_hat - self.m_hat_prev**2, 0)
        if self.variance == "relative":
            noise = spread.sum() / v_hat.sum() if v_hat.sum() > 0 else 0.0
        else:
            noise = spread.mean()
        b1_t = b1 / (1 + self.gamma * noise)
        self.m = b1_t * self.m + (1 - b1_t) * g
        self.c *= b1_t
        m_hat = self.m / (1 - self.c)
        self.m_hat_prev = m_hat
        m_hat = m_hat + self.kappa * (g - m_hat)
        u = self._thresholded(m_hat)
        self.error = float(np.linalg.norm(u - m_hat))
        self.v_peak = np.maximum(self.v_peak, self.v)
        eta = self.lr / (1 + self.lr_decay * (t - 1)) if self.mu is None else 1 / (self.mu * (t + self.t0))
        if self.decoupled:
            x = x - eta * self.weight_decay * x
        if self.preconditioned:
            v_used = self.v_peak / (1 - b2**t) if self.amsgrad else v_hat
            u = u / np.sqrt(v_used + self.eps)
        self.x = x - eta * u
        return self.x

    def _thresholded(self, m_hat: Vector) -> Vector:
        if self.theta == 0 or 0 < self.threshold_steps < self.t:
            return m_hat
        if self.threshold_mode == "relative":
            if self.theta >= self.t:  # the budget covers the whole moment
                return np.zeros_like(m_hat)
            delta = self.theta * float(np.linalg.norm(m_hat)) / self.t
        else:
            delta = self.theta / self.t
        return threshold(m_hat, delta) if self.exact else sufficient_threshold(m_hat, delta)
