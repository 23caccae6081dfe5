"""`amgt-fed doctor`: can this machine do what a run needs?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

_MARKS = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "fail": "[bold red]fail[/bold red]"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="doctor")(doctor)


def doctor(
    data_dir: Annotated[str, typer.Option("--data-dir", help="The data directory to check; default AMGT_DATA.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine: versions, processor and GPU, memory, disk, ports, engines, data."""
    from rich.console import Console
    from rich.table import Table

    from amgt_fed.cli.checks import examine

    findings = examine(data_dir)
    if as_json:
        rows = [{"check": f.check, "verdict": f.verdict, "found": f.found, "advice": f.advice} for f in findings]
        print(json.dumps(rows, indent=2))
    else:
        table = Table(show_edge=False, pad_edge=False, show_header=False)
        for _ in range(3):
            table.add_column(overflow="fold")
        for finding in findings:
            advice = f"; {finding.advice}" if finding.advice else ""
            table.add_row(_MARKS[finding.verdict], finding.check, f"{finding.found}{advice}")
        Console(highlight=False).print(table)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(2)
