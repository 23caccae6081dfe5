"""SCAFFOLD with option II by the book, float64: c and every c_i are sent, nothing is compressed (arXiv 1910.06378)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def scaffold(
    gradients: Sequence[Callable[[Vector], Vector]],
    start: Vector,
    samples: Sequence[Sequence[int]],
    *,
    lr: float,
    steps: int,
) -> list[Vector]:
    """x_1, x_2, ... over rounds whose participants `samples` names; global step size 1, clients of equal weight."""
    count = len(gradients)
    x, c = start.copy(), np.zeros_like(start)
    own = [np.zeros_like(start) for _ in gradients]
    path = [x]
    for sample in samples:
        moves, changes = [], []
        for client in sample:
            y = x.copy()
            for _ in range(steps):
                y = y - lr * (gradients[client](y) - own[client] + c)
            new = own[client] - c + (x - y) / (steps * lr)
            moves.append(y - x)
            changes.append(new - own[client])
            own[client] = new
        x = x + np.mean(moves, axis=0)
        c = c + len(sample) / count * np.mean(changes, axis=0)
        path.append(x)
    return path
