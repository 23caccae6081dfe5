"""A comparison on the terminal: live while it goes, tables when it is over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from amgt_fed.compare import METHODS, Ended, Method, Results
from amgt_fed.compare import Progress as State
from amgt_fed.compare.tables import COLUMNS, failures_of, notes_of, rows_of, shown, target_text


class CompareProgress:
    """Shows what runs and the time left; plain lines, one for each run that ends, where output is no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal and not quiet
        self._began = time.monotonic()
        self._first: int | None = None
        self._progress = Progress(
            TextColumn("{task.fields[runs]} runs"),
            BarColumn(bar_width=14),
            TextColumn("{task.fields[facts]}"),
            console=self._console,
            disable=not self._live,
        )
        self._bar = self._progress.add_task("", total=1, runs="", facts="")

    def __enter__(self) -> CompareProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_change(self, state: State, ended: Ended | None) -> None:
        """Show one more round, and a run that ended."""
        if self._quiet:
            return
        if self._first is None:
            self._first = state.rounds_done  # what an earlier session did took none of this one's time
        left = self._time_left(state)
        runs = f"{state.runs_done}/{state.runs_known}"
        if self._live:
            busy = ", ".join(f"{cell.method} {rounds}/{cell.config.rounds}" for cell, rounds in state.running)
            self._progress.update(
                self._bar, total=state.rounds_known, completed=state.rounds_done, runs=runs, facts=f"{left} {busy}"
            )
        if ended is not None and (ended.failure or not self._live):
            cell = ended.cell
            what = f"{cell.task} {cell.method} {'tuning' if cell.tuning else f'seed {cell.seed}'}"
            rate = f"rate {cell.config.client.lr:.4g}"
            end = f"[red]failed[/red]: {escape(ended.failure)}" if ended.failure else "done"
            self._console.print(f"[{runs}] {what} {rate}: {end}; {left}", soft_wrap=True, markup=True)

    def _time_left(self, state: State) -> str:
        done = state.rounds_done - (self._first or 0)
        if done <= 0:
            return "time left unknown"
        seconds = (time.monotonic() - self._began) / done * max(0, state.rounds_known - state.rounds_done)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


def print_results(results: Results, folder: Path) -> None:
    """One table for each task and target, what failed, and where everything is."""
    console = Console(highlight=False)
    for task in results.tasks:
        reference = f"; {shown(task.metric, task.reference)} without a federation" if task.reference is not None else ""
        targets: list[str | None] = [*task.targets] or [None]
        for target in targets:
            title = f"{task.task}: {task.metric}{reference}"
            if target is not None:
                title += f"\nrounds and bytes to {target_text(task, target)}"
            table = Table(title=title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
            for index, column in enumerate(COLUMNS):
                table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
            for row in rows_of(task, target):
                table.add_row(*row)
            console.print()
            console.print(table)
        for note in notes_of(task):
            console.print(note)
    for line in failures_of(results):
        console.print(f"failed         {line}", soft_wrap=True, markup=False)
    console.print()
    console.print(f"directory      {folder}", soft_wrap=True, markup=False)
    console.print(f"report         {folder / 'report.html'}", soft_wrap=True, markup=False)


def print_methods(own: Mapping[str, Method]) -> None:
    """Every method: its name, what it does, its paper."""
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("method", "what it does", "paper"):
        table.add_column(name, overflow="fold")
    for method in {**METHODS, **own}.values():
        table.add_row(method.name, method.about, method.paper)
    Console(highlight=False).print(table)
