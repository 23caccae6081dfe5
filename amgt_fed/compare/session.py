"""A whole comparison: its runs, its results, its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amgt_fed.compare.ledger import Ledger
from amgt_fed.compare.plan import Cell, Plan
from amgt_fed.compare.pool import Pool
from amgt_fed.compare.report import write_files
from amgt_fed.compare.results import Results, results_of
from amgt_fed.errors import ConfigError, StateError
from amgt_fed.flower.cores import available_cores
from amgt_fed.runs import RunDirectory


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a comparison is.

    Attributes:
        rounds_done, rounds_known: of all runs known to be needed; the searches may add to the latter.
        runs_done, runs_known: the same in runs.
        running: the runs in progress, with their rounds so far.
    """

    rounds_done: int
    rounds_known: int
    runs_done: int
    runs_known: int
    running: tuple[tuple[Cell, int], ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that is over; `failure` says why it has no result, and is empty where it has one."""

    cell: Cell
    failure: str


OnChange = Callable[[Progress, Ended | None], None]


def compare(
    plan: Plan, out: Path, *, jobs: int = 0, resume: bool = False, on_change: OnChange | None = None
) -> Results:
    """Run everything `plan` asks for and `out` does not hold yet, and write the results there.

    Args:
        plan: what to compare.
        out: the comparison's directory.
        jobs: runs at once, each with one thread; 0: one per core.
        resume: whether `out` may hold a comparison already: its finished runs count, its unfinished ones go on.
        on_change: called after each round and with each run that ends.

    Returns:
        What `compare.json` holds. Runs that failed are in it, by their reasons.

    Raises:
        StateError: `out` holds a comparison and `resume` is False; or another process uses it.
        ConfigError: `jobs` is negative.
        EngineError: worker processes cannot be started.
    """
    if jobs < 0:
        raise ConfigError(f"jobs is {jobs}; give 1 or more, or 0 for one per core")
    root = out.expanduser().resolve()
    if (root / "plan.json").exists() and not resume:
        raise StateError(f"{root} holds a comparison already; go on with --resume, or choose another --out")
    with RunDirectory(root).in_use():
        plan.save(root)
        ledger = Ledger(plan, root)
        _run_all(ledger, jobs or available_cores(), on_change)
        results = results_of(ledger)
        write_files(results, ledger)
    return results


def _run_all(ledger: Ledger, jobs: int, on_change: OnChange | None) -> None:
    at: dict[str, int] = {}

    def progress() -> Progress:
        cells = ledger.cells()
        done = [cell for cell in cells if ledger.is_settled(cell)]
        running = tuple((cell, at.get(cell.key, 0)) for cell in pool.running)
        return Progress(
            rounds_done=sum(cell.config.rounds for cell in done) + sum(rounds for _, rounds in running),
            rounds_known=_rounds_known(ledger, cells),
            runs_done=len(done),
            runs_known=len(cells),
            running=running,
        )

    def tell(ended: Ended | None) -> None:
        if on_change is not None:
            on_change(progress(), ended)

    def on_round(cell: Cell, round: int) -> None:
        at[cell.key] = round
        tell(None)

    def on_end(cell: Cell, error: str) -> None:
        if not error and not ledger.is_finished(cell):
            error = f"it ended without a result; see {ledger.directory(cell).path}"
        if error:
            ledger.note_failure(cell, error)
        tell(Ended(cell, error))

    def wanted() -> list[Cell]:
        return [cell for cell in ledger.cells() if not ledger.is_settled(cell)]

    if not wanted():
        return
    with Pool(jobs, ledger.root) as pool:
        tell(None)
        pool.work(wanted, on_round, on_end)


def _rounds_known(ledger: Ledger, cells: list[Cell]) -> int:
    """The rounds of all known runs, and of the reported ones that still wait for their rates."""
    plan = ledger.plan
    total = sum(cell.config.rounds for cell in cells)
    for task in plan.tasks:
        for method in plan.methods:
            if not ledger.reported(task, method.name):
                total += len(plan.seeds) * plan.config(task, method).rounds
    return total
