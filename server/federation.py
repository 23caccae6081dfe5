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
from amgt_fed.convergence import CertifiedGradient, ConvergenceTracker, Measurement, RoundReport
from amgt_fed.convergence.ledger import certify
from amgt_fed.errors import StateError
from amgt_fed.federated.messages import Aggregate
from amgt_fed.federated.server import StepReport
from amgt_fed.federated.state import ServerState
from amgt_fed.layout import Float32Vector, Layout
from amgt_fed.runs import Checkpoint, RoundRecord, RunDirectory, RunSummary, load_checkpoint, save_checkpoint
from amgt_fed.runs.clients import ClientLedger
from amgt_fed.runs.environment import versions
from amgt_fed.runs.report import write_report
from amgt_fed.setup import Setup, build
from amgt_fed.tasks import evaluate

from .asynchronous import AsyncRunner
from .bookkeeping import last_metrics, log_round, plain_certificate, reference_of, stop_reason, tracker_for
from .certify import Certifier
from .roster import Roster, introduced
from .rounds import RoundRunner, Score, start_state
from .traffic import SocketBytes, Traffic

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
        self._grid, self._socket = grid, SocketBytes(grid)
        self._config = config
        self._directory = directory
        self._setup: Setup = build(config)
        state, self._layout = start_state(secrets.randbits(63), self._setup)
        self._checkpoint = Checkpoint(
            state=state,
            layout_digest=self._layout.digest,
            tracker=tracker_for(config, self._setup.task.constants()).state(),
        )
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
        self._ledger = ClientLedger(self._checkpoint.ledger)
        self._test_data = self._setup.task.test_data() if config.federation.evaluate == "server" else None
        self._scorer = self._setup.fresh_model()

    def run(self) -> RunSummary:
        """All rounds that are left; then the certificate where one is asked for, the summary and the report."""
        if self._goes_on or self._lacks_certificate:
            state = self._checkpoint.state
            roster = Roster(self._grid, self._config, self._layout, state.run)
            self._checkpoint = replace(self._checkpoint, state=introduced(state, roster.wait()))
            kind = AsyncRunner if self._config.federation.mode == "async" else RoundRunner
            runner = kind(self._grid, self._setup, self._layout, roster)
            certifier = Certifier(
                runner, self._setup, self._layout, roster, self._tracker.assumptions, self._checkpoint.nearest
            )
            while self._goes_on:
                self._one_round(runner, certifier, roster)
            runner.close()
            if self._lacks_certificate:
                self._certify_result(certifier)
        return self._finish()

    @property
    def _goes_on(self) -> bool:
        return self._checkpoint.state.round <= self._config.rounds and not self._checkpoint.stopped

    @property
    def _lacks_certificate(self) -> bool:
        return self._config.convergence.certify_every > 0 and self._checkpoint.certificate is None

    def _one_round(self, runner: RoundRunner, certifier: Certifier, roster: Roster) -> None:
        began = time.monotonic()
        before = self._checkpoint
        state, round = before.state, before.state.round
        traffic = Traffic(uplink_bytes=roster.received_bytes, downlink_bytes=roster.sent_bytes)
        roster.received_bytes = roster.sent_bytes = 0
        state = introduced(state, roster.refresh())
        measured = None
        every = self._config.convergence.certify_every
        if every and (round == 1 or round % every == 0):
            state, measured = certifier.certify(state, traffic)
        state, aggregate, step = runner.run(state, traffic)
        score = None
        if round % self._config.federation.evaluate_every == 0 or round == self._config.rounds:
            state, score = self._score(runner, state, aggregate, traffic)
        seconds = time.monotonic() - began
        elapsed = before.elapsed_s + seconds
        report = self._observe(round, aggregate, score, traffic, elapsed, measured)
        self._note_clients(round, aggregate, traffic)
        stopped = stop_reason(self._config, report, score)
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
            nearest=certifier.nearest,
            ledger=self._ledger.rows(),
        )
        # The line first: a resumed run cuts lines the checkpoint does not know of, and could not restore a lost one.
        self._directory.append_round(record)
        log_round(record, self._config.rounds)
        if stopped or round == self._config.rounds or round % self._config.checkpoint_every == 0:
            save_checkpoint(self._directory.checkpoint_path, self._checkpoint)

    def _note_clients(self, round: int, aggregate: Aggregate, traffic: Traffic) -> None:
        size = aggregate.update_norm or math.inf
        self._ledger.add(
            round,
            sent=traffic.sent,
            received=traffic.received,
            relative_norms={client: norm / size for client, norm in aggregate.norms.items()},
            failures=traffic.failures,
            now=time.time(),
            outliers=aggregate.outliers,
        )

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

    def _certify_result(self, certifier: Certifier) -> None:
        """Certify the final model; its own exchange, after the last round's line is written."""
        before = self._checkpoint
        traffic = Traffic()
        state, measured = certifier.certify(before.state, traffic)
        certificate = None
        if measured is not None:
            found = certify(state.round, measured, self._tracker.assumptions.mu)
            certificate = plain_certificate(found)
            log.info("the final model: gradient norm in [%.4g, %.4g]", found.gradient_lower, found.gradient_upper)
            if found.gap is not None:
                log.info("the final model: f - f* in [%.4g, %.4g]", found.gap_lower or 0.0, found.gap)
        self._checkpoint = replace(
            before,
            state=state,
            certificate=certificate,
            nearest=certifier.nearest,
            uplink_bytes=before.uplink_bytes + traffic.uplink_bytes,
            downlink_bytes=before.downlink_bytes + traffic.downlink_bytes,
            failures=before.failures + len(traffic.failures),
        )
        save_checkpoint(self._directory.checkpoint_path, self._checkpoint)

    def _observe(
        self,
        round: int,
        aggregate: Aggregate,
        score: Score | None,
        traffic: Traffic,
        elapsed: float,
        measured: CertifiedGradient | None,
    ) -> RoundReport:
        optimizer = self._setup.server_optimizer()
        # Under `auto` the run sets its own C, from its first round; the user's delta_c goes before it.
        first = self._checkpoint.state.first_errors[0] or round * aggregate.delta
        schedule = self._setup.compression().budget.schedule_c(first)
        # One loss throughout: between evaluations there is none, for a training loss would look like a leap.
        unscored = aggregate.loss if self._config.federation.evaluate == "none" else None
        return self._tracker.observe(
            Measurement(
                round=round,
                update_norm=aggregate.update_norm,
                delta=aggregate.delta,
                step_size=optimizer.lr_at(round),
                loss=score.loss if score is not None else unscored,
                uplink_bytes=traffic.uplink_bytes,
                downlink_bytes=traffic.downlink_bytes,
                drift=aggregate.drift,
                participants=len(aggregate.participants),
                failures=len(traffic.failures),
                elapsed_s=elapsed,
                certificate=measured,
                budget=None if schedule is None or self._config.convergence.delta_c else schedule / round,
                gradient_scale=aggregate.gradient_scale or 1.0,
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
            late=traffic.late,
            surplus=traffic.surplus,
            outliers=sorted(aggregate.outliers),
            link=self._socket.take(),
            num_examples=aggregate.num_examples,
            status=str(report.status),
            seconds=seconds,
            elapsed_s=elapsed,
            certificate=None if report.certificate is None else plain_certificate(report.certificate),
        )

    def _saved(self, layout: Layout) -> Checkpoint | None:
        saved = load_checkpoint(self._directory.checkpoint_path)
        if saved is not None and saved.layout_digest != layout.digest:
            raise StateError(f"the checkpoint in {self._directory.path} is of another model; resume with its own task")
        return saved

    def _finish(self) -> RunSummary:
        config, checkpoint = self._config, self._checkpoint
        rounds = self._directory.rounds()
        summary = RunSummary(
            task=config.task,
            engine=config.engine,
            seed=config.seed,
            rounds=checkpoint.state.round - 1,
            seconds=checkpoint.elapsed_s,
            status=rounds[-1].status if rounds else "no rounds",
            stopped=checkpoint.stopped,
            metrics=last_metrics(rounds),
            uplink_bytes=checkpoint.uplink_bytes,
            downlink_bytes=checkpoint.downlink_bytes,
            failures=checkpoint.failures,
            model_sha256=hashlib.sha256(checkpoint.state.model.astype("<f4").tobytes()).hexdigest(),
            parameters=self._layout.size,
            num_clients=config.partition.num_clients,
            versions=versions(),
            certificate=checkpoint.certificate,
            reference=reference_of(config),
        )
        self._directory.write_summary(summary)
        write_report(self._directory)
        return summary
