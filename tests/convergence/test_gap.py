"""The gap's two bounds hold the truth for any second point, and the search brings them together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from amgt_fed.convergence import InvalidAssumption, MeasuredPoint, MinimumSearch, gap_bounds


class Logistic:
    """l2-regularised logistic regression on random data; the minimum by Newton's method."""

    def __init__(self, seed: int, mu: float, features: int = 12, examples: int = 60, spread: float = 3.0) -> None:
        rng = np.random.default_rng(seed)
        self.z = rng.normal(size=(examples, features)) * np.exp(rng.uniform(-spread, 1, features))
        self.y = np.sign(self.z @ rng.normal(size=features) + rng.normal(size=examples))
        self.mu = mu
        x = np.zeros(features)
        for _ in range(100):
            p = 1 / (1 + np.exp(self.y * (self.z @ x)))
            hessian = (self.z * (p * (1 - p))[:, None]).T @ self.z / examples + mu * np.eye(features)
            step = np.linalg.solve(hessian, self.gradient(x))
            while self.value(x - step) > self.value(x):
                step /= 2
            x = x - step
        self.minimum = x

    def value(self, x: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, -self.y * (self.z @ x)).mean() + self.mu / 2 * x @ x)

    def gradient(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        p = 1 / (1 + np.exp(self.y * (self.z @ x)))
        return -(self.z * (self.y * p)[:, None]).mean(0) + self.mu * x

    def measure(self, x: NDArray[np.float64], noise: float, rng: np.random.Generator) -> MeasuredPoint:
        """As a client's answer: the gradient is off by exactly `error`, in a random or the worst direction."""
        gradient = self.gradient(x)
        off = rng.normal(size=x.size) if rng.random() < 0.5 else gradient * rng.choice([-1, 1])
        error = noise * float(np.linalg.norm(gradient))
        off *= error / (float(np.linalg.norm(off)) or 1.0)
        return MeasuredPoint(x, self.value(x), gradient + off, error)


@given(
    seed=st.integers(0, 2**32 - 1),
    mu=st.floats(1e-4, 1.0),
    noise=st.sampled_from([0.0, 0.01, 0.3]),
    scales=st.tuples(st.floats(1e-7, 3), st.floats(0, 3)),
)
@settings(max_examples=150, deadline=None)
def test_both_bounds_hold_the_truth_whatever_the_second_point(
    seed: int, mu: float, noise: float, scales: tuple[float, float]
) -> None:
    problem, rng = Logistic(seed, mu), np.random.default_rng(seed)
    x, z = (
        problem.measure(problem.minimum + scale * rng.normal(size=problem.minimum.size), noise, rng) for scale in scales
    )
    found = gap_bounds(x, z, mu)
    truth = x.value - problem.value(problem.minimum)
    slack = 1e-14  # of the truth, a difference of two values near 1
    assert found.lower <= truth + slack
    assert truth <= found.upper + slack
    assert np.linalg.norm(x.at - problem.minimum) <= found.distance * (1 + 1e-9) + 1e-9
    alone = (x.gradient_upper) ** 2 / (2 * mu)
    assert found.upper <= alone * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("away", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("smoothness", [None, "known"])
def test_the_search_brings_the_bound_within_twice_the_truth(seed: int, away: float, smoothness: str | None) -> None:
    mu = 1e-3
    problem, rng = Logistic(seed, mu), np.random.default_rng(seed)
    x = problem.measure(problem.minimum + away * rng.normal(size=problem.minimum.size), 0.01, rng)
    largest = float(np.linalg.eigvalsh(problem.z.T @ problem.z / len(problem.z))[-1]) / 4 + mu
    search = MinimumSearch(x, smoothness=largest if smoothness else None)
    probes, found = 0, gap_bounds(x, x, mu)
    truth = x.value - problem.value(problem.minimum)
    assert found.upper > 2 * truth  # a single gradient does not
    while not found.is_tight and probes < 60:
        proposal = search.proposal()
        assert proposal is not None
        search.add(problem.measure(proposal, 0.01, rng))
        found, probes = gap_bounds(x, search.best, mu), probes + 1
    assert truth <= found.upper <= 2 * truth


def test_gradients_decide_where_values_have_drowned() -> None:
    """f = 10^6 + |x|^2 / 2 near its minimum: the values of two points differ by less than their rounding."""

    def measure(at: float) -> MeasuredPoint:
        point = np.array([at])
        return MeasuredPoint(point, 1e6 + 0.5 * at * at, point.copy(), 0.0)

    found = gap_bounds(measure(1e-5), measure(1e-9), mu=0.5)
    truth = 0.5e-10
    assert 0.4 * truth < found.lower <= truth <= found.upper <= 2 * truth


def test_the_search_ends_at_the_minimum_and_where_nothing_helps() -> None:
    zero = np.zeros(3)
    assert MinimumSearch(MeasuredPoint(zero, 1.0, zero, 0.0)).proposal() is None
    stuck = MinimumSearch(MeasuredPoint(zero, 1.0, np.ones(3), 0.0))
    for _ in range(20):
        proposal = stuck.proposal()
        if proposal is None:
            return
        stuck.add(MeasuredPoint(proposal, 2.0, np.ones(3), 0.0))
    pytest.fail("it never gave up")


@pytest.mark.parametrize("mu", [0.0, -1.0, float("nan"), float("inf")])
def test_a_mu_that_proves_nothing_is_refused(mu: float) -> None:
    point = MeasuredPoint(np.zeros(2), 0.0, np.ones(2), 0.0)
    with pytest.raises(InvalidAssumption, match="mu"):
        gap_bounds(point, point, mu)
