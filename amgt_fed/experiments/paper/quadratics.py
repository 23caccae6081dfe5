"""Applications 1 and 2: eigenvalues, critical and optimal step sizes, Table 1, from two starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amgt_fed.optimizer import AMGT
from amgt_fed.spectrum import Spectrum, hessian_spectrum

TARGET = 1e-6  # ||x - x*|| at which a run counts as converged
BLOWN_UP = 1e6
STEP_LIMIT = 20_000


@dataclass(frozen=True)
class Application:
    """A quadratic of the paper, with everything but the formula computed from it."""

    key: str
    title: str
    formula: str
    function: Callable[[Tensor], Tensor]
    printed_hessian: tuple[tuple[float, float], tuple[float, float]]

    @cached_property
    def hessian(self) -> NDArray[np.float64]:
        """Second derivatives, shape (2, 2), by automatic differentiation."""
        point = torch.zeros(2, dtype=torch.float64)
        hessian: NDArray[np.float64] = torch.func.jacrev(torch.func.grad(self.function))(point).numpy()
        return hessian

    @cached_property
    def slope(self) -> NDArray[np.float64]:
        """The gradient at the origin, shape (2,), by automatic differentiation."""
        gradient: NDArray[np.float64] = torch.func.grad(self.function)(torch.zeros(2, dtype=torch.float64)).numpy()
        return gradient

    @cached_property
    def optimum(self) -> NDArray[np.float64]:
        """Where the gradient vanishes, shape (2,)."""
        return np.asarray(np.linalg.solve(self.hessian, -self.slope))

    @cached_property
    def spectrum(self) -> Spectrum:
        """Ends of the Hessian's spectrum."""
        return hessian_spectrum(self.function, torch.zeros(2, dtype=torch.float64))

    def missing_directions(self, start: tuple[float, float]) -> list[float]:
        """Eigenvalues whose eigenvector a start has no part in: gradient descent never meets them."""
        values, vectors = np.linalg.eigh(self.hessian)
        parts = vectors.T @ (np.asarray(start) - self.optimum)
        return [float(value) for value, part in zip(values, parts, strict=True) if abs(part) < 1e-12]


APPLICATION_1 = Application(
    "application-1",
    "Application 1",
    "f = 2x² + 2y² - 2xy + 2",
    lambda p: 2 * p[0] ** 2 + 2 * p[1] ** 2 - 2 * p[0] * p[1] + 2,
    ((4.0, 2.0), (-2.0, 4.0)),
)
APPLICATION_2 = Application(
    "application-2",
    "Application 2",
    "f = x² + 2y² - 2xy + 2",
    lambda p: p[0] ** 2 + 2 * p[1] ** 2 - 2 * p[0] * p[1] + 2,
    ((2.0, 2.0), (-2.0, 4.0)),
)


class Outcome(StrEnum):
    """How a run ended."""

    CONVERGED = "converges"
    OSCILLATES = "oscillates"
    DIVERGED = "diverges"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class Descent:
    """One run: its end, the steps it took, and ||x_k - x*|| for k = 0, 1, .."""

    outcome: Outcome
    steps: int
    distances: tuple[float, ...]

    def __str__(self) -> str:
        if self.outcome is not Outcome.CONVERGED:
            return str(self.outcome)
        return f"{self.steps} step" if self.steps == 1 else f"{self.steps} steps"


OptimizerFactory = Callable[[list[Tensor]], torch.optim.Optimizer]


def plain(rate: float) -> OptimizerFactory:
    """AMGT in the plain form (14) without memory: gradient descent, what the paper's applications run."""
    return lambda params: AMGT(params, lr=rate, betas=(0.0, 0.999), gamma=0.0, preconditioned=False, threshold=0.0)


def descend(
    application: Application, start: tuple[float, float], optimizer: OptimizerFactory, limit: int = STEP_LIMIT
) -> Descent:
    """Run an optimizer until it is within TARGET of the optimum, leaves for good, or repeats itself.

    Args:
        application: the function.
        start: x_0.
        optimizer: parameters -> optimizer.
        limit: steps at most.
    """
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    stepper = optimizer([x])
    # A quadratic's gradient is H x + its value at 0: the same numbers as autograd's, without its overhead.
    hessian, slope = torch.from_numpy(application.hessian), torch.from_numpy(application.slope)
    here = np.array(start)
    before = last = np.full(2, np.nan)
    distances = [float(np.linalg.norm(here - application.optimum))]
    while distances[-1] > TARGET:
        if not distances[-1] < BLOWN_UP:
            return Descent(Outcome.DIVERGED, len(distances) - 1, tuple(distances))
        # Two points that follow each other for ever: a period of two, to the last bit.
        if np.array_equal(here, before) and not np.array_equal(here, last):
            return Descent(Outcome.OSCILLATES, len(distances) - 1, tuple(distances))
        if len(distances) > limit:
            return Descent(Outcome.UNFINISHED, limit, tuple(distances))
        x.grad = hessian @ x.detach() + slope
        stepper.step()
        before, last, here = last, here, x.detach().numpy().copy()
        distances.append(float(np.linalg.norm(here - application.optimum)))
    return Descent(Outcome.CONVERGED, len(distances) - 1, tuple(distances))


def critical_rate(application: Application, start: tuple[float, float], limit: int = 1000) -> float:
    """The step size between convergence and divergence, by bisection over runs, to 2e-4.

    A run counts as stable when it ends nearer to the optimum than it began.
    """
    low, high = 0.0, 2.0
    while high - low > 2e-4:
        middle = (low + high) / 2
        distances = descend(application, start, plain(middle), limit).distances
        low, high = (middle, high) if distances[-1] < distances[0] else (low, middle)
    return (low + high) / 2


def fastest_rate(application: Application, start: tuple[float, float], rates: NDArray[np.float64]) -> float:
    """Of these step sizes the one that reaches TARGET in the fewest steps; the middle one where several do."""
    steps = np.array([_steps(descend(application, start, plain(float(rate)), 400)) for rate in rates])
    return float(np.median(rates[steps == steps.min()]))


def _steps(descent: Descent) -> float:
    return descent.steps if descent.outcome is Outcome.CONVERGED else np.inf
