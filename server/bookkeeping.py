"""What a run's bookkeeping is made of: the tracker, the reasons to stop, the line in the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from amgt_fed.config import RunConfig, to_flat
from amgt_fed.convergence import Assumptions, Certificate, ConvergenceTracker, RoundReport, StatusRules, StopRules
from amgt_fed.errors import ConfigError
from amgt_fed.runs import RoundRecord
from amgt_fed.tasks import Constants, find_task

from .rounds import Score

log = logging.getLogger("amgt_fed.server")


def last_metrics(rounds: Sequence[RoundRecord]) -> dict[str, float]:
    """What the last evaluated round measured, `loss` among it; empty where none was."""
    last = next((record for record in reversed(rounds) if record.metrics or record.loss is not None), None)
    if last is None:
        return {}
    return {**({"loss": last.loss} if last.loss is not None else {}), **last.metrics}


def reference_of(config: RunConfig) -> dict[str, Any] | None:
    """The task's centralised score; None where it has none, or options of the run make another task of it."""
    task = find_task(config.task)
    own = {key: value for key, value in to_flat(config).items() if key.startswith("options.")}
    plain = {key: value for key, value in task.defaults.items() if key.startswith("options.")}
    if task.reference is None or own != plain:
        return None
    return {"metric": task.reference.metric, "value": task.reference.value}


def tracker_for(config: RunConfig, constants: Constants | None = None) -> ConvergenceTracker:
    """The tracker of a run, with what the configuration knows and asks; of mu and L, 0 stands for unknown.

    Args:
        config: of the run.
        constants: the task's own, which hold where the configuration names none.
    """
    convergence = config.convergence
    known = constants or Constants()
    stall = convergence.stop_on_stall
    return ConvergenceTracker(
        Assumptions(
            mu=convergence.mu or known.mu,
            smoothness=convergence.smoothness or known.smoothness,
            c=convergence.delta_c or None,
            f_low=(known.f_low or 0.0) if convergence.f_low == "auto" else convergence.f_low,
        ),
        rules=StatusRules(
            gap_tolerance=convergence.gap_tolerance or None,
            gradient_tolerance=convergence.gradient_tolerance or None,
            stall_rounds=stall or StatusRules().stall_rounds,
        ),
        stops=StopRules(
            on_certificate=convergence.gap_tolerance > 0 or convergence.gradient_tolerance > 0,
            on_stall=stall > 0,
            on_divergence=convergence.stop_on_divergence,
            max_bytes=convergence.max_bytes or None,
            max_seconds=convergence.max_seconds or None,
        ),
    )


def plain_certificate(certificate: Certificate) -> dict[str, Any]:
    """A certificate as plain values for JSON."""
    return asdict(certificate)


def log_round(record: RoundRecord, rounds: int) -> None:
    """One line in the log for a round that is over."""
    scores = ", ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
    log.info(
        "round %d of %d: loss %.4g%s; %d bytes up, %d down; delta %.3g; %d clients%s, %d failures; %s",
        record.round,
        rounds,
        record.train_loss if record.loss is None else record.loss,
        f", {scores}" if scores else "",
        record.uplink_bytes,
        record.downlink_bytes,
        record.delta,
        record.num_clients,
        f" ({record.late} late)" if record.late else "",
        record.failures,
        record.status,
    )


def stop_reason(config: RunConfig, report: RoundReport, score: Score | None) -> str:
    """Why the run ends with this round; empty while it goes on.

    Raises:
        ConfigError: `stop_at` names a metric that the task does not measure.
    """
    if report.stop is not None:
        return f"{report.stop}: {report.explanation}"
    target = config.convergence.target
    if target is None or score is None:
        return ""
    measured = {**score.metrics, "loss": score.loss}
    if target.metric not in measured:
        raise ConfigError(
            f"convergence.stop_at names {target.metric!r}, which task {config.task!r} does not measure; it measures "
            f"{', '.join(sorted(measured))}"
        )
    return f"target reached: {target}" if target.is_reached(measured) else ""
