"""The bounds against the truth, on 10^4 random quadratics and 10^4 random logistic regressions."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from amgt_fed.convergence import InvalidAssumption, theory

CASES, ROUNDS = 10_000, 40
ROUNDING = 1 + 1e-9


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-300)


class Quadratics:
    """f(x) = x'Hx/2 around x* = 0 with spectra in [mu, L]; both ends are in the spectrum, so that no bound is slack."""

    def __init__(self, generator: np.random.Generator, dimension: int = 4) -> None:
        self.mu = 10 ** generator.uniform(-2, 1, CASES)
        self.smoothness = self.mu * 10 ** generator.uniform(0, 3, CASES)
        mix = generator.uniform(size=(CASES, dimension))
        mix[:, 0], mix[:, -1] = 0, 1
        self.spectrum = self.mu[:, None] * (self.smoothness / self.mu)[:, None] ** mix
        rotation, _ = np.linalg.qr(generator.normal(size=(CASES, dimension, dimension)))
        self.rotation = rotation
        self.start = generator.normal(size=(CASES, dimension)) * 10 ** generator.uniform(-2, 2, (CASES, 1))

    def gradient(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        turned = np.einsum("cij,cj->ci", self.rotation, x) * self.spectrum
        return np.einsum("cij,ci->cj", self.rotation, turned)

    def gap(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return 0.5 * np.einsum("ci,ci->c", x, self.gradient(x))

    def distance(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.linalg.norm(x, axis=-1)

    def away(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return -unit(x)  # an error along -x in m pushes x_{k+1} away from x* = 0


class Logistic:
    """l2-regularised logistic regression on random data; the optimum by Newton's method, to rounding."""

    def __init__(self, generator: np.random.Generator, dimension: int = 3, examples: int = 8) -> None:
        self.features = generator.normal(size=(CASES, examples, dimension)) * 10 ** generator.uniform(
            -1, 0.5, (CASES, 1, 1)
        )
        self.labels = generator.choice([-1.0, 1.0], size=(CASES, examples))
        self.mu = 10 ** generator.uniform(-2, 0, CASES)
        largest = np.linalg.eigvalsh(np.einsum("cei,cej->cij", self.features, self.features) / examples)[:, -1]
        self.smoothness = self.mu + largest / 4
        self.start = generator.normal(size=(CASES, dimension)) * 3
        self.optimum = self._newton(np.zeros((CASES, dimension)))
        assert np.linalg.norm(self.gradient(self.optimum), axis=-1).max() < 1e-12

    def _newton(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        for _ in range(100):
            gradient = self.gradient(x)
            margin = self._margin(x)
            weight = 1 / (2 * np.cosh(np.clip(margin, -700, 700) / 2)) ** 2
            hessian = np.einsum("ce,cei,cej->cij", weight, self.features, self.features) / self.labels.shape[1]
            hessian += self.mu[:, None, None] * np.eye(x.shape[1])
            step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
            # Damping 1 / (1 + sqrt(L) ||step||): keeps Newton's steps where the model is trusted; 1 at the end.
            x = x - step / (1 + np.linalg.norm(step, axis=-1, keepdims=True))
        return x

    def _margin(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.labels * np.einsum("cei,ci->ce", self.features, x)

    def value(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.logaddexp(0, -self._margin(x)).mean(axis=1) + 0.5 * self.mu * (x**2).sum(axis=1)

    def gradient(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        slope = -self.labels * np.exp(-np.logaddexp(0, self._margin(x)))
        return np.einsum("ce,cei->ci", slope, self.features) / self.labels.shape[1] + self.mu[:, None] * x

    def gap(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.value(x) - self.value(self.optimum)

    def distance(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.linalg.norm(x - self.optimum, axis=-1)

    def away(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return -unit(x - self.optimum)


def errors(kind: str, generator: np.random.Generator, problem, x, delta) -> NDArray[np.float64]:
    if kind == "zero":
        return np.zeros_like(x)
    if kind == "adversarial":
        return problem.away(x) * delta[:, None]
    if kind == "random":
        return unit(generator.normal(size=x.shape)) * (delta * generator.uniform(size=delta.shape))[:, None]
    return -unit(problem.gradient(x)) * delta[:, None]  # "shrinking": what a threshold does, it weakens the step


@pytest.fixture(scope="module", params=[Quadratics, Logistic])
def problem(request):
    return request.param(np.random.default_rng(20251125))


@pytest.mark.parametrize("kind", ["zero", "adversarial", "random", "shrinking"])
@pytest.mark.parametrize("schedule", ["strongly convex", "constant", "too large"])
def test_the_truth_never_exceeds_the_bounds(problem, kind: str, schedule: str) -> None:
    generator = np.random.default_rng(7)
    mu, smoothness = problem.mu, problem.smoothness
    c = 10 ** generator.uniform(-2, 2, CASES)
    share = generator.uniform(0.05, 1, CASES)
    x = problem.start.copy()
    scale = problem.gap(x) + problem.distance(x) ** 2 * smoothness + 1e-3  # what rounding is measured against
    gradient = np.linalg.norm(problem.gradient(x), axis=-1)
    bound = start = theory.distance_certificate(gradient, 0.0, mu)
    f_first = problem.gap(x)  # with f* as the zero of f
    smallest = gradient**2
    steps, deltas, norms, least = [], [], [], []
    for k in range(1, ROUNDS + 1):
        step = {
            "strongly convex": 1 / (mu * (k + np.ceil(smoothness / mu) - 1)),
            "constant": share * 2 / (mu + smoothness),
            "too large": share * 2.2 / smoothness,  # beyond 2/(mu + L), and for some beyond 2/L
        }[schedule]
        delta = c / k
        m = problem.gradient(x) + errors(kind, generator, problem, x, delta)
        measured = np.linalg.norm(m, axis=-1)
        # (B), from the measured gradient alone
        assert (problem.distance(x) <= theory.distance_certificate(measured, delta, mu) * ROUNDING).all()
        assert (problem.gap(x) <= theory.gap_certificate(measured, delta, mu) * ROUNDING + 1e-12 * scale).all()
        assert (gradient <= theory.gradient_upper(measured, delta) * ROUNDING).all()
        assert (gradient * ROUNDING + 1e-12 >= theory.gradient_lower(measured, delta)).all()
        # (A)
        x = x - step[:, None] * m
        bound = theory.distance_after_step(bound, step, delta, mu, smoothness)
        assert (problem.distance(x) <= bound * ROUNDING + 1e-9 * scale).all()
        assert (problem.gap(x) <= theory.gap_from_distance(bound, smoothness) * ROUNDING + 1e-9 * scale).all()
        smallest = np.minimum(smallest, gradient**2)
        gradient = np.linalg.norm(problem.gradient(x), axis=-1)
        for history, value in ((steps, step), (deltas, delta), (norms, measured), (least, smallest)):
            history.append(value)
    history = np.stack(steps, axis=-1), np.stack(deltas, axis=-1)
    # (C), after every round
    stationarity = theory.stationarity_bound(
        *history, np.stack(norms, axis=-1), f_first=f_first, f_low=np.zeros(CASES), smoothness=smoothness
    )
    assert (np.stack(least, axis=-1) <= stationarity * ROUNDING).all()
    # (A) over the whole run is its own recursion
    np.testing.assert_allclose(theory.distance_bounds(start, *history, mu, smoothness)[:, -1], bound, rtol=1e-12)


def test_an_adversary_on_a_round_bowl_attains_the_bound() -> None:
    # mu = L: the contraction is exact, so an error straight away from the optimum leaves no slack.
    mu, distance, steps, deltas = 2.0, 5.0, 0.3 / np.arange(1, 31), 4.0 / np.arange(1, 31)
    x = distance
    for step, delta in zip(steps, deltas, strict=True):
        x -= step * (mu * x - delta)
    assert theory.distance_bounds(distance, steps, deltas, mu, mu)[-1] == pytest.approx(x, rel=1e-12)
    assert theory.gap_certificate(mu * x, 0.0, mu) == pytest.approx(0.5 * mu * x**2)
    assert theory.distance_certificate(mu * x, 0.0, mu) == pytest.approx(x)


@pytest.mark.parametrize(("mu", "kappa", "c"), [(0.1, 1, 3.0), (2.0, 40, 0.0), (5.0, 1000, 7.0)])
def test_the_closed_form_is_the_recursion(mu: float, kappa: float, c: float) -> None:
    rounds = np.arange(1, 400)
    t0 = kappa - 1
    bounds = theory.distance_bounds(3.0, 1 / (mu * (rounds + t0)), c / rounds, mu, mu * kappa)
    np.testing.assert_allclose(theory.distance_rate(rounds, 3.0, mu, t0, c), bounds[1:], rtol=1e-12)


def test_the_error_term_decays_like_log_k_over_k_and_no_faster() -> None:
    rounds = np.array([10**3, 10**6])
    low, high = theory.distance_rate(rounds, 0.0, 1.0, 0.0, 1.0)
    assert high / low == pytest.approx(math.log(10**6) / math.log(10**3) / 1000, rel=0.05)


@pytest.mark.parametrize(
    ("call", "name", "value"),
    [
        (lambda: theory.contraction(0.1, 0.0, 1.0), "mu", 0.0),
        (lambda: theory.contraction(0.1, math.nan, 1.0), "mu", math.nan),
        (lambda: theory.contraction(0.1, [1.0, -3.0], 4.0), "mu", -3.0),
        (lambda: theory.contraction(0.1, 2.0, 1.0), "smoothness", 1.0),
        (lambda: theory.contraction(0.1, 2.0, math.inf), "smoothness", math.inf),
        (lambda: theory.contraction(-0.1, 1.0, 1.0), "step_size", -0.1),
        (lambda: theory.distance_after_step(-1.0, 0.1, 0.1, 1.0, 1.0), "distance", -1.0),
        (lambda: theory.distance_after_step(1.0, 0.1, -0.2, 1.0, 1.0), "delta", -0.2),
        (lambda: theory.distance_certificate(1.0, -0.5, 1.0), "error", -0.5),
        (lambda: theory.gap_certificate(-2.0, 0.5, 1.0), "gradient_norm", -2.0),
        (lambda: theory.gap_certificate(2.0, 0.5, -1.0), "mu", -1.0),
        (lambda: theory.distance_rate(0, 1.0, 1.0, 0.0, 1.0), "rounds", 0),
        (lambda: theory.gap_from_distance(1.0, 0.0), "smoothness", 0.0),
        (lambda: theory.stationarity_bound([0.0], [0.0], [1.0], f_first=1, f_low=0, smoothness=1), "step_sizes", 0.0),
        (
            lambda: theory.stationarity_bound([0.1], [0.0], [1.0], f_first=1, f_low=2, smoothness=1),
            "f_first - f_low",
            -1.0,
        ),
    ],
)
def test_a_constant_out_of_range_is_named(call, name: str, value: float) -> None:
    with pytest.raises(InvalidAssumption) as caught:
        call()
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name} is {value!r}; it must be ")
