"""Everything the command line does, in a few lines of Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from torch import nn

from amgt_fed.config import RunConfig, merge, to_flat
from amgt_fed.config.schema import Scalar
from amgt_fed.engines import Job, get_engine
from amgt_fed.errors import AMGTFedError, CodecError, ConfigError, EngineError, StateError, TaskError
from amgt_fed.federated.budgets import LinkBudgets
from amgt_fed.layout import Layout
from amgt_fed.runs import RoundRecord, RunDirectory, RunSummary, load_checkpoint
from amgt_fed.runs.report import write_report
from amgt_fed.runs.table import Row, comparison
from amgt_fed.runs.watch import watching
from amgt_fed.setup import Setup, build, resolve
from amgt_fed.tasks import Task

RESUMABLE = ("baseline.run", "data_dir", "engine", "rounds", "workers")
"""What may differ in a resumed run: nothing that changes the bits of the rounds done."""

OnRound: TypeAlias = Callable[[str, RoundRecord], None]
"""Called with "amgt" or "fedavg" and each round's record, from another thread, as the rounds end."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run."""

    directory: Path
    summary: RunSummary

    @property
    def rounds(self) -> list[RoundRecord]:
        """One record per round."""
        return RunDirectory(self.directory).rounds()

    @property
    def baseline_rounds(self) -> list[RoundRecord]:
        """FedAvg's, where it ran."""
        return RunDirectory(RunDirectory(self.directory).baseline_path).rounds()

    @property
    def table(self) -> list[Row]:
        """The comparison with dense FedAvg, as the command line shows it."""
        return comparison(RunDirectory(self.directory))

    def model(self) -> nn.Module:
        """The trained global model, on the CPU.

        Raises:
            StateError: the run directory has lost its checkpoint.
        """
        directory = RunDirectory(self.directory)
        checkpoint = load_checkpoint(directory.checkpoint_path)
        if checkpoint is None:
            raise StateError(f"{self.directory} has no checkpoint")
        flat = build(directory.config(), device="cpu").fresh_model()
        flat.load_(checkpoint.state.model)
        return flat.module


def run(
    config: RunConfig | Mapping[str, object] | None = None,
    *,
    task: str | type[Task] | None = None,
    resume: str | Path | None = None,
    on_round: OnRound | None = None,
    **keys: object,
) -> RunResult:
    """Train a federation, and dense FedAvg beside it unless `baseline={"run": False}`.

    Args:
        config: a complete `RunConfig`, or keys by their dotted names; what they leave out is the task's own default,
            where it has one, or the schema's.
        task: a task's name, `module:Class`, or the class itself.
        resume: a run directory to go on with, instead of a new run; only `RESUMABLE` keys may change.
        on_round: see `OnRound`.
        keys: further keys, sections as mappings: `rounds=20, client={"lr": 0.01}`.

    Returns:
        The finished run.

    Raises:
        ConfigError: an unknown key or bad value; nothing has been started.
        TaskError: the task, its data or its partition cannot be used; nothing has been started.
        AMGTFedError: the run cannot go on; `resume` continues it.
    """
    overrides = dict(_flatten(keys))
    if task is not None:
        overrides["task"] = task if isinstance(task, str) else _reference(task)
    if resume is not None:
        if config is not None:
            raise ConfigError("a resumed run keeps its configuration; give `resume` without `config`")
        resolved = resumed_config(resume, overrides)
    else:
        if not isinstance(config, RunConfig | Mapping | None):
            raise ConfigError(f"config is {config!r}; give a RunConfig, or keys and values (task=... names a task)")
        if isinstance(config, RunConfig):  # complete as it stands: the task's defaults are in it already, or unwanted
            resolved = merge(config, overrides)
        else:
            resolved = resolve({**dict(_flatten(config or {})), **overrides})
    places = {"out": str(_run_path(resolved))}
    if resolved.data_dir:  # the engines' processes may work in another directory
        places["data_dir"] = str(Path(resolved.data_dir).expanduser().resolve())
    resolved = merge(resolved, places)
    _check(resolved)

    directory = RunDirectory(Path(resolved.out))
    summary = _run_one("amgt", resolved, directory, on_round)
    if resolved.baseline.run:
        beside = RunDirectory(directory.baseline_path)
        baseline = beside.summary()
        if baseline is None or baseline.rounds < resolved.rounds:
            started = beside.config_path.exists()
            baseline = _run_one("fedavg", fedavg_config(resolved, resume=started), beside, on_round)
        summary = replace(
            summary, baseline={key: value for key, value in asdict(baseline).items() if key != "baseline"}
        )
        directory.write_summary(summary)
        write_report(directory)
    return RunResult(directory.path, summary)


def resumed_config(path: str | Path, overrides: Mapping[str, Scalar] = MappingProxyType({})) -> RunConfig:
    """The configuration that goes on with the run in `path`.

    Args:
        path: its run directory, wherever it stands now.
        overrides: dotted keys; only those that change none of the bits of the rounds done.

    Raises:
        StateError: `path` is no run directory.
        ConfigError: another key would change.
    """
    directory = RunDirectory(Path(path).resolve())
    if not directory.config_path.exists():
        raise StateError(f"{path} is not a run directory: it has no config.toml, so there is nothing to resume")
    config = directory.config()
    changed = merge(config, overrides)
    before = to_flat(config)
    for key, value in to_flat(changed).items():
        if key not in RESUMABLE and before.get(key) != value:
            raise ConfigError(f"a resumed run keeps its configuration; {key} cannot change, {_list(RESUMABLE)} can")
    return merge(changed, {"out": str(directory.path), "resume": True})


def fedavg_config(config: RunConfig, *, resume: bool = False) -> RunConfig:
    """Dense FedAvg on the same task, partition, sampling, rounds and local work as `config`."""
    return merge(
        config,
        {
            "out": str(RunDirectory(Path(config.out)).baseline_path),
            "resume": resume,
            "federation.mode": "sync",
            "federation.max_staleness": 0,
            "client.optimizer": "sgd",
            "client.lr": config.baseline.lr,
            "client.lr_decay": 0.0,
            "client.momentum": config.baseline.momentum,
            "client.prox_mu": 0.0,
            "client.scaffold": False,
            "server.optimizer": "average",
            "server.lr": 1.0,
            "server.lr_decay": 0.0,
            "server.clip_norm": 0.0,
            "codec.uplink": "dense",
            "codec.uplink_budget": "none",
            "codec.downlink": "model",
            "codec.downlink_budget": "none",
            "codec.error_feedback": False,
            "codec.link_budgets": "",
            "convergence.delta_c": 0.0,
            "convergence.stop_on_stall": 0,
            "convergence.max_bytes": 0,
            "convergence.max_seconds": 0.0,
            "convergence.stop_at": "",
            "baseline.run": False,
        },
    )


def _run_one(name: str, config: RunConfig, directory: RunDirectory, on_round: OnRound | None) -> RunSummary:
    directory.path.mkdir(parents=True, exist_ok=True)
    job = Job(
        run_config=to_flat(config),
        num_nodes=config.partition.num_clients,
        run_dir=directory.path,
        workers=config.workers,
    )
    directory.summary_path.unlink(missing_ok=True)
    with watching(directory, None if on_round is None else lambda record: on_round(name, record)):
        get_engine(config.engine)(job)
    summary = directory.summary()
    if summary is None:
        raise EngineError(f"engine {config.engine} ended without a result; see {directory.path / 'logs'}")
    return summary


def _check(config: RunConfig) -> None:
    """Load the task and the last client's data: what cannot work should fail here, and not in a child process."""
    if config.task.startswith("__main__:") and config.engine != "local":
        raise TaskError(
            f"task {config.task!r} is defined in the program itself, which engine {config.engine} cannot import in its "
            "processes; move it to a module of its own, or use engine = local"
        )
    setup = build(config)
    with _blaming_the_task(config.task):
        layout = setup.fresh_model().layout
        setup.task.client_data(config.partition.num_clients - 1)
        test_data = setup.task.test_data() if config.federation.evaluate == "server" else None
    if config.federation.evaluate == "server" and test_data is None:
        raise ConfigError(
            f"task {config.task!r} has no test data for the server; set federation.evaluate = clients (or none)"
        )
    _check_room(config, setup, layout)


def _check_room(config: RunConfig, setup: Setup, layout: Layout) -> None:
    """Refuse a byte budget that not even an update of zeros fits in."""
    uplink, downlink = setup.compression(), setup.downlink()
    links = LinkBudgets.parse(config.codec.link_budgets)
    rooms = [("uplink_budget", uplink.codec, uplink.budget), ("downlink_budget", downlink.codec, downlink.budget)]
    for key, codec, rule in [*rooms, *(("link_budgets", uplink.codec, rule) for _, _, rule in links.ranges)]:
        if codec is None or rule.kind not in ("bytes", "bits"):
            continue
        try:
            codec.encode(np.zeros(layout.size, np.float32), layout, rule.at(1))
        except CodecError as error:
            written = getattr(config.codec, key)
            raise ConfigError(f"codec.{key} = {written!r} is not allowed: {error}") from error


@contextmanager
def _blaming_the_task(name: str) -> Iterator[None]:
    try:
        yield
    except AMGTFedError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise TaskError(f"task {name!r} fails: {type(error).__name__}: {error}") from error


def _reference(task: type[Task]) -> str:
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise TaskError(f"task is {task!r}; give a name, 'module:Class' or a subclass of amgt_fed.Task")
    if "<locals>" in task.__qualname__:
        raise TaskError(f"task {task.__qualname__} is defined inside a function; move it to the top of its module")
    return f"{task.__module__}:{task.__qualname__}"


def _list(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _run_path(config: RunConfig) -> Path:
    if config.out:
        path = Path(config.out).expanduser().resolve()
        if not config.resume and RunDirectory(path).rounds_path.exists():
            raise StateError(f"{path} holds a run already; choose another --out, or go on with --resume {path}")
        return path
    name = config.task.replace(":", ".").replace("/", "-")
    base = Path("runs").resolve() / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = base, 1
    while path.exists():
        count += 1
        path = base.with_name(f"{base.name}-{count}")
    return path


def _flatten(keys: Mapping[str, object], prefix: str = "") -> list[tuple[str, Scalar]]:
    flat: list[tuple[str, Scalar]] = []
    for key, value in keys.items():
        if isinstance(value, np.generic):  # a number out of an array
            value = value.item()
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, Path):
            flat.append((f"{prefix}{key}", str(value)))
        elif isinstance(value, bool | int | float | str):
            flat.append((f"{prefix}{key}", value))
        else:
            raise ConfigError(f"{prefix}{key} = {value!r} is not a number, text, true or false")
    return flat
