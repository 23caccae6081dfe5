"""Non-convex stationarity (33)-(34) on a small deep net, with full gradients, so that every quantity is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from amgt_fed.convergence import fit_slope, theory
from amgt_fed.optimizer import AMGT
from amgt_fed.spectrum import model_spectrum

from .claims import Claim, Curve, Effort, Figure, Section, judge, log_spaced, thinned

Array = NDArray[np.float64]
RATE, DECAY, THETA = 0.5, 0.005, 1.0
SPECTRA = 8  # how often along the run the Hessian's largest eigenvalue is looked up


@dataclass(frozen=True, slots=True)
class NetRun:
    """One full-gradient run; arrays of shape (K,), a value per step, measured at x_k."""

    losses: Array
    gradient_norms: Array
    errors: Array  # ||u_k - grad f(x_k)||, u_k the direction the optimizer really took
    update_norms: Array
    step_sizes: Array
    smoothness: float
    lambda_min: float


def run_net(effort: Effort) -> NetRun:
    """Train 64-16-16-10, tanh, on 300 digits with AMGT in the plain form: momentum, noise weight, threshold and all."""
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.from_numpy(images[:300] / 16.0), torch.from_numpy(labels[:300].astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(34)
        model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 10)).double()
    parameters = list(model.parameters())
    optimizer = AMGT(parameters, lr=RATE, lr_decay=DECAY, preconditioned=False, threshold=THETA, threshold_steps=0)
    steps = effort.net_steps
    rows = np.empty((steps, 5))
    curvatures = []
    for k in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        torch.autograd.backward(loss)
        before, gradient = _flat(parameters), _flat([p.grad for p in parameters if p.grad is not None])
        if k % max(steps // SPECTRA, 1) == 0:
            spectrum = model_spectrum(model, nn.functional.cross_entropy, [(inputs, targets)], tolerance=1e-4)
            curvatures.append(spectrum.lambda_max)
        optimizer.step()
        alpha = RATE / (1 + DECAY * k)
        update = (before - _flat(parameters)) / alpha
        with torch.no_grad():
            after = float(nn.functional.cross_entropy(model(inputs), targets))
        # The L that the descent lemma needs for this very step, from its own two losses.
        square = float(update @ update)
        if square > 0:  # with θ = 1 the first budget is all of ||m||, and the first step none
            rise = after - float(loss.detach()) + alpha * float(gradient @ update)
            curvatures.append(2 * rise / (alpha**2 * square))
        error = float(torch.linalg.vector_norm(update - gradient))
        rows[k] = float(loss.detach()), float(torch.linalg.vector_norm(gradient)), error, square**0.5, alpha
    spectrum = model_spectrum(model, nn.functional.cross_entropy, [(inputs, targets)], tolerance=1e-4)
    losses, gradients, errors, updates, step_sizes = rows.T
    smoothness = max(*curvatures, spectrum.lambda_max)
    return NetRun(losses, gradients, errors, updates, step_sizes, smoothness, spectrum.lambda_min)


def check_nonconvex(effort: Effort) -> Section:
    """Does the gradient go to zero, is the update unbiased as (34) assumes, and does bound (C) hold?"""
    run = run_net(effort)
    bound = np.sqrt(
        theory.stationarity_bound(
            run.step_sizes,
            run.errors,
            run.update_norms,
            f_first=run.losses[0],
            f_low=0.0,  # cross-entropy
            smoothness=run.smoothness,
        )
    )
    smallest = np.minimum.accumulate(run.gradient_norms)
    holds = bool((smallest <= bound).all())
    rounds = np.arange(1, smallest.size + 1)
    half = rounds > rounds.size // 2
    slope = fit_slope(rounds[half], smallest[half])
    exponent = float("nan") if slope is None else slope.value
    bias = float(np.median(run.errors / run.gradient_norms))
    shrunk = smallest[-1] / smallest[0]
    claims = (
        Claim(
            "stationarity",
            "Convergence to stationary points without convexity",
            "(33), (34)",
            "||grad f(x_k)|| -> 0",
            f"smallest ||grad f|| down to {shrunk:.1e} of its start in {rounds.size} steps, slope {exponent:.2f}",
            judge(as_printed=holds and shrunk < 0.5 and exponent < -0.3),
            f"A 64-16-16-10 tanh net on 300 digits, full gradients. The loss ends at {run.losses[-1]:.3g}; the "
            f"Hessian's smallest eigenvalue {run.lambda_min:.2g}, its largest along the way {run.smoothness:.3g}.",
        ),
        Claim(
            "unbiased-moment",
            "The corrected moment is an unbiased gradient, E[m] = grad f",
            "(34)",
            "bias 0",
            f"median ||u - grad f|| / ||grad f|| = {bias:.2f}",
            judge(as_printed=bias < 1e-6, corrected=holds),
            "The gradients are exact here, so the whole difference is bias, from momentum and threshold. Bound (C) "
            "takes it as an error instead and holds in every step: at the end it promises ||grad f|| <= "
            f"{bound[-1]:.3g}, and {smallest[-1]:.2g} is reached.",
        ),
    )
    shown = log_spaced(smallest.size)
    x = tuple(float(i + 1) for i in shown)
    figure = Figure(
        "stationarity",
        "A small deep net: gradient norm and bound (C)",
        "step k",
        "gradient norm",
        (
            Curve(f"smallest ||grad f|| so far: slope {exponent:.2f}", x, thinned(smallest, shown)),
            Curve("error ||u - grad f||", x, thinned(run.errors, shown)),
            Curve("bound (C)", x, thinned(bound, shown), dashed=True),
        ),
        "Bound (C) uses the measured errors and the largest curvature met along the way; it holds, and does not assume "
        "that the update is unbiased.",
    )
    return Section("Without convexity", claims, figures=(figure,))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
