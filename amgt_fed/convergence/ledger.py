"""The running side of the bounds: (A)'s recursion, (B)'s certificates and (C)'s sums, fed one round at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from . import theory
from .errors import InvalidAssumption
from .measurement import Assumptions, CertifiedGradient, Measurement
from .report import Bound, Bounds, Certificate


def certify(round: int, measured: CertifiedGradient, mu: float | None) -> Certificate:
    """What the measured gradient proves about x_k; distance and gap only with mu. Source: ALGORITHM (B), and gap.py."""
    upper = float(theory.gradient_upper(measured.norm, measured.error))
    distance = gap = None
    if mu is not None:
        distance = float(theory.distance_certificate(measured.norm, measured.error, mu))
        distance = _finite(min(distance, math.inf if measured.distance_upper is None else measured.distance_upper))
        gap = float(theory.gap_certificate(measured.norm, measured.error, mu))
        gap = _finite(min(gap, math.inf if measured.gap_upper is None else measured.gap_upper))
    sampling = measured.sampling_error
    return Certificate(
        round=round,
        gradient_lower=float(theory.gradient_lower(measured.norm, measured.error)),
        gradient_upper=upper,
        distance=distance,
        gap=gap,
        rigorous=measured.full_participation,
        sampling_error=sampling,
        estimated_gradient_upper=None if sampling is None else upper + sampling,
        gap_lower=measured.gap_lower,
    )


class BoundLedger:
    """Keeps what the bounds need between rounds: five numbers."""

    def __init__(self, assumptions: Assumptions) -> None:
        self._constants = assumptions
        self._distance: Bound | None = None
        self._step_sum = 0.0
        self._penalty_sum = 0.0
        self._sums_conditional = False
        self._sums_broken = False
        self._certified_min: float | None = None

    def add(self, measurement: Measurement, certificate: Certificate | None) -> Bounds:
        """Take one round in and bound it."""
        rigorous = certificate if certificate is not None and certificate.rigorous else None
        if rigorous is not None:
            self._certified_min = min(rigorous.gradient_upper, self._certified_min or math.inf)
        before = self._distance_before(rigorous)
        self._note_first_loss(measurement)
        if measurement.participants:
            self._distance = self._distance_after(before, measurement)
            self._add_to_sums(measurement)
        else:
            self._distance = before
        return Bounds(
            distance=before,
            distance_after=self._distance,
            gap=_smaller(_certified(None if rigorous is None else rigorous.gap), self._gap(before)),
            gap_after=self._gap(self._distance),
            gradient_min=self._gradient_min(),
            gradient_min_certified=self._certified_min,
            constants=self._constants,
        )

    def _distance_before(self, rigorous: Certificate | None) -> Bound | None:
        certified = _certified(None if rigorous is None else rigorous.distance)
        # A certificate always replaces a conditional bound, even a smaller one: it is the one that is proved.
        if certified is not None and self._distance is not None and self._distance.conditional:
            return certified
        return _smaller(certified, self._distance)

    def _distance_after(self, before: Bound | None, measurement: Measurement) -> Bound | None:
        mu, smoothness = self._constants.mu, self._constants.smoothness
        if before is None or mu is None or smoothness is None or not measurement.is_finite:
            return None
        step = measurement.step_size * measurement.gradient_scale
        value = float(theory.distance_after_step(before.value, step, _gradient_error(measurement), mu, smoothness))
        return _bound(value, before.conditional or measurement.gradient_error is None)

    def _gap(self, distance: Bound | None) -> Bound | None:
        if distance is None or self._constants.smoothness is None:
            return None
        return _bound(float(theory.gap_from_distance(distance.value, self._constants.smoothness)), distance.conditional)

    def _note_first_loss(self, measurement: Measurement) -> None:
        if self._constants.f_first is not None:
            return
        certificate = measurement.certificate
        loss = measurement.loss if certificate is None or certificate.loss is None else certificate.loss
        # f_first stands for f(x_1): a loss that first appears after x has moved cannot stand in for it.
        if loss is None or not math.isfinite(loss) or self._step_sum > 0:
            return
        if self._constants.f_low is not None and loss < self._constants.f_low:
            raise InvalidAssumption("f_low", self._constants.f_low, f"a lower bound, yet the loss measured is {loss!r}")
        self._constants = replace(self._constants, f_first=loss)

    def _add_to_sums(self, measurement: Measurement) -> None:
        scale = measurement.gradient_scale
        step = measurement.step_size * scale
        if not measurement.is_finite:
            self._sums_broken = True
            return
        error, length = _gradient_error(measurement), step * measurement.update_norm / scale
        self._step_sum += step
        # Products, not powers: a product overflows to infinity, which is dealt with, a float's ** raises.
        self._penalty_sum += step * error * error + (self._constants.smoothness or 0.0) * length * length
        self._sums_broken |= not math.isfinite(self._penalty_sum)
        self._sums_conditional |= measurement.gradient_error is None

    def _gradient_min(self) -> Bound | None:
        known = self._constants
        if known.smoothness is None or known.f_low is None or known.f_first is None:
            return None
        if self._sums_broken or self._step_sum == 0:
            return None
        square = theory.stationarity_bound_from_sums(self._step_sum, self._penalty_sum, known.f_first - known.f_low)
        return Bound(math.sqrt(float(square)), self._sums_conditional)

    def state(self) -> dict[str, Any]:
        """Plain values, JSON-able, from which `restore_` continues bit for bit."""
        return {
            "f_first": self._constants.f_first,
            "distance": None if self._distance is None else asdict(self._distance),
            "step_sum": self._step_sum,
            "penalty_sum": 0.0 if self._sums_broken else self._penalty_sum,
            "sums_conditional": self._sums_conditional,
            "sums_broken": self._sums_broken,
            "certified_min": self._certified_min,
        }

    def restore_(self, state: Mapping[str, Any]) -> None:
        """Overwrite this object with what `state` returned."""
        self._constants = replace(self._constants, f_first=state["f_first"])
        self._distance = None if state["distance"] is None else Bound(**state["distance"])
        self._step_sum, self._penalty_sum = state["step_sum"], state["penalty_sum"]
        self._sums_conditional, self._sums_broken = state["sums_conditional"], state["sums_broken"]
        self._certified_min = state["certified_min"]


def _gradient_error(measurement: Measurement) -> float:
    """Bound on ||m_k - grad f(x_k)|| in gradient units: the given one, else what the codec lost."""
    if measurement.gradient_error is not None:
        return measurement.gradient_error
    return measurement.delta / measurement.gradient_scale


def _finite(value: float) -> float | None:
    """A run that blows up takes its bounds along; beyond the range of a float there is nothing left to say."""
    return value if math.isfinite(value) else None


def _bound(value: float, conditional: bool) -> Bound | None:
    return Bound(value, conditional) if math.isfinite(value) else None


def _certified(value: float | None) -> Bound | None:
    return None if value is None else Bound(value, conditional=False)


def _smaller(first: Bound | None, second: Bound | None) -> Bound | None:
    if first is None or second is None:
        return first or second
    return first if first.value <= second.value else second
