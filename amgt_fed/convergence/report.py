"""What the tracker says about a round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any

from .fit import Slope
from .measurement import Assumptions


class Status(StrEnum):
    """The run's state in one word; where several apply, the first of diverging, converged, budget violated, stalled."""

    IMPROVING = "improving"
    STALLED = "stalled"
    CONVERGED = "converged"
    BUDGET_VIOLATED = "budget violated"
    DIVERGING = "diverging"


class StopReason(StrEnum):
    """Why a rule asks for the run to end."""

    CERTIFICATE = "certificate within the asked tolerance"
    STALL = "no progress"
    DIVERGENCE = "diverging"
    BYTES = "byte budget spent"
    TIME = "time budget spent"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a measured gradient proves about x of `round`. Source: ALGORITHM (B); (C), measured counterpart.

    Attributes:
        round: the round whose x was certified.
        gradient_lower: ||grad f(x)|| is at least this, in [f]/[x].
        gradient_upper: and at most this.
        distance: bound on ||x - x*||; None without mu.
        gap: bound on f(x) - f*; None without mu.
        gap_lower: f(x) - f* is at least this, where a second point was measured.
        rigorous: all clients took part. Otherwise the four figures hold for the participants' objective alone.
        sampling_error: estimated distance between the participants' gradient and the global one, kept apart.
        estimated_gradient_upper: gradient_upper + sampling_error: an estimate for the global objective, no bound.
    """

    round: int
    gradient_lower: float
    gradient_upper: float
    distance: float | None
    gap: float | None
    rigorous: bool
    sampling_error: float | None = None
    estimated_gradient_upper: float | None = None
    gap_lower: float | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound, and whether it rests on more than measurements.

    Attributes:
        value: the bound.
        conditional: it holds only if ||m_k - grad f(x_k)|| <= delta_k did in some round whose measurement cannot tell,
            because local steps or sampling stood between the update and the gradient.
    """

    value: float
    conditional: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of the theory, each None until what it needs is known.

    Attributes:
        distance: (A) or (B), whichever is smaller, on ||x_k - x*||, before this round's step.
        distance_after: (A), on ||x_{k+1} - x*||.
        gap: (B) or L/2 distance^2, whichever is smaller, on f(x_k) - f*.
        gap_after: L/2 distance_after^2, on f(x_{k+1}) - f*.
        gradient_min: (C), on the smallest ||grad f(x_j)||, j <= k.
        gradient_min_certified: on the same quantity, the smallest certified upper end so far; rigorous as it stands.
        constants: the assumptions used, with f_first as it was measured where it was not given.
    """

    distance: Bound | None
    distance_after: Bound | None
    gap: Bound | None
    gap_after: Bound | None
    gradient_min: Bound | None
    gradient_min_certified: float | None
    constants: Assumptions


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """Does (27) hold in this run?

    Attributes:
        delta: measured error of this round.
        budget: what was allowed; None without a budget.
        ratio: delta / budget; infinite when nothing was allowed and something was lost.
        violations: rounds so far whose ratio exceeded 1.
        worst_ratio: largest ratio so far.
        observed_c: largest k delta_k so far: the smallest c for which delta_k <= c / k holds in every round.
    """

    delta: float
    budget: float | None
    ratio: float | None
    violations: int
    worst_ratio: float | None
    observed_c: float


@dataclass(frozen=True, slots=True)
class RoundReport:
    """Everything section 5 of the algorithm lists, for one round.

    Attributes:
        round: k.
        status: the run's state.
        stop: why the run should end now; None while it should go on.
        explanation: one sentence on the status, with its numbers.
        loss: as measured; None where nobody did.
        metrics: as measured.
        update_norm: ||m_k||.
        error: the error budget.
        update_slope: exponent of ||m_k|| over the last half of the run (claimed: -1).
        delta_slope: exponent of delta_k over the last half (claimed: -1).
        bounds: (A), (B) and (C) with their constants.
        certificate: of this round; None in rounds without one.
        last_certificate: the newest so far.
        uplink_bytes: this round.
        downlink_bytes: this round.
        total_bytes: both directions, all rounds so far.
        drift: mean ||D_i - m|| / ||m||.
        participants: clients in m_k.
        failures: clients that gave nothing usable.
        total_failures: so far.
        elapsed_s: seconds since the run began, where measured.
    """

    round: int
    status: Status
    stop: StopReason | None
    explanation: str
    loss: float | None
    metrics: Mapping[str, float]
    update_norm: float
    error: ErrorBudget
    update_slope: Slope | None
    delta_slope: Slope | None
    bounds: Bounds
    certificate: Certificate | None
    last_certificate: Certificate | None
    uplink_bytes: int
    downlink_bytes: int
    total_bytes: int
    drift: float | None
    participants: int
    failures: int
    total_failures: int
    elapsed_s: float | None

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values for strict JSON: enums as text, NaN and infinities as "nan", "inf", "-inf"."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
