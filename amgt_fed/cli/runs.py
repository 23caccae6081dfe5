"""`amgt-fed list`, `show` and `report`: runs that are there already."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="list")(list_runs)
    app.command(name="show")(show)
    app.command(name="report")(report)


def list_runs(
    folder: Annotated[Path, typer.Argument(help="The folder that holds run directories.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the runs in a folder, oldest first."""
    from rich.console import Console
    from rich.table import Table

    from amgt_fed.errors import StateError
    from amgt_fed.runs import RunDirectory
    from amgt_fed.runs.table import human_bytes, primary_metric

    if not folder.is_dir():
        raise StateError(f"there is no folder {folder}; `amgt-fed run` makes runs/")
    found = sorted(path.parent for path in folder.glob("*/config.toml"))
    rows = []
    for path in found:
        directory = RunDirectory(path)
        summary, config = directory.summary(), directory.config()
        rounds = directory.rounds()
        metric = primary_metric(rounds)
        last = next((record.metrics[metric] for record in reversed(rounds) if metric in record.metrics), None)
        rows.append(
            {
                "run": str(path),
                "task": config.task,
                "engine": config.engine,
                "rounds": len(rounds),
                "status": summary.status if summary else "unfinished",
                "metric": metric,
                "value": last,
                "bytes": sum(record.uplink_bytes + record.downlink_bytes for record in rounds),
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("run", "task", "engine", "rounds", "status", "metric", "value", "bytes"):
        table.add_column(name, overflow="fold")
    for row in rows:
        value = row["value"]
        shown = "" if value is None else f"{value:.4g}"
        table.add_row(
            Path(str(row["run"])).name,
            *(str(row[name]) for name in ("task", "engine", "rounds", "status", "metric")),
            shown,
            human_bytes(float(str(row["bytes"]))),
        )
    Console(highlight=False).print(table)


def show(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Show how a run ended, or how far it is."""
    from amgt_fed.api import RunResult
    from amgt_fed.cli.progress import print_result
    from amgt_fed.runs import RunDirectory

    directory = RunDirectory(run)
    directory.config()
    summary = directory.summary()
    if summary is None:
        rounds = directory.rounds()
        print(json.dumps({"rounds": len(rounds), "finished": False}) if as_json else f"{len(rounds)} rounds so far")
    elif as_json:
        print(json.dumps(asdict(summary), indent=2))
    else:
        print_result(RunResult(run.resolve(), summary))


def report(run: Annotated[Path, typer.Argument(help="A run directory, finished or not.")]) -> None:
    """Write a run's report.html afresh, and say where it is."""
    from amgt_fed.runs import RunDirectory
    from amgt_fed.runs.report import write_report

    directory = RunDirectory(run)
    directory.config()
    print(write_report(directory).resolve())
