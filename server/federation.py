"""A whole run on the server: resume or begin, round after round, and everything written down."""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid

from amgt_fed.config import RunConfig, to_toml
from amgt_fed.convergence import Assumptions, ConvergenceTracker, Measurement, RoundReport, StatusRules, StopRules
from amgt_fed.errors import ConfigError, StateError
from amgt_fed.federated.messages import Aggregate
from amgt_fed.federated.server import StepReport
from amgt_fed.federated.state import ServerState
from amgt_fed.layout import Float32Vector, Layout
from amgt_fed.runs import Checkpoint, RoundRecord, RunDirectory, RunSummary, load_checkpoint, save_checkpoint
from amgt_fed.runs.environment import versions
from amgt_fed.runs.report import write_report
from amgt_fed.setup import Setup, build
from amgt_fed.tasks import evaluate

from .roster import Roster, introduced
from .rounds import RoundRunner, Score, Traffic, start_state

log = logging.getLogger("amgt_fed.server")


def run_federation(grid: Grid, config: RunConfig) -> RunSummary:
    """Run `config.rounds` rounds, or go on from the checkpoint in `config.out` where `config.resume` says so.

    Raises:
        AMGTFedError: the run cannot start or go on; what was done so far is on disk and can be resumed.
        OSError: the run directory cannot be written.
    """
    directory = RunDirectory(Path(config.out))
    with directory.in_use():
        return Federation(grid, config, directory).run()


class Federation:
    """The loop and its bookkeeping."""

    def __init__(self, grid: Grid, config: RunConfig, directory: RunDirectory) -> None:
        self._grid = grid
        self._config = config
        self._directory = directory
        self._setup: Setup = build(config)
        state, self._layout = start_state(secrets.randbits(63), self._setup)
        self._checkpoint = Checkpoint(state=state, layout_digest=self._layout.digest, tracker=_tracker(config).state())
        if config.resume:
            self._checkpoint = self._saved(self._layout) or self._checkpoint
            directory.cut_rounds(self._checkpoint.state.round)
        elif directory.rounds_path.exists():
            raise StateError(
                f"{directory.path} holds a run already; choose another --out, or: --resume {directory.path}"
            )
        directory.write_config(to_toml(config))
        # Before the first round as well: the clients tag their state with the run's number, which is drawn once.
        save_checkpoint(directory.checkpoint_path, self._checkpoint)
        self._tracker = ConvergenceTracker.from_state(self._checkpoint.tracker)
        self._test_data = self._setup.task.test_data() if config.federation.evaluate == "server" else None
        self._scorer = self._setup.fresh_model()

    def run(self) -> RunSummary:
        """All rounds that are left; then the summary and the report."""
        state = self._checkpoint.state
        if state.round <= self._config.rounds and not self._checkpoint.stopped:
            roster = Roster(self._grid, self._config, self._layout, state.run)
            self._checkpoint = replace(self._checkpoint, state=introduced(state, roster.wait()))
            runner = RoundRunner(self._grid, self._setup, self._layout, roster)
            while self._checkpoint.state.round <= self._config.rounds and not self._checkpoint.stopped:
                self._one_round(runner, roster)
        return self._finish()

    def _one_round(self, runner: RoundRunner, roster: Roster) -> None:
        began = time.monotonic()
        before = self._checkpoint
        state, round = before.state, before.state.round
        traffic = Traffic(uplink_bytes=roster.received_bytes, downlink_bytes=roster.sent_bytes)
        roster.received_bytes = roster.sent_bytes = 0
        state = introduced(state, roster.refresh())
        state, aggregate, step = runner.run(state, traffic)
        score = None
        if round % self._config.federation.evaluate_every == 0 or round == self._config.rounds:
            state, score = self._score(runner, state, aggregate, traffic)
        seconds = time.monotonic() - began
        elapsed = before.elapsed_s + seconds
        report = self._observe(round, aggregate, score, traffic, elapsed)
        stopped = _stop_reason(self._config, report, score)
        if stopped and score is None:  # the last round is always evaluated
            state, score = self._score(runner, state, aggregate, traffic)
        record = self._record(round, aggregate, step, score, traffic, report, seconds, elapsed, state.residual)
        self._checkpoint = Checkpoint(
            state=state,
            layout_digest=self._layout.digest,
            tracker=self._tracker.state(),
            uplink_bytes=before.uplink_bytes + traffic.uplink_bytes,
            downlink_bytes=before.downlink_bytes + traffic.downlink_bytes,
            failures=before.failures + len(traffic.failures),
            elapsed_s=elapsed,
            stopped=stopped,
        )
        # The line first: a resumed run cuts lines the checkpoint does not know of, and could not restore a lost one.
        self._directory.append_round(record)
        _log_round(record, self._config.rounds)
        if stopped or round == self._config.rounds or round % self._config.checkpoint_every == 0:
            save_checkpoint(self._directory.checkpoint_path, self._checkpoint)

    def _score(
        self, runner: RoundRunner, state: ServerState, aggregate: Aggregate, traffic: Traffic
    ) -> tuple[ServerState, Score | None]:
        if self._config.federation.evaluate == "clients":
            return runner.score_on_clients(state, aggregate.participants, traffic)
        if self._test_data is None:
            return state, None
        self._scorer.load_(state.model)
        loss, metrics, _ = evaluate(self._setup.task, self._scorer, self._test_data)
        return state, Score(loss, metrics)

    def _observe(
        self, round: int, aggregate: Aggregate, score: Score | None, traffic: Traffic, elapsed: float
    ) -> RoundReport:
        optimizer = self._setup.server_optimizer()
        # One loss throughout: between evaluations there is none, for a training loss would look like a leap.
        unscored = aggregate.loss if self._config.federation.evaluate == "none" else None
        return self._tracker.observe(
            Measurement(
                round=round,
                update_norm=aggregate.update_norm,
                delta=aggregate.delta,
                step_size=optimizer.lr / (1.0 + optimizer.lr_decay * (round - 1)),
                loss=score.loss if score is not None else unscored,
                uplink_bytes=traffic.uplink_bytes,
                downlink_bytes=traffic.downlink_bytes,
                drift=aggregate.drift,
                participants=len(aggregate.participants),
                failures=len(traffic.failures),
                elapsed_s=elapsed,
            )
        )

    def _record(
        self,
        round: int,
        aggregate: Aggregate,
        step: StepReport,
        score: Score | None,
        traffic: Traffic,
        report: RoundReport,
        seconds: float,
        elapsed: float,
        residual: Float32Vector | None,
    ) -> RoundRecord:
        return RoundRecord(
            round=round,
            loss=score.loss if score is not None and math.isfinite(score.loss) else None,
            metrics={name: value for name, value in score.metrics.items() if math.isfinite(value)} if score else {},
            train_loss=aggregate.loss,
            uplink_bytes=traffic.uplink_bytes,
            downlink_bytes=traffic.downlink_bytes,
            update_norm=aggregate.update_norm,
            step_norm=step.step_norm,
            delta=aggregate.delta,
            delta_budget=report.error.budget,
            drift=aggregate.drift,
            residual_norm=0.0 if residual is None else float(np.linalg.norm(residual.astype(np.float64))),
            num_clients=len(aggregate.participants),
            failures=len(traffic.failures),
            num_examples=aggregate.num_examples,
            status=str(report.status),
            seconds=seconds,
            elapsed_s=elapsed,
        )

    def _saved(self, layout: Layout) -> Checkpoint | None:
        saved = load_checkpoint(self._directory.checkpoint_path)
        if saved is not None and saved.layout_digest != layout.digest:
            raise StateError(f"the checkpoint in {self._directory.path} is of another model; resume with its own task")
        return saved

    def _finish(self) -> RunSummary:
        config, checkpoint = self._config, self._checkpoint
        rounds = self._directory.rounds()
        last = next((record for record in reversed(rounds) if record.metrics or record.loss is not None), None)
        metrics = {} if last is None else {**({"loss": last.loss} if last.loss is not None else {}), **last.metrics}
        summary = RunSummary(
            task=config.task,
            engine=config.engine,
            seed=config.seed,
            rounds=checkpoint.state.round - 1,
            seconds=checkpoint.elapsed_s,
            status=rounds[-1].status if rounds else "no rounds",
            stopped=checkpoint.stopped,
            metrics=metrics,
            uplink_bytes=checkpoint.uplink_bytes,
            downlink_bytes=checkpoint.downlink_bytes,
            failures=checkpoint.failures,
            model_sha256=hashlib.sha256(checkpoint.state.model.astype("<f4").tobytes()).hexdigest(),
            parameters=self._layout.size,
            num_clients=config.partition.num_clients,
            versions=versions(),
        )
        self._directory.write_summary(summary)
        write_report(self._directory)
        return summary


def _tracker(config: RunConfig) -> ConvergenceTracker:
    convergence = config.convergence
    stall = convergence.stop_on_stall
    return ConvergenceTracker(
        Assumptions(
            mu=convergence.mu or None,
            smoothness=convergence.smoothness or None,
            c=convergence.delta_c or None,
            f_low=convergence.f_low,
        ),
        rules=StatusRules(stall_rounds=stall) if stall else None,
        stops=StopRules(
            on_stall=stall > 0,
            on_divergence=convergence.stop_on_divergence,
            max_bytes=convergence.max_bytes or None,
            max_seconds=convergence.max_seconds or None,
        ),
    )


def _log_round(record: RoundRecord, rounds: int) -> None:
    scores = ", ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
    log.info(
        "round %d of %d: loss %.4g%s; %d bytes up, %d down; delta %.3g; %d clients, %d failures; %s",
        record.round,
        rounds,
        record.train_loss if record.loss is None else record.loss,
        f", {scores}" if scores else "",
        record.uplink_bytes,
        record.downlink_bytes,
        record.delta,
        record.num_clients,
        record.failures,
        record.status,
    )


def _stop_reason(config: RunConfig, report: RoundReport, score: Score | None) -> str:
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
