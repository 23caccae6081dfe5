"""A run on the terminal: live while it goes, a table when it is over."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from amgt_fed.runs.records import RoundRecord
from amgt_fed.runs.table import certificate_text, human_bytes

if TYPE_CHECKING:
    from amgt_fed.api import RunResult
    from amgt_fed.config import RunConfig

_TITLES = {"amgt": "AMGT-Fed", "fedavg": "FedAvg"}
_PLAIN_LINES = 20


class RunProgress:
    """Shows rounds as they end: one live line for each method, or plain lines where output is not a terminal.

    Progress goes to standard error, so that standard output carries results alone.
    """

    def __init__(self, config: RunConfig, *, quiet: bool) -> None:
        self._rounds = config.rounds
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal and not quiet
        self._lock = threading.Lock()
        self._totals: dict[str, list[int]] = {}
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._live,
        )

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_round(self, name: str, record: RoundRecord) -> None:
        """Show one more round of "amgt" or "fedavg"."""
        if self._quiet:
            return
        with self._lock:
            if not self._totals:
                self._console.print("[dim]round: loss, metric, bytes up ↑ and down ↓, δ error of the round[/dim]")
            total = self._totals.setdefault(name, [0, 0])
            total[0] += record.uplink_bytes
            total[1] += record.downlink_bytes
            facts = _facts(record, *total)
            if self._live:
                if name not in self._bars:
                    self._bars[name] = self._progress.add_task(f"{_TITLES[name]:8}", total=self._rounds, facts="")
                self._progress.update(self._bars[name], completed=record.round, facts=facts)
                return
            every = max(1, self._rounds // _PLAIN_LINES)
            if record.round == 1 or record.round % every == 0 or record.round == self._rounds:
                self._console.print(f"{_TITLES[name]:8} {record.round:>4}/{self._rounds}: {facts}", soft_wrap=True)


def _facts(record: RoundRecord, up: int, down: int) -> str:
    loss = record.loss if record.loss is not None else record.train_loss
    metric = "acc" if "accuracy" in record.metrics else min(record.metrics, default="")
    value = record.metrics.get("accuracy" if metric == "acc" else metric)
    shown = "" if value is None else f" {metric} {100 * value:4.1f}%" if metric == "acc" else f" {metric} {value:.4g}"
    return f"{loss:.3f}{shown} ↑{human_bytes(up)} ↓{human_bytes(down)} δ{record.delta:.2g}"


def print_result(result: RunResult) -> None:
    """The comparison, and where everything is."""
    console = Console(highlight=False)
    rows = result.table
    compared = any(row.baseline for row in rows)
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("AMGT-Fed", justify="right")
    if compared:
        table.add_column("dense FedAvg", justify="right")
        table.add_column("compared", justify="right")
    for row in rows:
        table.add_row(row.what, row.ours, *((row.baseline, row.ratio) if compared else ()))
    console.print()
    console.print(table)
    console.print()
    summary = result.summary
    stopped = f"; stopped: {summary.stopped}" if summary.stopped else ""
    failures = f"; {summary.failures} failed client calls" if summary.failures else ""
    console.print(f"status         {summary.status}{stopped}{failures}")
    if certificate := certificate_text(summary):
        console.print(f"certificate    {certificate}", soft_wrap=True)
    console.print(f"run directory  {result.directory}", soft_wrap=True)
    console.print(f"report         {result.directory / 'report.html'}", soft_wrap=True)
    sys.stdout.flush()
