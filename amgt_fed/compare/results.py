"""What a comparison found: per task and method the final score, and rounds, bytes and time to each target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from amgt_fed.compare.ledger import Ledger, compared_metric, value_of
from amgt_fed.compare.links import LINKS, seconds_on
from amgt_fed.compare.plan import Cell, fedavg_target, is_higher_better, plan_summary
from amgt_fed.config.convergence import Target
from amgt_fed.runs import RoundRecord
from amgt_fed.runs.environment import versions
from amgt_fed.tasks import find_task

FINAL_WINDOW = 5
"""A run's final score is the mean of its last tenth of evaluations, this many at most: noise must not set a target."""
BASELINE = "fedavg"
FEDAVG = "fedavg"


@dataclass(frozen=True, slots=True)
class Reached:
    """Where one run first met one target."""

    round: int
    bytes: int
    seconds: float
    link_seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """One reported run. `targets` holds None where the target was not met."""

    seed: int
    directory: str
    final: float | None = None
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    rounds: int = 0
    seconds: float = 0.0
    link: dict[str, int] = field(default_factory=dict)
    targets: dict[str, Reached | None] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the search for rates; `score` None where it diverged or failed."""

    lr: float
    server_lr: float
    score: float | None
    failure: str


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One method on one task.

    Attributes:
        lr, server_lr: chosen, or the starting ones where nothing was searched for.
        edge: whether the search's best was still at the end of its reach.
        passed_over: local rates of the search with which a reported seed diverged; the next best was taken.
        mean, std: of the final score over the seeds; std over n - 1, None for one seed.
        ratios: per target, the geometric mean over the seeds of FedAvg's bytes over this method's; None where either
            missed it with some seed. `round_ratios`: this method's rounds over FedAvg's, the same way.
    """

    method: str
    lr: float
    server_lr: float
    edge: bool
    passed_over: list[float]
    trials: list[Trial]
    runs: list[Run]
    mean: float | None
    std: float | None
    ratios: dict[str, float | None] = field(default_factory=dict)
    round_ratios: dict[str, float | None] = field(default_factory=dict)

    def reached(self, target: str) -> list[Reached]:
        """Where the runs that met the target did."""
        return [found for run in self.runs if (found := run.targets.get(target)) is not None]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task. `targets` are the names of the targets; `reference` the centralised score, where it was measured."""

    task: str
    metric: str
    higher_is_better: bool
    reference: float | None
    targets: list[str]
    methods: list[MethodResult]


@dataclass(frozen=True, slots=True)
class Results:
    """Everything `compare.json` says."""

    plan: dict[str, Any]
    versions: dict[str, str]
    tasks: list[TaskResult]


def results_of(ledger: Ledger) -> Results:
    """Read the results from the runs' directories; a run that is not there counts as failed."""
    return Results(plan_summary(ledger.plan), versions(), [_task(ledger, task) for task in ledger.plan.tasks])


def rounds_of(ledger: Ledger, task: str, method: str) -> list[list[RoundRecord]]:
    """The rounds of the method's finished reported runs."""
    cells = [cell for cell in ledger.reported(task, method) if ledger.is_finished(cell)]
    return [ledger.directory(cell).rounds() for cell in cells]


def _task(ledger: Ledger, task: str) -> TaskResult:
    plan = ledger.plan
    found = find_task(task)
    finals: dict[int, float] = {}
    metric = found.primary_metric
    for method in plan.methods:
        for rounds in rounds_of(ledger, task, method.name)[:1]:
            metric = compared_metric(task, rounds)
    if any(method.name == FEDAVG for method in plan.methods):
        for cell in ledger.reported(task, FEDAVG):
            final = final_score(ledger.directory(cell).rounds(), metric) if ledger.is_finished(cell) else None
            if final is not None:
                finals[cell.seed] = final
    methods = [_method(ledger, task, method.name, metric, finals) for method in plan.methods]
    names = [*([BASELINE] if finals else []), *plan.targets]
    _compare_with(methods, names)
    # The task's options choose another model or data; its score without a federation is of the plain task.
    plain = not any(key.startswith("options.") for key in plan.common)
    reference = found.reference if plain and found.reference and found.reference.metric == metric else None
    return TaskResult(
        task=task,
        metric=metric,
        higher_is_better=is_higher_better(metric),
        reference=None if reference is None else reference.value,
        targets=names,
        methods=methods,
    )


def _method(ledger: Ledger, task: str, name: str, metric: str, finals: dict[int, float]) -> MethodResult:
    plan = ledger.plan
    method = plan.method(name)
    trials = ledger.trials(task, name) if plan.tune else {}
    scores = {point: ledger.score(cell) for point, cell in trials.items()}
    cells = ledger.reported(task, name)
    config = cells[0].config if cells else plan.config(task, method)
    runs = [_run(ledger, cell, metric, finals) for cell in cells]
    values = [run.final for run in runs if run.final is not None]
    sign = 1.0 if is_higher_better(metric) else -1.0
    listed = []
    for point, cell in sorted(trials.items()):
        score, failure = scores[point], ledger.failure(cell)
        listed.append(
            Trial(
                cell.config.client.lr,
                cell.config.server.lr,
                None if score is None else sign * score[0],
                failure.text if failure else "",
            )
        )
    return MethodResult(
        method=name,
        lr=config.client.lr,
        server_lr=config.server.lr,
        edge=bool(scores) and plan.grid.is_at_edge(scores, server=method.tune_server),
        passed_over=[cell.config.client.lr for cell in ledger.passed_over(task, name)] if plan.tune else [],
        trials=listed,
        runs=runs,
        mean=statistics.fmean(values) if values else None,
        std=statistics.stdev(values) if len(values) > 1 else None,
    )


def _run(ledger: Ledger, cell: Cell, metric: str, finals: dict[int, float]) -> Run:
    if not ledger.is_finished(cell):
        failure = ledger.failure(cell)
        return Run(cell.seed, cell.key, failure=failure.text if failure else "not run")
    summary = ledger.summary(cell)
    rounds = ledger.directory(cell).rounds()
    targets: dict[str, Target] = {text: Target.parse(text) for text in ledger.plan.targets}
    if cell.seed in finals:
        targets[BASELINE] = fedavg_target(metric, finals[cell.seed])
    return Run(
        seed=cell.seed,
        directory=cell.key,
        final=final_score(rounds, metric),
        uplink_bytes=summary.uplink_bytes,
        downlink_bytes=summary.downlink_bytes,
        rounds=summary.rounds,
        seconds=summary.seconds,
        link=link_bytes(rounds),
        targets={name: first_reaching(rounds, target) for name, target in targets.items()},
    )


def final_score(rounds: Sequence[RoundRecord], metric: str) -> float | None:
    """The mean of the last evaluations, see `FINAL_WINDOW`; None where there is none."""
    values = [value for record in rounds if (value := value_of(record, metric)) is not None]
    last = values[-min(FINAL_WINDOW, max(1, len(values) // 10)) :]
    return statistics.fmean(last) if last else None


def first_reaching(rounds: Sequence[RoundRecord], target: Target) -> Reached | None:
    """Where the target was first met: its round, and everything sent and spent until its end."""
    total = 0
    for index, record in enumerate(rounds):
        total += record.uplink_bytes + record.downlink_bytes
        measured = dict(record.metrics)
        if record.loss is not None:
            measured["loss"] = record.loss
        if target.is_reached(measured):
            times = {name: seconds_on(rounds, rate)[index] for name, rate in LINKS.items()}
            return Reached(record.round, total, record.elapsed_s, times)
    return None


def link_bytes(rounds: Sequence[RoundRecord]) -> dict[str, int]:
    """The sums of what the rounds say of their link (engine grpc); empty on other engines."""
    names = sorted({name for record in rounds for name in record.link})
    return {name: sum(record.link.get(name, 0) for record in rounds) for name in names}


def _compare_with(methods: list[MethodResult], targets: Sequence[str]) -> None:
    base = next((method for method in methods if method.method == FEDAVG), None)
    for method in methods:
        for target in targets:
            pairs = [] if base is None else _pairs(base, method, target)
            method.ratios[target] = _geometric([his.bytes / ours.bytes for his, ours in pairs])
            method.round_ratios[target] = _geometric([ours.round / his.round for his, ours in pairs])


def _pairs(base: MethodResult, method: MethodResult, target: str) -> list[tuple[Reached, Reached]]:
    theirs = {run.seed: run.targets.get(target) for run in base.runs}
    pairs = [(theirs.get(run.seed), run.targets.get(target)) for run in method.runs]
    whole = [(his, ours) for his, ours in pairs if his is not None and ours is not None]
    return whole if len(whole) == len(pairs) else []


def _geometric(values: Sequence[float]) -> float | None:
    if not values:
        return None
    return math.exp(statistics.fmean(math.log(value) for value in values))
