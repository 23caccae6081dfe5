"""The `convergence` section: what the tracker may assume, what is certified, and when a run may stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from amgt_fed.config.section import Finite, Section
from amgt_fed.errors import ConfigError
from amgt_fed.federated.budgets import BudgetRule


@dataclass(frozen=True, slots=True)
class Target:
    """A metric and the value at which a run may stop."""

    metric: str
    value: float
    at_least: bool

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `NAME>=VALUE` or `NAME<=VALUE`.

        Raises:
            ConfigError: another form.
        """
        for sign in (">=", "<="):
            name, separator, number = (part.strip() for part in text.partition(sign))
            if separator and name:
                try:
                    value = float(number)
                except ValueError:
                    break
                if math.isfinite(value):
                    return cls(name, value, sign == ">=")
        raise ConfigError(f"target {text!r} is not understood; write e.g. accuracy>=0.95 or loss<=0.1")

    def is_reached(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metric is there and good enough."""
        value = metrics.get(self.metric)
        return value is not None and (value >= self.value if self.at_least else value <= self.value)

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.at_least else '<='} {self.value:g}"


class ConvergenceConfig(Section):
    """What the convergence tracker may assume, and when it may stop the run. 0 means unknown or off."""

    delta_c: Finite = Field(0.0, ge=0, description="budget of the round's error: delta_k <= delta_c / k, eq. (27)")
    mu: Finite = Field(0.0, ge=0, description="strong convexity, if known (an l2 regulariser's weight)")
    smoothness: Finite = Field(0.0, ge=0, description="L of the global objective, if known")
    f_low: Finite | Literal["auto"] = Field(
        "auto", description="a lower bound of the loss; auto: the task's own, or 0, below which no usual loss falls"
    )
    certify_every: int = Field(
        0, ge=0, description="rounds between certificates, from the gradient of every client's full objective; 0: never"
    )
    certify_budget: str = Field("nmse=1e-4", description="codec budget of those gradients, as codec.uplink_budget")
    certify_probes: int = Field(
        30, ge=0, description="gradients measured at other points, at most, to bound the gap within twice; needs mu"
    )
    gap_tolerance: Finite = Field(0.0, ge=0, description="converged, and stop, when f(x) - f* is certified below it")
    gradient_tolerance: Finite = Field(0.0, ge=0, description="the same for the norm of the gradient")
    stop_on_divergence: bool = Field(True, description="stop with status `diverging` instead of wasting rounds")
    stop_on_stall: int = Field(0, ge=0, description="stop after so many rounds without progress; 0: never")
    max_bytes: int = Field(0, ge=0, description="stop once so many bytes went up and down; 0: no limit")
    max_seconds: Finite = Field(0.0, ge=0, description="stop after this much time; 0: no limit")
    stop_at: str = Field("", description="NAME>=VALUE or NAME<=VALUE: stop when reached, e.g. accuracy>=0.95")

    @field_validator("certify_budget")
    @classmethod
    def _budget_parses(cls, text: str) -> str:
        BudgetRule.parse(text)
        return text

    @model_validator(mode="after")
    def _tolerances_can_be_met(self) -> Self:
        if (self.gap_tolerance or self.gradient_tolerance) and not self.certify_every:
            raise ConfigError("a tolerance needs certificates; set convergence.certify_every, e.g. to 10")
        return self

    @field_validator("stop_at")
    @classmethod
    def _target_parses(cls, text: str) -> str:
        if text:
            Target.parse(text)
        return text

    @property
    def target(self) -> Target | None:
        """What `stop_at` says."""
        return Target.parse(self.stop_at) if self.stop_at else None
