"""What is to be compared, and the single runs it is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from amgt_fed.compare.methods import Method, configuration, is_method_key
from amgt_fed.compare.rates import FACTORS, Grid, Point
from amgt_fed.config import RunConfig, merge, to_flat
from amgt_fed.config.convergence import Target
from amgt_fed.config.schema import Scalar
from amgt_fed.errors import ConfigError, StateError
from amgt_fed.runs.files import write_atomically
from amgt_fed.tasks import find_task

FORMAT = "amgt-compare-plan-1"
TUNE_SEED = 1000
ACCURACY_MARGIN = 0.005
RELATIVE_MARGIN = 0.01
_PLACES = ("out", "resume", "data_dir", "workers", "baseline.run")
_OWNED = {
    "seed": "use --seeds",
    "rounds": "use --rounds",
    "task": "use --tasks",
    "out": "use --out",
    "data_dir": "use --data-dir",
    "resume": "use --resume",
    "workers": "use --jobs",
    "baseline.run": "fedavg is a method here",
    "baseline.momentum": "define a method in a --methods-file",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A comparison: every method on every task with every seed.

    Attributes:
        methods, tasks, seeds: of the reported runs.
        rounds: of each; 0: the task's own number.
        tune: whether rates are searched for; else each method keeps its starting rates.
        tune_rounds: of a run of the search; 0: as many as are reported.
        tune_seed: of the search; none of `seeds`, so that no reported partition was tuned on.
        factors: the first row of the search, as multiples of the starting rate.
        common: dotted keys set for all methods.
        data_dir: see `RunConfig.data_dir`.
        targets: further targets beside tuned FedAvg's final score, `NAME>=VALUE` or `NAME<=VALUE`.

    Raises:
        ConfigError, TaskError: it cannot be run; the text names the value and the fix.
    """

    methods: tuple[Method, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    rounds: int = 0
    tune: bool = True
    tune_rounds: int = 0
    tune_seed: int = TUNE_SEED
    factors: tuple[float, ...] = FACTORS
    common: Mapping[str, Scalar] = field(default_factory=lambda: MappingProxyType({}))
    data_dir: str = ""
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        for what, values in (("methods", names), ("tasks", self.tasks), ("seeds", self.seeds)):
            if not values:
                raise ConfigError(f"there are no {what} to compare; give --{what} at least one")
            if len(set(values)) != len(values):
                raise ConfigError(f"{what} {', '.join(map(str, values))}: one is named twice; once is enough")
        if self.tune and self.tune_seed in self.seeds:
            raise ConfigError(
                f"seed {self.tune_seed} is reported and tuned on; give another --tune-seed, or other --seeds"
            )
        if self.rounds < 0 or self.tune_rounds < 0:
            raise ConfigError(f"rounds are {self.rounds} and {self.tune_rounds}; give 1 or more, or 0 for the default")
        Grid(self.factors)
        for key in self.common:
            if key in _OWNED:
                raise ConfigError(f"--set {key} is not for a comparison; {_OWNED[key]}")
            if is_method_key(key):
                raise ConfigError(
                    f"--set {key} belongs to the methods, not to their common work; define a method in a --methods-file"
                )
        for text in self.targets:
            Target.parse(text)
        for task in self.tasks:
            for method in self.methods:
                config = self.config(task, method)
                if config.federation.evaluate == "none":
                    raise ConfigError("federation.evaluate = none measures nothing to compare; use server or clients")

    def method(self, name: str) -> Method:
        """The method of that name."""
        return next(method for method in self.methods if method.name == name)

    @property
    def grid(self) -> Grid:
        """The search's grid."""
        return Grid(self.factors)

    def config(self, task: str, method: Method) -> RunConfig:
        """The method's configuration with its starting rates, seed and rounds still the task's own."""
        common: dict[str, Scalar] = {**self.common, "baseline.run": False, "workers": 1}
        # Every run goes its full length: a rule that stops some would favour them.
        common.setdefault("convergence.stop_on_divergence", False)
        if self.rounds:
            common["rounds"] = self.rounds
        if self.data_dir:
            common["data_dir"] = str(Path(self.data_dir).expanduser().resolve())
        return configuration(method, task, common)

    def cell(self, task: str, method: Method, seed: int, point: Point | None, *, tuning: bool) -> Cell:
        """One run.

        Args:
            task, method, seed: of it.
            point: of the grid; None keeps the starting rates.
            tuning: whether it belongs to the search.
        """
        config = self.config(task, method)
        changes: dict[str, Scalar] = {"seed": seed}
        if tuning and self.tune_rounds:
            changes["rounds"] = self.tune_rounds
        if point is not None:
            changes["client.lr"] = _short(config.client.lr * self.grid.factor(point[0]))
            if method.tune_server:
                changes["server.lr"] = _short(config.server.lr * self.grid.factor(point[1]))
        return Cell(task, method.name, seed, point, tuning, merge(config, changes))

    def save(self, folder: Path) -> None:
        """Write `plan.json`, with which the comparison can be resumed."""
        data: dict[str, Any] = {"format": FORMAT, **{one.name: getattr(self, one.name) for one in fields(self)}}
        data["common"] = dict(self.common)
        data["methods"] = [
            {**{one.name: getattr(method, one.name) for one in fields(method)}, "overrides": dict(method.overrides)}
            for method in self.methods
        ]
        write_atomically(folder / "plan.json", (json.dumps(data, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read `plan.json`.

        Raises:
            StateError: it is not there or damaged.
            ConfigError, TaskError: it cannot be run by this version.
        """
        path = folder / "plan.json"
        try:
            data = json.loads(path.read_bytes())
            if data.pop("format") != FORMAT:
                raise StateError(f"{path} is of another version; start a new comparison")
            lists: dict[str, Any] = {name: tuple(data.pop(name)) for name in ("tasks", "seeds", "factors", "targets")}
            methods = tuple(Method(**method) for method in data.pop("methods"))
        except FileNotFoundError:
            raise StateError(
                f"{folder} holds no comparison: it has no plan.json, so there is nothing to resume"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(f"{path} is damaged: {error}") from error
        return cls(methods=methods, **lists, **data)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a comparison."""

    task: str
    method: str
    seed: int
    point: Point | None
    tuning: bool
    config: RunConfig

    @property
    def key(self) -> str:
        """Its directory below the comparison's; another configuration or version of the package has another."""
        kept = {key: value for key, value in to_flat(self.config).items() if key not in _PLACES}
        text = json.dumps([version("amgt-fed"), kept], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        task = self.task.replace(":", ".").replace("/", "-")
        return f"runs/{task}/{self.method}/{'tune' if self.tuning else 'seed'}-{self.seed}-{digest}"


def metric_of(task: str) -> str:
    """The metric that is compared."""
    return find_task(task).primary_metric


def is_higher_better(metric: str) -> bool:
    """Whether more of a metric is better: all but losses, errors, gaps, distances and perplexities."""
    lower = ("loss", "error", "rmse", "mse", "mae", "nll", "gap", "distance", "perplexity")
    return not any(word == part for word in lower for part in metric.lower().replace("-", "_").split("_"))


def fedavg_target(metric: str, final: float) -> Target:
    """What counts as FedAvg's score: .5 points below its final accuracy, 1 % worse in any other metric."""
    if metric == "accuracy":
        return Target(metric, final - ACCURACY_MARGIN, at_least=True)
    if is_higher_better(metric):
        return Target(metric, final - RELATIVE_MARGIN * abs(final), at_least=True)
    return Target(metric, final + RELATIVE_MARGIN * abs(final), at_least=False)


def plan_summary(plan: Plan) -> dict[str, Any]:
    """The plan as `compare.json` shows it."""
    return {
        "tasks": list(plan.tasks),
        "seeds": list(plan.seeds),
        "rounds": plan.rounds or "the task's own",
        "tuned": plan.tune,
        "tune_seed": plan.tune_seed if plan.tune else None,
        "tune_rounds": (plan.tune_rounds or plan.rounds or "the task's own") if plan.tune else None,
        "factors": list(plan.factors),
        "common": dict(plan.common),
        "targets": list(plan.targets),
        "methods": {
            method.name: {"about": method.about, "paper": method.paper, "base": method.base, **_keys(method)}
            for method in plan.methods
        },
    }


def _keys(method: Method) -> dict[str, Any]:
    return {"overrides": dict(method.overrides), "tune_server": method.tune_server, "budget_scale": method.budget_scale}


def _short(rate: float) -> float:
    return float(f"{rate:.6g}")
