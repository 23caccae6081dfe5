"""`report.html` of a comparison: tables and charts in one file that needs nothing else."""

from __future__ import annotations

import base64
import shlex
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from amgt_fed.compare.plan import Plan
from amgt_fed.compare.plots import Chart
from amgt_fed.compare.report_page import PAGE
from amgt_fed.compare.results import Results, TaskResult
from amgt_fed.compare.tables import COLUMNS, failures_of, notes_of, rows_of, shown, target_text
from amgt_fed.runs.page_style import STYLE

_HEADS = {
    "fewer": "FedAvg's bytes / its",
    "x rounds": "its rounds / FedAvg's",
    "rounds": "rounds to it",
    "bytes": "bytes to it",
    "s": "seconds a run",
}


def page_of(results: Results, plan: Plan, name: str, charts: dict[str, list[Chart]]) -> str:
    """The page's text; `charts` by task."""
    environment = Environment(autoescape=True, trim_blocks=True)
    return environment.from_string(PAGE).render(
        style=Markup(STYLE),
        name=name,
        methods=plan.methods,
        seeds=plan.seeds,
        tuned=plan.tune,
        tune_seed=plan.tune_seed,
        heads=[_HEADS.get(column, column) for column in COLUMNS],
        tasks=[_task(task, charts.get(task.task, [])) for task in results.tasks],
        failures=failures_of(results),
        command=command_of(plan),
        versions=results.versions,
    )


def command_of(plan: Plan) -> str:
    """The command that runs the same comparison; methods of a file are named as if they were built in."""
    words = ["amgt-fed", "compare", "--methods", ",".join(method.name for method in plan.methods)]
    words += ["--tasks", ",".join(plan.tasks), "--seeds", ",".join(map(str, plan.seeds))]
    words += ["--rounds", str(plan.rounds)] if plan.rounds else []
    words += [] if plan.tune else ["--no-tune"]
    words += ["--tune-rounds", str(plan.tune_rounds)] if plan.tune_rounds else []
    words += ["--data-dir", plan.data_dir] if plan.data_dir else []
    for target in plan.targets:
        words += ["--target", target]
    for key, value in plan.common.items():
        words += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    return shlex.join(words)


def _task(task: TaskResult, charts: list[Chart]) -> dict[str, Any]:
    targets: list[str | None] = [*task.targets] or [None]
    return {
        "result": task,
        "reference": "" if task.reference is None else shown(task.metric, task.reference),
        "tables": [
            {"title": "" if target is None else target_text(task, target), "rows": rows_of(task, target)}
            for target in targets
        ],
        "notes": notes_of(task),
        "charts": [
            {"title": chart.title, "name": chart.name, "data": base64.b64encode(chart.png).decode()} for chart in charts
        ],
        "trials": [
            [
                method.method,
                f"{trial.lr:.4g}",
                f"{trial.server_lr:.4g}",
                trial.failure or shown(task.metric, trial.score),
            ]
            for method in task.methods
            for trial in method.trials
        ],
    }
