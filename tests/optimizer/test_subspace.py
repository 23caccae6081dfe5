"""SubspaceAMGT follows its equations, stays in its span and gets to a minimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from amgt_fed.optimizer import InvalidHyperparameter
from amgt_fed.optimizer.subspace import SubspaceAMGT


def signs_of(rank: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], (rank, side)).astype(np.float32))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_a_matrix_moves_in_its_span_only_and_reaches_the_best_point_of_it(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start, signs = torch.randn(shape), signs_of(3, 40)
    b = torch.randn(6, 3)
    target = start + (b @ signs if shape == (6, 40) else (b @ signs).T)
    w = start.clone().requires_grad_()
    optimizer = SubspaceAMGT([w], [signs], lr=0.05)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.05 / (1 + step / 40)
        optimizer.zero_grad()
        ((w - target) ** 2).sum().backward()
        optimizer.step()
    moved = (w - start).detach().double()
    moved = moved if shape == (6, 40) else moved.T
    s = signs.double()
    outside = moved - moved @ s.T @ torch.linalg.inv(s @ s.T) @ s
    assert outside.norm() < 1e-5 * moved.norm()
    assert (w - target).norm() < 0.05 * (start - target).norm()


def test_steps_follow_a_float64_reference() -> None:
    rng = np.random.default_rng(3)
    signs, lr, b1, b2, gamma, damping = signs_of(3, 20), 0.01, 0.9, 0.99, 0.5, 1e-3
    w = torch.zeros(5, 20, requires_grad=True)
    optimizer = SubspaceAMGT([w], [signs], lr=lr, betas=(b1, b2), gamma=gamma, damping=damping)
    s = signs.numpy().astype(np.float64) / np.sqrt(3)
    x, m, v, c = np.zeros((5, 20)), np.zeros((5, 3)), np.zeros((3, 3)), 1.0
    for t in range(1, 9):
        gradient = rng.standard_normal((5, 20)) + 1
        w.grad = torch.from_numpy(gradient.astype(np.float32))
        optimizer.step()
        g = gradient @ s.T
        previous = m / (1 - c) if t > 1 else m
        v = b2 * v + (1 - b2) * g.T @ g
        v_hat = v / (1 - b2**t)
        noise = np.clip((np.trace(v_hat) - (previous**2).sum()) / np.trace(v_hat), 0, 1)
        weakened = b1 / (1 + gamma * noise)
        m, c = weakened * m + (1 - weakened) * g, c * weakened
        values, vectors = np.linalg.eigh(v_hat)
        root = vectors @ np.diag((np.maximum(values, 0) + damping * values[-1]) ** -0.5) @ vectors.T
        x -= lr * np.sqrt(5) * (m / (1 - c)) @ root @ s
    np.testing.assert_allclose(w.detach().numpy(), x, rtol=2e-3, atol=1e-5)


def test_directions_that_fit_no_side_are_refused() -> None:
    with pytest.raises(InvalidHyperparameter, match="longer side"):
        SubspaceAMGT([torch.zeros(5, 20)], [signs_of(3, 19)])
    with pytest.raises(InvalidHyperparameter, match="one each"):
        SubspaceAMGT([torch.zeros(5, 20)], [])
