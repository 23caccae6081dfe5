"""What is known of a task beforehand: constants of its objective, and the score of training without a federation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constants:
    """Constants of the federation's objective, the mean loss over all training examples.

    Attributes:
        mu: strong convexity, in [f]/[x]^2; None where it is not known to be positive.
        smoothness: an upper bound of L, in [f]/[x]^2.
        f_low: a lower bound of the objective.
        f_star: its minimum, where it is known exactly.
    """

    mu: float | None = None
    smoothness: float | None = None
    f_low: float | None = None
    f_star: float | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A centralised score: the same model and optimizer, all training data in one place.

    Attributes:
        metric: its name among the task's metrics.
        value: on the task's test data, after the last epoch.
        command: what printed it.
    """

    metric: str
    value: float
    command: str
