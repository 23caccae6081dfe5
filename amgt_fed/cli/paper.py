"""`amgt-fed paper`: every claim of the paper beside what is computed here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from amgt_fed.experiments.paper import PaperReport

_STYLES = {"holds": "green", "holds with a correction": "yellow", "does not hold": "red"}


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("paper")(paper)


def paper(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Directory for paper.json, paper.html and the plots.", file_okay=False)
    ] = Path("amgt-paper"),
    json_: Annotated[bool, typer.Option("--json", help="Print paper.json instead of the tables.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter runs: a first look in seconds.")] = False,
) -> None:
    """Reproduce the AMGT paper: claim, the paper's value, ours, verdict and why."""
    # Imported here: torch and matplotlib take seconds, and `amgt-fed --help` needs neither.
    from rich.console import Console

    from amgt_fed.experiments.paper import make_directory, reproduce, write

    make_directory(out)
    # The progress goes to stderr, so that `--json | jq` works.
    with Console(stderr=True).status("Starting") as status:
        report = reproduce(quick=quick, progress=lambda title: status.update(f"{title} ..."))
        status.update("Drawing ...")
        written = write(report, out)
    if json_:
        sys.stdout.write(report.to_json())
        return
    _print(report, written, out)


def _print(report: PaperReport, written: list[Path], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # a file or a pipe has no width of its own
    wide = console.width >= 120
    for section in report.sections:
        table = Table(title=Text(section.title), title_justify="left", show_lines=True, expand=True)
        for column, ratio, least in (("Claim", 5, 14), ("Where", 3, 11), ("Paper", 3, 10), ("Ours", 5, 14)):
            table.add_column(column, ratio=ratio, min_width=least)
        table.add_column("Verdict", min_width=10, max_width=12)
        if wide:
            table.add_column("Why", ratio=10)
        for claim in section.claims:
            verdict = Text(str(claim.verdict), style=_STYLES[str(claim.verdict)])
            # Text, not str: a matrix in square brackets is no markup.
            cells = [*map(Text, (claim.claim, claim.where, claim.paper, claim.ours)), verdict, Text(claim.why)]
            table.add_row(*(cells if wide else cells[:-1]))
        console.print(table)
        if not wide:
            for claim in section.claims:
                console.print(Text(claim.claim, style="bold"), Text(claim.why))
        for numbers in section.tables:
            grid = Table(title=Text(numbers.title), title_justify="left")
            for column in numbers.columns:
                grid.add_column(column)
            for row in numbers.rows:
                grid.add_row(*(Text(str(cell)) for cell in row))
            console.print(grid)
            console.print(Text(numbers.note, style="dim"))
    summary = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
    console.print(f"{len(report.claims)} claims: {summary}. {report.seconds:.0f} s.")
    console.print(f"Wrote {len(written)} files; open {out / 'paper.html'}", soft_wrap=True)
