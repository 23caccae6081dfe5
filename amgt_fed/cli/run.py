"""`amgt-fed run`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from amgt_fed.config.schema import Scalar

TELEMETRY_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="run")(run)


def run(
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="A built-in task (amgt-fed tasks), or module:Class of your own.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", "-e", help="local (default), grpc, ray or flower: the same bits on all.")
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", "-n", help="Federated rounds.")] = None,
    clients: Annotated[int | None, typer.Option("--clients", help="Clients in the federation.")] = None,
    per_round: Annotated[int | None, typer.Option("--per-round", help="Clients sampled each round.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="All randomness follows from it.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A TOML file; `amgt-fed config` shows every key.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="One key, e.g. client.lr=0.01.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run directory; default runs/TASK-TIME.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Directory of the larger data sets; or set AMGT_DATA.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Clients trained at once; 0: one per core.")] = None,
    baseline: Annotated[
        bool | None, typer.Option("--baseline/--no-baseline", help="Run dense FedAvg beside it, and compare.")
    ] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with the run in this directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON instead of the table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a federation; with its defaults: digits over 20 non-IID clients, beside dense FedAvg."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    from amgt_fed import api
    from amgt_fed.cli.progress import RunProgress, print_result
    from amgt_fed.config import keys_of_toml, parse_override
    from amgt_fed.errors import ConfigError
    from amgt_fed.setup import resolve

    flags: dict[str, Scalar | None] = {
        "task": task,
        "engine": engine,
        "rounds": rounds,
        "partition.num_clients": clients,
        "federation.clients_per_round": per_round,
        "seed": seed,
        "out": None if out is None else str(out),
        "data_dir": None if data_dir is None else str(data_dir),
        "workers": workers,
        "baseline.run": baseline,
    }
    keys = dict(parse_override(text) for text in set_ or [])
    keys.update({key: value for key, value in flags.items() if value is not None})
    if resume is None:
        settings = resolve({**(keys_of_toml(config) if config else {}), **keys})
    elif config is None:
        settings = api.resumed_config(resume, keys)
    else:
        raise ConfigError("a resumed run keeps its own configuration; leave --config away")
    with RunProgress(settings, quiet=quiet or as_json) as progress:
        result = api.run(settings, on_round=progress.on_round)
    if as_json:
        print(json.dumps({"directory": str(result.directory), **asdict(result.summary)}, indent=2))
    else:
        print_result(result)
