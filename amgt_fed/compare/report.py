"""The files of a comparison: `compare.json`, `table.csv`, `curves.csv`, `report.html` and its charts."""

from __future__ import annotations

import json
from dataclasses import asdict

from amgt_fed.compare.ledger import Ledger
from amgt_fed.compare.page import page_of
from amgt_fed.compare.plots import charts_of
from amgt_fed.compare.results import Results
from amgt_fed.compare.tables import curves_csv, table_csv
from amgt_fed.runs.files import write_atomically

FORMAT = "amgt-compare-1"


def to_json(results: Results) -> str:
    """The text of `compare.json`."""
    return json.dumps({"format": FORMAT, **asdict(results)}, indent=2, allow_nan=False) + "\n"


def write_files(results: Results, ledger: Ledger) -> None:
    """Write all of them into the comparison's directory."""
    write_atomically(ledger.root / "compare.json", to_json(results).encode())
    write_atomically(ledger.root / "table.csv", table_csv(results).encode())
    write_atomically(ledger.root / "curves.csv", curves_csv(results, ledger).encode())
    charts = {task.task: charts_of(task, ledger) for task in results.tasks}
    for chart in (chart for found in charts.values() for chart in found):
        write_atomically(ledger.root / f"{chart.name}.png", chart.png)
        write_atomically(ledger.root / f"{chart.name}.svg", chart.svg)
    write_atomically(ledger.root / "report.html", page_of(results, ledger.plan, ledger.root.name, charts).encode())
