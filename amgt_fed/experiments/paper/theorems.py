# ruff: noqa: RUF001 - the paper's symbols stand in texts for people
"""The convergence theorems: strongly convex with exact gradients (23), with errors of O(1/k) (26)-(30), Lemma 2.1."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from amgt_fed.convergence import fit_slope, theory
from amgt_fed.optimizer import AMGT
from amgt_fed.schedules import InverseRound, StronglyConvex

from .claims import Claim, Curve, Effort, Figure, Section, judge, log_spaced, thinned

Array = NDArray[np.float64]
ErrorRule = Callable[[int, Array], Array]
"""Round and x_k - x* -> the error added to the gradient."""


@dataclass(frozen=True, slots=True)
class Trace:
    """||x_k - x*|| before each step, ||m_k||, and the measured ||T(m_k) - m_k||; each of shape (K,)."""

    distances: Array
    update_norms: Array
    threshold_errors: Array

    def exponent(self) -> float:
        """Fitted log-log slope of the distance over the last half."""
        rounds = np.arange(1, self.distances.size + 1)
        half = rounds > self.distances.size // 2
        slope = fit_slope(rounds[half], self.distances[half])
        return -math.inf if slope is None else slope.value


def run_plain(
    curvature: Array,
    start: Array,
    rounds: int,
    *,
    scale: float = 1.0,
    error: ErrorRule | None = None,
    theta: float = 0.0,
) -> Trace:
    """Minimise scale * sum(curvature x^2) / 2 with AMGT, plain form, the step size of (13) and t0 = ceil(L/mu) - 1."""
    mu, smoothness = scale * float(curvature.min()), scale * float(curvature.max())
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    schedule = StronglyConvex.for_smoothness(mu, smoothness)
    optimizer = AMGT(
        [x],
        betas=(0.0, 0.999),
        gamma=0.0,
        mu=schedule.mu,
        t0=schedule.t0,
        preconditioned=False,
        threshold=theta,
        threshold_steps=0,
    )
    point = x.detach().numpy()  # shares x's memory: the optimizer steps in place
    distances, norms, errors = np.empty(rounds), np.empty(rounds), np.zeros(rounds)
    for k in range(1, rounds + 1):
        gradient = scale * curvature * point
        if error is not None:
            gradient = gradient + error(k, point)
        distances[k - 1], norms[k - 1] = np.linalg.norm(point), np.linalg.norm(gradient)
        x.grad = torch.from_numpy(gradient)
        optimizer.step()
        if theta:
            (errors[k - 1],) = optimizer.threshold_error()
    return Trace(distances, norms, errors)


def check_strong_convexity(effort: Effort) -> Section:
    """Theorem (23) and the abstract's "linear convergence": what exact gradients give under the step size (13)."""
    rounds = effort.rate_rounds
    mus = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
    shape, start = np.array([1.0, 2.6]), np.array([1.0, 1.0])
    traces = {mu: run_plain(mu * shape, start, rounds) for mu in mus}
    exponents = {mu: trace.exponent() for mu, trace in traces.items()}
    good = [mu for mu in mus if exponents[mu] <= -mu / 2 + 0.02]
    scaled = run_plain(shape, start, rounds, scale=8.0).distances
    same = float(np.max(np.abs(scaled - traces[1.0].distances) / traces[1.0].distances))
    ratio = traces[1.0].distances[-1] / traces[1.0].distances[-2]
    listed = ", ".join(f"{exponents[mu]:.3f} at μ = {mu:g}" for mu in mus)
    claims = (
        Claim(
            "strongly-convex-rate",
            "Under strong convexity ||x_k - x*|| = O(k^(-μ/2))",
            "(13), (23)",
            "exponent -μ/2",
            f"{np.mean(list(exponents.values())):.3f} for every μ",
            judge(as_printed=len(good) == len(mus), corrected=bool(good) and good == [mu for mu in mus if mu <= 2]),
            f"Fitted exponents: {listed}. Of those tried, that is a bound only for μ <= {max(good, default=0):g}; "
            "the step size 1/(μ(k + t0)) gives O(1/k) whatever μ is. Nor can an exponent depend on μ: 8 f has 8 times "
            f"the μ and, step for step, the same iterates (largest relative difference {same:.1e}).",
        ),
        Claim(
            "linear-convergence",
            "Linear convergence under strong convexity",
            "abstract",
            "linear",
            f"sublinear: ||x_k+1|| / ||x_k|| = {ratio:.6f} at k = {rounds}",
            judge(as_printed=ratio < 0.99, corrected=False),
            "Linear convergence means a ratio bounded below 1. With diminishing steps the ratio tends to 1 and the "
            f"exponent is {exponents[1.0]:.3f}: sublinear in standard terms.",
        ),
    )
    shown = log_spaced(rounds)
    k = tuple(float(i + 1) for i in shown)
    curves = []
    for mu in (1.0, 2.0, 4.0, 6.0):
        curves.append(Curve(f"μ = {mu:g}: slope {exponents[mu]:.2f}", k, thinned(traces[mu].distances, shown)))
        claimed = traces[mu].distances[0] * (np.array(k)) ** (-mu / 2)
        curves.append(Curve(f"k^(-μ/2), μ = {mu:g}", k, tuple(map(float, claimed)), dashed=True))
    figure = Figure(
        "strong-convexity",
        "Strongly convex, exact gradients, α = 1/(μ(k + t0))",
        "round k",
        "||x_k - x*||",
        tuple(curves),
        "Solid: AMGT, plain form. The four runs coincide, with slope -1 whatever μ is; the dashed k^(-μ/2) leaves them "
        "behind for μ > 2.",
        y_limits=(1e-9, 10.0),
    )
    return Section("Strong convexity", claims, figures=(figure,))


def check_bounded_errors(effort: Effort) -> Section:
    """Theorems (26)-(30), Lemma 2.1 and the threshold's budget (27): errors of at most c/k in the gradient."""
    rounds, c = effort.rate_rounds, 1.0
    curvature, start = np.array([1.0, 1.0, 3.7]), np.array([1.0, 1.0, 1.0])
    generator = np.random.default_rng(26)
    k = np.arange(1, rounds + 1)

    def adversarial(round: int, x: Array) -> Array:
        return -x * (c / round / max(float(np.linalg.norm(x)), 1e-300))

    def random(round: int, x: Array) -> Array:
        noise = generator.normal(size=x.shape)
        return noise * (c / round / float(np.linalg.norm(noise)))

    rules: dict[str, ErrorRule | None] = {"adversarial": adversarial, "random": random, "no": None}
    traces = {kind: run_plain(curvature, start, rounds, error=rule) for kind, rule in rules.items()}
    worst = traces["adversarial"]
    mu, smoothness = float(curvature.min()), float(curvature.max())
    schedule = StronglyConvex.for_smoothness(mu, smoothness)
    steps, deltas = np.array([schedule(int(j)) for j in k]), np.array([InverseRound(c)(int(j)) for j in k])
    bound = theory.distance_bounds(worst.distances[0], steps, deltas, mu, smoothness)[:-1]
    closed = np.concatenate([[worst.distances[0]], theory.distance_rate(k, worst.distances[0], mu, schedule.t0, c)])[
        :-1
    ]
    early = round(math.sqrt(rounds))
    growth = worst.distances[-1] * rounds / (worst.distances[early - 1] * early)
    covered = bool((worst.distances <= closed * (1 + 1e-9)).all() and (worst.distances <= bound * (1 + 1e-9)).all())
    without_cross = _without_linear_term(worst.distances[0], steps, deltas, mu)
    broken = np.flatnonzero(worst.distances > without_cross * (1 + 1e-9))
    drop = worst.distances[-1] / worst.distances[0]
    claims = (
        Claim(
            "bounded-errors-converge",
            "Global convergence with gradient errors of at most c/k",
            "(26), (27)",
            "x_k -> x*",
            f"distance down to {drop:.1e} of its start, slope {worst.exponent():.3f}, under adversarial errors",
            judge(as_printed=worst.exponent() < -0.5 and covered),
            f"Errors along -(x - x*), the worst direction, c = {c:g}, {rounds} rounds; with random errors the slope is "
            f"{traces['random'].exponent():.3f}, without errors {traces['no'].exponent():.3f}.",
        ),
        Claim(
            "bounded-errors-rate",
            "The error term decays like the error, O(1/k)",
            "(27), (30)",
            "O(1/k)",
            "O(log k / k)",
            judge(as_printed=growth < 1.05, corrected=covered),
            f"k ||x_k - x*|| would stay bounded; it grows {growth:.2f}-fold from k = {early} to {rounds}. Bound (A) in "
            "closed form, (t0 D_1 + c H_k / μ) / (k + t0) with the harmonic number H_k, holds in every round.",
        ),
        Claim(
            "bounded-errors-linear-term",
            "The recursion for the squared distance",
            "(30)",
            "without the linear term in the error",
            "the linear term is needed",
            judge(as_printed=broken.size == 0, corrected=covered),
            (
                f"Without 2 α <x - x*, e> the recursion is exceeded from round {broken[0] + 1} on, in {broken.size} of "
                f"{rounds} "
                if broken.size
                else ""
            )
            + "rounds of the adversarial run; bound (A), which keeps it, in none.",
        ),
        _lemma_claim(worst.distances[0], steps, mu),
        *_threshold_claims(rounds),
    )
    shown = log_spaced(rounds)
    x = tuple(float(i + 1) for i in shown)
    curves = [
        Curve(f"{kind} errors: slope {trace.exponent():.2f}", x, thinned(trace.distances, shown))
        for kind, trace in traces.items()
    ]
    curves.append(Curve("bound (A)", x, thinned(bound, shown), dashed=True))
    curves.append(Curve("(30) without its linear term", x, thinned(without_cross, shown), dashed=True))
    figure = Figure(
        "bounded-errors",
        "Errors of norm c/k in the gradient",
        "round k",
        "||x_k - x*||",
        tuple(curves),
        "Solid: AMGT, plain form, with errors of exactly that norm. Bound (A) holds; the recursion without the linear "
        "term falls below the adversarial run.",
    )
    return Section("Errors of O(1/k)", claims, figures=(figure,))


def _without_linear_term(initial: float, steps: Array, deltas: Array, mu: float) -> Array:
    """Distances by D^2 <- (1 - alpha mu)^2 D^2 + alpha^2 delta^2: the cross term of the square left out."""
    squares = np.empty(steps.size)
    squares[0] = initial**2
    for j in range(steps.size - 1):
        squares[j + 1] = (1 - steps[j] * mu) ** 2 * squares[j] + (steps[j] * deltas[j]) ** 2
    return np.asarray(np.sqrt(squares))


def _lemma_claim(initial: float, steps: Array, mu: float) -> Claim:
    """Lemma 2.1's missing conclusion, on the recursion it is used for, over 10^7 rounds in closed form."""
    rounds = np.array([10**3, 10**5, 10**7])
    t0 = 1 / (mu * steps[0]) - 1
    a = theory.distance_rate(rounds, initial, mu, t0, 1.0)
    falling = bool(np.all(np.diff(a) < 0) and a[-1] < 1e-4 * initial)
    return Claim(
        "lemma-2.1",
        "The lemma on recursions a_k+1 <= (1 - α_k μ) a_k + α_k δ_k",
        "Lemma 2.1",
        "no conclusion is stated",
        "lim a_k = 0",
        judge(as_printed=False, corrected=falling),
        "With α_k = 1/(μ(k + t0)) and δ_k = 1/k: "
        + ", ".join(f"a = {value:.2e} at k = {round:.0e}" for round, value in zip(rounds, a, strict=True))
        + "; the missing conclusion is that a_k tends to 0.",
    )


def _threshold_claims(rounds: int) -> tuple[Claim, ...]:
    """Does thresholding keep within (27), and does the method still converge?"""
    generator = np.random.default_rng(25)
    curvature, theta = np.geomspace(1, 20, 40), 1.0
    trace = run_plain(curvature, generator.normal(size=40), min(rounds, 4000), theta=theta)
    k = np.arange(1, trace.distances.size + 1)
    ratio = float(np.max(trace.threshold_errors * k / (theta * trace.update_norms)))
    # (27) with the constant c = theta G, G the largest update: is delta_k <= c / k?
    c = theta * float(trace.update_norms.max())
    within = bool((trace.threshold_errors <= c / k * (1 + 1e-9)).all())
    return (
        Claim(
            "threshold-budget",
            "Thresholding errs by at most c/k",
            "(25), (27)",
            "||T(m) - m|| <= c/k",
            f"largest error / budget = {ratio:.4f}",
            judge(as_printed=within and ratio <= 1 + 1e-6),
            f"Measured in every one of {k.size} steps with θ = {theta:g}, against θ ||m|| / k; c = θ max ||m|| = "
            f"{c:.3g}. The thresholded run converges with slope {trace.exponent():.3f}.",
        ),
    )
