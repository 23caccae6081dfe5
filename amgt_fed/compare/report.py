"""The files of a comparison: `compare.json`, `table.csv`, `curves.csv`."""

from __future__ import annotations

import json
from dataclasses import asdict

from amgt_fed.compare.ledger import Ledger
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
