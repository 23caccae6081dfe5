"""When a run counts as converged, stalled or diverging, and which of these end it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from .errors import InvalidAssumption
from .report import Certificate


@dataclass(frozen=True, slots=True)
class StatusRules:
    """What each status means.

    Attributes:
        gap_tolerance: converged when a rigorous certificate puts f(x_k) - f* at or below this, in [f].
        distance_tolerance: the same for ||x_k - x*||, in [x].
        gradient_tolerance: the same for ||grad f(x_k)||, in [f]/[x]. Of the three, all that are given must hold.
        stall_rounds: stalled when so many rounds pass without progress.
        stall_tolerance: progress is a fall of the loss by this fraction of its whole descent so far, or of the
            certified gradient by this fraction of itself.
        divergence_factor: diverging when the loss has risen above its best by more than this many times the larger of
            its whole descent and |first loss|; a NaN or an infinity diverges at once.
        smoothing: losses are judged by the median of so many rounds, so that one unlucky sample decides nothing.
        budget_slack: a ratio delta_k / budget up to 1 + this is no violation; room for rounding only.

    Raises:
        InvalidAssumption: a value out of range.
    """

    gap_tolerance: float | None = None
    distance_tolerance: float | None = None
    gradient_tolerance: float | None = None
    stall_rounds: int = 20
    stall_tolerance: float = 1e-3
    divergence_factor: float = 1.0
    smoothing: int = 5
    budget_slack: float = 1e-9

    def __post_init__(self) -> None:
        for name in ("gap_tolerance", "distance_tolerance", "gradient_tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InvalidAssumption(name, value, "a finite number >= 0, or None")
        for name in ("stall_tolerance", "divergence_factor", "budget_slack"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidAssumption(name, getattr(self, name), "a finite number >= 0")
        for name in ("stall_rounds", "smoothing"):
            if getattr(self, name) < 1:
                raise InvalidAssumption(name, getattr(self, name), "a whole number >= 1")

    def is_converged(self, certificate: Certificate | None) -> bool:
        """A rigorous certificate meets every tolerance that was asked for, and at least one was."""
        if certificate is None or not certificate.rigorous:
            return False
        asked = [
            (value, tolerance)
            for value, tolerance in (
                (certificate.gap, self.gap_tolerance),
                (certificate.distance, self.distance_tolerance),
                (certificate.gradient_upper, self.gradient_tolerance),
            )
            if tolerance is not None
        ]
        return bool(asked) and all(value is not None and value <= tolerance for value, tolerance in asked)


@dataclass(frozen=True, slots=True)
class StopRules:
    """Which findings end the run; none does unless asked.

    Attributes:
        on_certificate: stop when converged.
        on_stall: stop when stalled.
        on_divergence: stop when diverging.
        max_bytes: stop once uplink plus downlink of all rounds reach this.
        max_seconds: stop once `elapsed_s` reaches this.

    Raises:
        InvalidAssumption: a budget that is not positive.
    """

    on_certificate: bool = False
    on_stall: bool = False
    on_divergence: bool = False
    max_bytes: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidAssumption(name, value, "> 0, or None for no budget")


class Progress:
    """Follows the loss and the certified gradient: how long since either fell, and how far the loss has risen."""

    def __init__(self, rules: StatusRules) -> None:
        self._rules = rules
        self._recent: list[float] = []
        self._first: float | None = None
        self._best: float | None = None
        self._loss_mark: float | None = None  # the loss, and below the gradient, from which progress is counted
        self._gradient_mark: float | None = None
        self._progress_round = 0
        self._risen = False

    def add(self, round: int, loss: float | None, gradient_upper: float | None) -> None:
        """Take one round's finite loss and certified gradient in, where it has them."""
        self._progress_round = self._progress_round or round
        if loss is not None:
            self._add_loss(round, loss)
        if gradient_upper is not None:
            mark = self._gradient_mark
            if mark is None or gradient_upper < mark * (1 - self._rules.stall_tolerance):
                self._gradient_mark, self._progress_round = gradient_upper, round

    def _add_loss(self, round: int, loss: float) -> None:
        self._recent = [*self._recent, loss][-self._rules.smoothing :]
        smooth = median(self._recent)
        if self._first is None or self._best is None or self._loss_mark is None:
            self._first = self._best = self._loss_mark = loss
        self._best = min(self._best, smooth)
        descent = self._first - self._best
        if self._best < self._loss_mark - self._rules.stall_tolerance * descent:
            self._loss_mark, self._progress_round = self._best, round
        # The scale: what the run has gained so far; before it has gained anything, the size of the loss itself.
        scale = max(descent, abs(self._first))
        self._risen = smooth - self._best > self._rules.divergence_factor * scale

    def rounds_without_progress(self, round: int) -> int:
        """Rounds since the loss or the certified gradient last fell appreciably."""
        return round - (self._progress_round or round)

    @property
    def is_diverging(self) -> bool:
        """The smoothed loss stands further above its best than the rules allow."""
        return self._risen

    def state(self) -> dict[str, Any]:
        """Plain values, JSON-able, from which `restore_` continues bit for bit."""
        return {
            "recent": list(self._recent),
            "first": self._first,
            "best": self._best,
            "loss_mark": self._loss_mark,
            "gradient_mark": self._gradient_mark,
            "progress_round": self._progress_round,
            "risen": self._risen,
        }

    def restore_(self, state: Mapping[str, Any]) -> None:
        """Overwrite this object with what `state` returned."""
        self._recent = list(state["recent"])
        self._first, self._best = state["first"], state["best"]
        self._loss_mark, self._gradient_mark = state["loss_mark"], state["gradient_mark"]
        self._progress_round, self._risen = state["progress_round"], state["risen"]
