"""The results as rows: the terminal, the CSV files and the page show the same."""

from __future__ import annotations

import csv
import io
import statistics

from amgt_fed.compare.ledger import Ledger, value_of
from amgt_fed.compare.results import BASELINE, MethodResult, Results, TaskResult, rounds_of
from amgt_fed.runs.table import human_bytes

COLUMNS = ("method", "rate", "final", "rounds", "bytes", "fewer", "x rounds", "s")
"""Of `rows_of`: rounds and bytes to the target, FedAvg's bytes over them, rounds over FedAvg's, a run's seconds."""


def rows_of(task: TaskResult, target: str | None) -> list[list[str]]:
    """One row a method, under `COLUMNS`; the columns of the target are empty where `target` is None."""
    return [_row(task, method, target) for method in task.methods]


def target_text(task: TaskResult, target: str) -> str:
    """A target in words."""
    if target != BASELINE:
        return target
    sign = "- 0.5 pt" if task.metric == "accuracy" else "to within 1 %"
    return f"FedAvg's final {task.metric} {sign}, seed by seed"


def shown(metric: str, value: float | None) -> str:
    """A metric's value, as short as it may be."""
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:.4g}"


def failures_of(results: Results) -> list[str]:
    """One line for each reported run without a result."""
    return [
        f"{task.task}, {method.method}, seed {run.seed}: {run.failure}"
        for task in results.tasks
        for method in task.methods
        for run in method.runs
        if run.failure
    ]


NOTES = {
    "!": "the best rate was still at the end of the search",
    "~": "with a better rate of the search a reported seed diverged, so the next best was taken",
}
"""What the marks behind a rate mean."""


def notes_of(task: TaskResult) -> list[str]:
    """The marks that the task's rows hold, with their meaning."""
    marks = {"!": any(method.edge for method in task.methods), "~": any(m.passed_over for m in task.methods)}
    return [f"{mark} {NOTES[mark]}" for mark, is_there in marks.items() if is_there]


def _row(task: TaskResult, method: MethodResult, target: str | None) -> list[str]:
    found = method.reached(target) if target is not None else []
    whole = bool(found) and len(found) == len(method.runs)
    missed = f"{len(found)} of {len(method.runs)} seeds"
    ratio = method.ratios.get(target or "")
    rounds = method.round_ratios.get(target or "")
    score = shown(task.metric, method.mean)
    if method.std is not None:
        score += f" ± {100 * method.std:.2f}" if task.metric == "accuracy" else f" ± {method.std:.2g}"
    seconds = [run.seconds for run in method.runs if not run.failure]
    return [
        method.method,
        f"{method.lr:.4g}{'!' if method.edge else ''}{'~' if method.passed_over else ''}",
        score,
        f"{statistics.fmean(one.round for one in found):.0f}" if whole else missed if target else "",
        human_bytes(statistics.fmean(one.bytes for one in found)) if whole else "",
        "" if ratio is None else f"{ratio:,.0f} x" if ratio >= 10 else f"{ratio:.2g} x",
        "" if rounds is None else f"{rounds:.2f}",
        f"{statistics.fmean(seconds):.0f}" if seconds else "",
    ]


def table_csv(results: Results) -> str:
    """`table.csv`: one line for each task, method, seed and target; numbers in plain units."""
    lines: list[list[object]] = []
    for task in results.tasks:
        for method in task.methods:
            for run in method.runs:
                facts = [task.task, method.method, run.seed, method.lr, method.server_lr, task.metric, run.final]
                sums = [run.rounds, run.uplink_bytes, run.downlink_bytes, f"{run.seconds:.3f}", run.failure]
                for target in task.targets or [""]:
                    found = run.targets.get(target)
                    reached = [found.round, found.bytes] if found else ["", ""]
                    lines.append([*facts, *sums, target, *reached])
    names = "task,method,seed,lr,server_lr,metric,final,rounds,uplink_bytes,downlink_bytes,seconds,failure,target"
    return _csv([*names.split(","), "rounds_to_target", "bytes_to_target"], lines)


def curves_csv(results: Results, ledger: Ledger) -> str:
    """`curves.csv`: one line for each round of each reported run; bytes are sums from round 1, both ways."""
    lines: list[list[object]] = []
    for task in results.tasks:
        for method in task.methods:
            seeds = [run.seed for run in method.runs if not run.failure]
            for seed, rounds in zip(seeds, rounds_of(ledger, task.task, method.method), strict=True):
                total = 0
                for record in rounds:
                    total += record.uplink_bytes + record.downlink_bytes
                    value = value_of(record, task.metric)
                    where = [task.task, method.method, seed, record.round, total, value, record.loss]
                    error = [record.delta, record.delta_budget, record.update_norm, f"{record.elapsed_s:.3f}"]
                    lines.append([*where, *error])
    names = "task,method,seed,round,bytes,value,loss,delta,delta_budget,update_norm,elapsed_s"
    return _csv(names.split(","), lines)


def _csv(names: list[str], lines: list[list[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(["" if value is None else value for value in line] for line in lines)
    return text.getvalue()
