"""The server's step by the book, in float64: S of docs/algorithm.md section 4, one class per optimizer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def average(means: list[Vector], rates: list[float]) -> list[Vector]:
    """x_{k+1} = x_k - alpha_k m_k."""
    return [rate * mean for mean, rate in zip(means, rates, strict=True)]


def momentum(means: list[Vector], rates: list[float], beta: float) -> list[Vector]:
    """Heavy ball: b_1 = m_1, b_k = beta b_{k-1} + m_k; the step is alpha_k b_k."""
    buffer, steps = None, []
    for mean, rate in zip(means, rates, strict=True):
        buffer = mean if buffer is None else beta * buffer + mean
        steps.append(rate * buffer)
    return steps


def adam(means: list[Vector], rates: list[float], beta1: float, beta2: float, eps: float) -> list[Vector]:
    """Kingma and Ba (2015), algorithm 1."""
    first, second, steps = np.zeros_like(means[0]), np.zeros_like(means[0]), []
    for t, (mean, rate) in enumerate(zip(means, rates, strict=True), start=1):
        first = beta1 * first + (1 - beta1) * mean
        second = beta2 * second + (1 - beta2) * mean**2
        steps.append(rate * (first / (1 - beta1**t)) / (np.sqrt(second / (1 - beta2**t)) + eps))
    return steps


def amgt(means: list[Vector], rates: list[float], beta1: float, beta2: float, eps: float, gamma: float) -> list[Vector]:
    """Section 1 of docs/algorithm.md without threshold: (7), (8), (9), D1, D2."""
    m, v, hat, product, steps = np.zeros_like(means[0]), np.zeros_like(means[0]), np.zeros_like(means[0]), 1.0, []
    for t, (mean, rate) in enumerate(zip(means, rates, strict=True), start=1):
        v = beta2 * v + (1 - beta2) * mean**2
        v_hat = v / (1 - beta2**t)
        noise = np.maximum(v_hat - hat**2, 0).sum() / v_hat.sum() if v_hat.sum() > 0 else 0.0
        weight = beta1 / (1 + gamma * noise)
        m = weight * m + (1 - weight) * mean
        product *= weight
        hat = m / (1 - product)
        steps.append(rate * hat / np.sqrt(v_hat + eps))
    return steps
