"""What a round measures, and what is known of the problem beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import InvalidAssumption, InvalidMeasurement


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Constants of the problem that are known; a bound that needs an unknown one is simply not given.

    Attributes:
        mu: strong convexity or Polyak-Lojasiewicz constant, in [f]/[x]^2. For an l2-regularised convex model the
            regulariser itself. Needed by (A) and (B).
        smoothness: L >= mu, in [f]/[x]^2. Needed by (A) and (C).
        f_low: any lower bound of the objective. Needed by (C).
        c: the error budget is delta_k = c / k, in the units of the update.
        theta: the error budget is delta_k = theta ||m_k|| / k instead. A measurement may carry its own budget too.
        f_first: the objective at x_1; the first measured loss where it is not given. Used by (C).

    Raises:
        InvalidAssumption: a constant out of range, L below mu, or both c and theta.
    """

    mu: float | None = None
    smoothness: float | None = None
    f_low: float | None = None
    c: float | None = None
    theta: float | None = None
    f_first: float | None = None

    def __post_init__(self) -> None:
        for name in ("mu", "smoothness"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidAssumption(name, value, "a finite number > 0, or None where unknown")
        for name in ("c", "theta"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InvalidAssumption(name, value, "a finite number >= 0, or None for no budget")
        for name in ("f_low", "f_first"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise InvalidAssumption(name, value, "a finite number, or None where unknown")
        if self.mu is not None and self.smoothness is not None and self.smoothness < self.mu:
            raise InvalidAssumption("smoothness", self.smoothness, f">= mu = {self.mu!r}")
        if self.c is not None and self.theta is not None:
            raise InvalidAssumption("theta", self.theta, f"None, as c = {self.c!r} already sets the budget")

    def budget(self, round: int, update_norm: float) -> float | None:
        """delta_k allowed in `round`: c / k or theta ||m_k|| / k; None without either. Source: (27)."""
        if self.c is not None:
            return self.c / round
        return None if self.theta is None else self.theta * update_norm / round


@dataclass(frozen=True, slots=True)
class CertifiedGradient:
    """The gradient of the participants' objective at x_k, measured without local steps.

    Attributes:
        norm: ||g_hat||, in [f]/[x].
        error: rigorous bound on ||g_hat - (the participants' gradient)||: what the codec lost. In [f]/[x].
        full_participation: every client took part, so the participants' objective is the global one.
        sampling_error: estimate of ||participants' gradient - global gradient|| from the spread between clients. Never
            enters a rigorous figure.
        loss: the participants' objective at x_k, where it came along; in [f].
        gap_lower, gap_upper: proven bounds on f(x_k) - f* from a second point (`gap_bounds`), where there was one.
        distance_upper: the same for ||x_k - x*||.

    Raises:
        InvalidMeasurement: a negative norm, error or bound. They may be NaN or infinite: the run is then diverging, and
            nothing is certified.
    """

    norm: float
    error: float
    full_participation: bool = True
    sampling_error: float | None = None
    loss: float | None = None
    gap_lower: float | None = None
    gap_upper: float | None = None
    distance_upper: float | None = None

    def __post_init__(self) -> None:
        for name in ("norm", "error", "sampling_error", "gap_lower", "gap_upper", "distance_upper"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidMeasurement(f"certified gradient: {name}", value, ">= 0")

    @property
    def is_finite(self) -> bool:
        """The measurement shows neither a NaN nor an infinity."""
        return math.isfinite(self.norm) and math.isfinite(self.error) and math.isfinite(self.sampling_error or 0.0)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the server knows at the end of round k, whose step is x_{k+1} = x_k - step_size m_k.

    Attributes:
        round: k, from 1; may skip, never repeat.
        update_norm: ||m_k||, the aggregated update that was applied.
        delta: delta_k = sum_i w_i ||q_i - D_i||, the round's measured error (27), in the update's units.
        step_size: alpha_k >= 0.
        loss: objective at x_k as the participants measured it; None where nobody did.
        metrics: anything else worth showing; passed through.
        uplink_bytes: bytes all participants sent in this round.
        downlink_bytes: bytes sent to all participants in this round.
        drift: mean ||D_i - m|| / ||m|| over the participants.
        participants: clients whose update is in m_k; 0 means that the round came to nothing and x did not move.
        failures: clients that were asked and gave nothing usable.
        elapsed_s: seconds since the run began, for the time budget.
        budget: this round's error budget, where it is not the assumptions' c / k or theta ||m_k|| / k.
        gradient_error: bound on ||m_k / gradient_scale - grad f(x_k)||, in [f]/[x], where one is known (one local step
            and full participation: delta / gradient_scale). Without it (A) and (C) take delta / gradient_scale in its
            place and are marked as conditional, for local steps and sampling are then left out of account.
        gradient_scale: s > 0 such that m_k estimates s grad f(x_k); the local rate times the local steps when m_k is a
            difference of models, 1 when it is a gradient.
        certificate: the certified gradient at x_k, in a certified round.

    Raises:
        InvalidMeasurement: a count or norm below 0, a round below 1. Norms and losses may be NaN or infinite: that is
            how a diverging run looks.
    """

    round: int
    update_norm: float
    delta: float
    step_size: float
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    drift: float | None = None
    participants: int = 1
    failures: int = 0
    elapsed_s: float | None = None
    budget: float | None = None
    gradient_error: float | None = None
    gradient_scale: float = 1.0
    certificate: CertifiedGradient | None = None

    def __post_init__(self) -> None:
        if self.round < 1:
            raise InvalidMeasurement("round", self.round, ">= 1; rounds are counted from 1")
        for name in ("update_norm", "delta", "drift", "gradient_error", "uplink_bytes", "downlink_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidMeasurement(name, value, ">= 0")
        for name in ("participants", "failures"):
            if getattr(self, name) < 0:
                raise InvalidMeasurement(name, getattr(self, name), ">= 0")
        for name in ("step_size", "elapsed_s", "budget"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InvalidMeasurement(name, value, "a finite number >= 0")
        if not 0 < self.gradient_scale < math.inf:
            raise InvalidMeasurement("gradient_scale", self.gradient_scale, "a finite number > 0")

    @property
    def is_finite(self) -> bool:
        """Neither the loss nor the update nor the certified gradient shows a NaN or an infinity."""
        numbers = (self.update_norm, self.delta, self.loss or 0.0, self.gradient_error or 0.0)
        return all(map(math.isfinite, numbers)) and (self.certificate is None or self.certificate.is_finite)
