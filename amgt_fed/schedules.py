"""Step sizes (10), (13), (26) and error budgets (27): frozen callables of the round, with their partial sums.

Every schedule here is constant or of the form first / (1 + rate (round - 1)), so one sum serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from amgt_fed.errors import ConfigError

Schedule: TypeAlias = Callable[[int], float]
"""Round, counted from 1 -> step size or error budget of that round."""


@runtime_checkable
class SummableSchedule(Protocol):
    """A schedule that also knows its sum over the first rounds without visiting them."""

    def __call__(self, round: int, /) -> float:
        """Value of `round`, counted from 1."""
        ...

    def partial_sum(self, rounds: int, /) -> float:
        """Sum of the values of rounds 1 .. `rounds`; 0 for no rounds."""
        ...


class InvalidSchedule(ConfigError):
    """A schedule's parameter, or the round it is asked for, lies outside its range."""

    def __init__(self, name: str, value: float, allowed: str) -> None:
        super().__init__(name, value, allowed)  # plain args, so that the error survives pickling
        self.name = name
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.name} is {self.value!r}; give a finite number {self.allowed}"


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value in every round.

    Raises:
        InvalidSchedule: `value` is negative, infinite or NaN; a round below 1 is asked for.
    """

    value: float

    def __post_init__(self) -> None:
        _require_at_least_zero("value", self.value)

    def __call__(self, round: int) -> float:
        """The value, whatever the round."""
        _require_round(round)
        return self.value

    def partial_sum(self, rounds: int) -> float:
        """`rounds` times the value."""
        return _reciprocal_sum(self.value, 0.0, rounds)


@dataclass(frozen=True, slots=True)
class InverseTime:
    """Step size eta_k = initial / (1 + decay (k - 1)); decay = 0 keeps it constant.

    Raises:
        InvalidSchedule: `initial` is not positive, `decay` is negative, or one is not finite; a round below 1.

    Source: (10).
    """

    initial: float
    decay: float = 0.0

    def __post_init__(self) -> None:
        _require_positive("initial", self.initial)
        _require_at_least_zero("decay", self.decay)

    def __call__(self, round: int) -> float:
        """Step size of `round` (from 1)."""
        return self.initial / (1 + self.decay * (_require_round(round) - 1))

    def partial_sum(self, rounds: int) -> float:
        """eta_1 + .. + eta_rounds, which grows like log(rounds) / decay."""
        return _reciprocal_sum(self.initial, self.decay, rounds)


@dataclass(frozen=True, slots=True)
class StronglyConvex:
    """Step size alpha_k = 1 / (mu (k + t0)), the one the strongly convex proofs are about.

    With t0 = 0, as printed, the first steps exceed 2/L whenever L > 2 mu and can throw the model far away;
    `for_smoothness` picks the smallest whole t0 that keeps every step at or below 1/L.

    Raises:
        InvalidSchedule: `mu` is not positive, `t0` is negative, or one is not finite; a round below 1.

    Source: (13), (26); t0: D4.
    """

    mu: float
    t0: float = 0.0

    def __post_init__(self) -> None:
        _require_positive("mu", self.mu)
        _require_at_least_zero("t0", self.t0)

    @classmethod
    def for_smoothness(cls, mu: float, smoothness: float) -> StronglyConvex:
        """The schedule whose every step is at most 1/L: t0 = ceil(L/mu) - 1.

        Args:
            mu: strong convexity, > 0; in the units of the loss per squared unit of the model.
            smoothness: L >= mu, in the same units.

        Raises:
            InvalidSchedule: `mu` is not positive or `smoothness` lies below it.

        Source: D4.
        """
        _require_positive("mu", mu)
        if not (smoothness >= mu and math.isfinite(smoothness / mu)):
            raise InvalidSchedule("smoothness", smoothness, f">= mu = {mu!r}")
        return cls(mu, math.ceil(smoothness / mu) - 1)

    def __call__(self, round: int) -> float:
        """Step size of `round` (from 1)."""
        return 1 / (self.mu * (_require_round(round) + self.t0))

    def partial_sum(self, rounds: int) -> float:
        """alpha_1 + .. + alpha_rounds = (H(rounds + t0) - H(t0)) / mu, with the harmonic function H."""
        return _reciprocal_sum(1 / (self.mu * (1 + self.t0)), 1 / (1 + self.t0), rounds)


@dataclass(frozen=True, slots=True)
class InverseRound:
    """Error budget delta_k = c / k, in the units of the update.

    Raises:
        InvalidSchedule: `c` is negative, infinite or NaN; a round below 1 is asked for.

    Source: (27).
    """

    c: float

    def __post_init__(self) -> None:
        _require_at_least_zero("c", self.c)

    def __call__(self, round: int) -> float:
        """Budget of `round` (from 1)."""
        return self.c / _require_round(round)

    def partial_sum(self, rounds: int) -> float:
        """delta_1 + .. + delta_rounds = c H(rounds), with the harmonic number H."""
        return _reciprocal_sum(self.c, 1.0, rounds)


@dataclass(frozen=True, slots=True)
class RelativeInverseRound:
    """Error budget delta_k = theta ||m_k|| / k: as a schedule it gives the fraction theta / k of the update's norm.

    While ||m_k|| <= G it lies within `InverseRound(theta * G)`; `at_most(G)` gives that schedule.

    Raises:
        InvalidSchedule: `theta` is negative, infinite or NaN; a round below 1, or a norm that is no norm.

    Source: (27), made relative so that theta carries no units.
    """

    theta: float

    def __post_init__(self) -> None:
        _require_at_least_zero("theta", self.theta)

    def __call__(self, round: int) -> float:
        """Fraction of the update's norm that may be lost in `round` (from 1)."""
        return self.theta / _require_round(round)

    def of(self, round: int, norm: float) -> float:
        """Budget of `round` for an update of this l2 norm, in the update's units."""
        _require_at_least_zero("norm", norm)
        return self(round) * norm

    def at_most(self, norm_bound: float) -> InverseRound:
        """The absolute budget that holds in every round whose update has norm <= `norm_bound`."""
        _require_at_least_zero("norm_bound", norm_bound)
        return InverseRound(self.theta * norm_bound)

    def partial_sum(self, rounds: int) -> float:
        """Sum of the fractions of rounds 1 .. `rounds`."""
        return _reciprocal_sum(self.theta, 1.0, rounds)


_EXACT_TERMS = 16
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66)  # B_2, B_4, .. B_10


def _reciprocal_sum(first: float, rate: float, count: int) -> float:
    """Sum of first / (1 + rate i) over i = 0 .. count - 1, to about 1e-15 relative, in constant time.

    The first terms are added exactly, the rest by Euler-Maclaurin. A difference of digammas would lose every
    digit for a small rate (1e-12 is a sensible decay); log1p does not.
    """
    if count < 0:
        raise InvalidSchedule("rounds", count, ">= 0")
    if rate == 0:
        return first * count
    head = min(count, _EXACT_TERMS)
    terms = [1 / (1 + rate * i) for i in range(head)]
    if count > head:
        low, high = 1 + rate * head, 1 + rate * (count - 1)
        terms += [math.log1p(rate * (count - 1 - head) / low) / rate, 0.5 / low, 0.5 / high]
        for power, bernoulli in zip(range(2, 12, 2), _BERNOULLI, strict=True):
            terms.append(bernoulli / power * ((rate / low) ** power - (rate / high) ** power) / rate)
    return first * math.fsum(terms)


def _require_round(round: int) -> int:
    if not round >= 1:
        raise InvalidSchedule("round", round, ">= 1; rounds are counted from 1")
    return round


def _require_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):  # written so that NaN, which fails every comparison, is refused
        raise InvalidSchedule(name, value, "> 0")


def _require_at_least_zero(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise InvalidSchedule(name, value, ">= 0")
