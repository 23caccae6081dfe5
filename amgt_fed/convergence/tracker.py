"""One measurement in, one report out: does this run converge, and how is that known?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from amgt_fed.errors import StateError

from .errors import InvalidMeasurement
from .fit import LastHalfSlope
from .ledger import BoundLedger, certify
from .measurement import Assumptions, Measurement
from .report import Certificate, ErrorBudget, RoundReport, Status, StopReason
from .rules import Progress, StatusRules, StopRules

_STATE_VERSION = 1


class ConvergenceTracker:
    """Follows one run round by round: error budget, slopes, bounds, status, and whether to stop.

    Mathematics only: no file, no clock, no torch. Memory and time per round do not grow with the run. `state()` and
    `from_state` carry it over a restart; the reports that follow are the same, bit for bit.

    Args:
        assumptions: what is known of the problem; a bound that needs more is not given.
        rules: what counts as converged, stalled and diverging.
        stops: which of these, or which byte or time budget, asks for the end. None does by default.

    Source: ALGORITHM section 5.
    """

    def __init__(
        self,
        assumptions: Assumptions | None = None,
        *,
        rules: StatusRules | None = None,
        stops: StopRules | None = None,
    ) -> None:
        self.assumptions = assumptions or Assumptions()
        self.rules = rules or StatusRules()
        self.stops = stops or StopRules()
        self._ledger = BoundLedger(self.assumptions)
        self._progress = Progress(self.rules)
        self._update_fit = LastHalfSlope()
        self._delta_fit = LastHalfSlope()
        self._round = 0
        self._total_bytes = 0
        self._total_failures = 0
        self._violations = 0
        self._worst_ratio: float | None = None
        self._observed_c = 0.0
        self._last_certificate: Certificate | None = None

    def observe(self, measurement: Measurement) -> RoundReport:
        """Take one round in and report on it.

        Args:
            measurement: the round's numbers; rounds must come in increasing order. A round left out is one in which
                the model did not move.

        Raises:
            InvalidMeasurement: the round is not later than the last one.
            InvalidAssumption: the first loss lies below the assumed f_low.
        """
        if measurement.round <= self._round:
            raise InvalidMeasurement("round", measurement.round, f"later than {self._round}, the last one observed")
        with np.errstate(over="ignore"):  # a diverging run overflows; the ledger drops what is no longer finite
            certificate = None
            if measurement.certificate is not None and measurement.certificate.is_finite:
                certificate = certify(measurement.round, measurement.certificate, self.assumptions.mu)
            bounds = self._ledger.add(measurement, certificate)
        self._round = measurement.round
        self._last_certificate = certificate or self._last_certificate
        self._total_bytes += measurement.uplink_bytes + measurement.downlink_bytes
        self._total_failures += measurement.failures
        # A round without participants has an update of zero by default, not by convergence.
        moved = measurement.participants > 0
        self._update_fit.add(measurement.round, measurement.update_norm if moved else 0.0)
        self._delta_fit.add(measurement.round, measurement.delta if moved else 0.0)
        finite_loss = measurement.loss if math.isfinite(measurement.loss or 0.0) else None
        upper = certificate.gradient_upper if certificate is not None and certificate.rigorous else None
        self._progress.add(measurement.round, finite_loss, upper)
        error = self._check_budget(measurement)
        status, explanation = self._judge(measurement, error)
        return RoundReport(
            round=measurement.round,
            status=status,
            stop=self._stop_reason(status, measurement),
            explanation=explanation,
            loss=measurement.loss,
            metrics=dict(measurement.metrics),
            update_norm=measurement.update_norm,
            error=error,
            update_slope=self._update_fit.slope(),
            delta_slope=self._delta_fit.slope(),
            bounds=bounds,
            certificate=certificate,
            last_certificate=self._last_certificate,
            uplink_bytes=measurement.uplink_bytes,
            downlink_bytes=measurement.downlink_bytes,
            total_bytes=self._total_bytes,
            drift=measurement.drift,
            participants=measurement.participants,
            failures=measurement.failures,
            total_failures=self._total_failures,
            elapsed_s=measurement.elapsed_s,
        )

    def _check_budget(self, measurement: Measurement) -> ErrorBudget:
        delta, budget = measurement.delta, measurement.budget
        if budget is None:
            budget = self.assumptions.budget(measurement.round, measurement.update_norm)
        ratio = None
        if budget is not None:
            # Nothing lost keeps every budget, that of zero too.
            ratio = 0.0 if delta == 0 else delta / budget if budget > 0 and math.isfinite(delta) else math.inf
            self._worst_ratio = max(ratio, self._worst_ratio or 0.0)
            self._violations += ratio > 1 + self.rules.budget_slack
        if math.isfinite(delta):
            self._observed_c = max(self._observed_c, measurement.round * delta)
        return ErrorBudget(delta, budget, ratio, self._violations, self._worst_ratio, self._observed_c)

    def _judge(self, measurement: Measurement, error: ErrorBudget) -> tuple[Status, str]:
        if not measurement.is_finite:
            loss = "unknown" if measurement.loss is None else f"{measurement.loss:.4g}"
            return Status.DIVERGING, f"loss {loss}, ||m|| {measurement.update_norm:.4g}, delta {error.delta:.4g}"
        if self._progress.is_diverging:
            return Status.DIVERGING, "the loss has risen above its best by more than it was ever worth"
        certificate = self._last_certificate
        if certificate is not None and self.rules.is_converged(certificate):
            gap = "" if certificate.gap is None else f", gap at most {certificate.gap:.4g}"
            found = f"round {certificate.round}: ||grad f|| at most {certificate.gradient_upper:.4g}{gap}"
            return Status.CONVERGED, f"certified in {found}"
        if error.ratio is not None and error.ratio > 1 + self.rules.budget_slack:
            return Status.BUDGET_VIOLATED, f"delta {error.delta:.4g} exceeds its budget {error.budget:.4g}"
        idle = self._progress.rounds_without_progress(measurement.round)
        if idle >= self.rules.stall_rounds:
            return Status.STALLED, f"no progress for {idle} rounds"
        return Status.IMPROVING, f"last progress {idle} rounds ago" if idle else "progress in this round"

    def _stop_reason(self, status: Status, measurement: Measurement) -> StopReason | None:
        stops = self.stops
        if stops.on_divergence and status is Status.DIVERGING:
            return StopReason.DIVERGENCE
        if stops.on_certificate and status is Status.CONVERGED:
            return StopReason.CERTIFICATE
        idle = self._progress.rounds_without_progress(measurement.round)
        if stops.on_stall and idle >= self.rules.stall_rounds:  # a budget violation must not hide a stall
            return StopReason.STALL
        if stops.max_bytes is not None and self._total_bytes >= stops.max_bytes:
            return StopReason.BYTES
        elapsed = measurement.elapsed_s
        if stops.max_seconds is not None and elapsed is not None and elapsed >= stops.max_seconds:
            return StopReason.TIME
        return None

    def state(self) -> dict[str, Any]:
        """Everything `from_state` needs: nested dicts, lists, strings, numbers; no larger for a longer run."""
        return {
            "version": _STATE_VERSION,
            "assumptions": asdict(self.assumptions),
            "rules": asdict(self.rules),
            "stops": asdict(self.stops),
            "round": self._round,
            "total_bytes": self._total_bytes,
            "total_failures": self._total_failures,
            "violations": self._violations,
            # Strict JSON has no infinity; float() reads the text back.
            "worst_ratio": str(self._worst_ratio) if self._worst_ratio == math.inf else self._worst_ratio,
            "observed_c": self._observed_c,
            "last_certificate": None if self._last_certificate is None else asdict(self._last_certificate),
            "ledger": self._ledger.state(),
            "progress": self._progress.state(),
            "update_fit": self._update_fit.state(),
            "delta_fit": self._delta_fit.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ConvergenceTracker:
        """The tracker that returned this state.

        Raises:
            StateError: the state is of another version, or a part is missing or malformed.
        """
        if state.get("version") != _STATE_VERSION:
            found = state.get("version")
            raise StateError(f"tracker state has version {found!r}; this library reads version {_STATE_VERSION}")
        try:
            tracker = cls(
                Assumptions(**state["assumptions"]),
                rules=StatusRules(**state["rules"]),
                stops=StopRules(**state["stops"]),
            )
            tracker._round = state["round"]
            tracker._total_bytes, tracker._total_failures = state["total_bytes"], state["total_failures"]
            tracker._violations = state["violations"]
            tracker._worst_ratio = None if state["worst_ratio"] is None else float(state["worst_ratio"])
            tracker._observed_c = state["observed_c"]
            last = state["last_certificate"]
            tracker._last_certificate = None if last is None else Certificate(**last)
            tracker._ledger.restore_(state["ledger"])
            tracker._progress.restore_(state["progress"])
            tracker._update_fit = LastHalfSlope.from_state(state["update_fit"])
            tracker._delta_fit = LastHalfSlope.from_state(state["delta_fit"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"tracker state is damaged ({error!r}); resume from an older checkpoint") from error
        return tracker
