"""How far each run is, read from its own directory: what is there is never run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amgt_fed.compare.methods import Method
from amgt_fed.compare.plan import Cell, Plan, is_higher_better, metric_of
from amgt_fed.compare.rates import Point, Score, best_point
from amgt_fed.errors import StateError
from amgt_fed.runs import RoundRecord, RunDirectory, RunSummary
from amgt_fed.runs.files import write_atomically
from amgt_fed.runs.table import primary_metric

DIVERGED = ("diverged", "not finite", "only finite", "holds NaN", "local loss is")
"""What the errors of a run say whose numbers overflowed, at whatever place that was noticed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run has no result. One that diverged would do so again; any other is tried again when resumed."""

    text: str
    diverged: bool


class Ledger:
    """The runs of a comparison, by their cells."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self.plan = plan
        self.root = root
        self._cells: dict[tuple[str, str, int, Point | None, bool], Cell] = {}
        self._finished: set[str] = set()
        self._failed: dict[str, Failure] = {}
        self._scores: dict[str, Score] = {}

    def directory(self, cell: Cell) -> RunDirectory:
        """The run's own directory."""
        return RunDirectory(self.root / cell.key)

    def is_finished(self, cell: Cell) -> bool:
        """Whether the run has gone its length, or ended before by a rule of its configuration."""
        if cell.key not in self._finished:
            summary = self.directory(cell).summary()
            if summary is None or not (summary.rounds >= cell.config.rounds or summary.stopped):
                return False
            self._finished.add(cell.key)
        return True

    def failure(self, cell: Cell) -> Failure | None:
        """Why it has no result; None while it may still get one."""
        if cell.key not in self._failed:
            found = _read_failure(self._failure_path(cell))
            if found is None or not found.diverged:
                return None
            self._failed[cell.key] = found
        return self._failed[cell.key]

    def is_settled(self, cell: Cell) -> bool:
        """Whether there is nothing left to run."""
        return self.is_finished(cell) or self.failure(cell) is not None

    def note_failure(self, cell: Cell, text: str) -> Failure:
        """Remember, on disk as well, that a run failed."""
        failure = Failure(text, any(word in text for word in DIVERGED))
        self._failed[cell.key] = failure
        path = self._failure_path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"text": text, "diverged": failure.diverged}).encode())
        return failure

    def summary(self, cell: Cell) -> RunSummary:
        """How the run ended.

        Raises:
            StateError: it has not.
        """
        summary = self.directory(cell).summary()
        if summary is None:
            raise StateError(f"{self.root / cell.key} is not finished; go on with --resume")
        return summary

    def score(self, cell: Cell) -> Score:
        """The score for the search: the signed metric's mean over the last tenth of the evaluations; ties by loss."""
        if cell.key not in self._scores:
            if not self.is_finished(cell):
                return None
            rounds = self.directory(cell).rounds()
            metric = compared_metric(cell.task, rounds)
            values = [value for record in rounds if (value := value_of(record, metric)) is not None]
            last = values[-max(1, len(values) // 10) :]
            losses = [record.loss for record in rounds if record.loss is not None]
            if not last or value_of(rounds[-1], metric) is None:  # the last is always evaluated: it was not finite
                self._scores[cell.key] = None
            else:
                mean = sum(last) / len(last)
                loss = losses[-1] if losses else 0.0
                self._scores[cell.key] = (mean if is_higher_better(metric) else -mean, -loss)
        return self._scores[cell.key]

    def trials(self, task: str, method_name: str) -> dict[Point, Cell]:
        """The search's runs so far and those it asks for next, by their points."""
        plan, method = self.plan, self.plan.method(method_name)
        cells: dict[Point, Cell] = {}
        while True:
            if any(not self.is_settled(cell) for cell in cells.values()):
                return cells
            scores: Mapping[Point, Score] = {point: self.score(cell) for point, cell in cells.items()}
            points = plan.grid.next_points(scores, server=method.tune_server)
            if not points:
                return cells
            cells |= {point: self._cell(task, method, plan.tune_seed, point, tuning=True) for point in points}

    def chosen(self, task: str, method_name: str) -> Point | None:
        """The search's result; None while it is not over.

        A rate with which a reported seed diverges is passed over for the next best: the search has one seed, and may
        be shorter, so that it can end beyond what every seed bears.
        """
        cells = self.trials(task, method_name)
        if any(not self.is_settled(cell) for cell in cells.values()):
            return None
        scores = {point: self.score(cell) for point, cell in cells.items()}
        method = self.plan.method(method_name)
        borne = {point: score for point, score in scores.items() if not self._has_diverged(task, method, point)}
        return best_point(borne or scores)

    def passed_over(self, task: str, method_name: str) -> list[Cell]:
        """The search's runs at rates with which a reported seed diverged."""
        method = self.plan.method(method_name)
        return [
            cell for point, cell in self.trials(task, method_name).items() if self._has_diverged(task, method, point)
        ]

    def _has_diverged(self, task: str, method: Method, point: Point) -> bool:
        cells = [self._cell(task, method, seed, point, tuning=False) for seed in self.plan.seeds]
        return any((failure := self.failure(cell)) is not None and failure.diverged for cell in cells)

    def reported(self, task: str, method_name: str) -> list[Cell]:
        """The runs the tables show; empty while the method's search is not over."""
        method = self.plan.method(method_name)
        point: Point | None = None
        if self.plan.tune and (point := self.chosen(task, method_name)) is None:
            return []
        return [self._cell(task, method, seed, point, tuning=False) for seed in self.plan.seeds]

    def cells(self) -> list[Cell]:
        """Every run that is known to be needed so far, the searches first: the reported runs wait for them."""
        pairs = [(task, method.name) for task in self.plan.tasks for method in self.plan.methods]
        searches = [cell for pair in pairs for cell in self.trials(*pair).values()] if self.plan.tune else []
        return searches + [cell for pair in pairs for cell in self.reported(*pair)]

    def _cell(self, task: str, method: Method, seed: int, point: Point | None, *, tuning: bool) -> Cell:
        key = (task, method.name, seed, point, tuning)
        if key not in self._cells:  # built anew, its configuration takes milliseconds, and is asked for often
            self._cells[key] = self.plan.cell(task, method, seed, point, tuning=tuning)
        return self._cells[key]

    def _failure_path(self, cell: Cell) -> Path:
        return self.root / cell.key / "failure.json"


def value_of(record: RoundRecord, metric: str) -> float | None:
    """The round's value of a metric, `loss` among them; None where it was not evaluated."""
    return record.loss if metric == "loss" else record.metrics.get(metric)


def compared_metric(task: str, rounds: list[RoundRecord]) -> str:
    """The task's primary metric, or what the rounds measured instead."""
    wanted = metric_of(task)
    return wanted if any(value_of(record, wanted) is not None for record in rounds) else primary_metric(rounds)


def _read_failure(path: Path) -> Failure | None:
    try:
        data: Any = json.loads(path.read_bytes())
        return Failure(str(data["text"]), bool(data["diverged"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is damaged: {error}; delete it to run this one again") from error
