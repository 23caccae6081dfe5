"""The scripts run as they stand, and what they print is true."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from scipy.optimize import minimize

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_tracked_gap_holds_the_true_one(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(EXAMPLES / "track_convergence.py"))
    printed = capsys.readouterr().out
    best = minimize(names["loss_and_gradient"], names["x"], jac=True, method="L-BFGS-B", options={"gtol": 1e-12})
    rows = re.findall(r"f\(x\) ([\d.]+)  f\(x\) - f\* at most ([\d.e+-]+)", printed)
    assert len(rows) == 4
    for loss, gap in rows:
        assert float(loss) - float(best.fun) <= float(gap) + 1e-5  # the printed loss has five digits
    assert "converged" in printed
    assert re.search(r"[\d,]+ bytes; dense", printed)


def test_amgt_in_place_of_adam(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "drop_in.py"))
    found = re.search(r"accuracy ([\d.]+) %", capsys.readouterr().out)
    assert found is not None
    assert float(found.group(1)) > 85
