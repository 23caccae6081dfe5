"""`report.html`: what a person wants to know of a run, in one file that needs nothing else."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from amgt_fed.runs.directory import RunDirectory
from amgt_fed.runs.files import write_atomically
from amgt_fed.runs.page_style import STYLE
from amgt_fed.runs.plots import Curve, overview
from amgt_fed.runs.report_page import PAGE
from amgt_fed.runs.table import certificate_text, comparison, primary_metric


def write_report(directory: RunDirectory) -> Path:
    """Write `report.html` and `overview.png` from what the run directory holds; with the baseline where it has run.

    Returns:
        The page's path.
    """
    rounds = directory.rounds()
    summary = directory.summary()
    baseline = RunDirectory(directory.baseline_path)
    curves = [Curve("AMGT-Fed" if summary is None else _name(directory), rounds)]
    if baseline.summary() is not None:
        curves.append(Curve("FedAvg, dense", baseline.rounds()))
    metric = primary_metric(rounds)
    picture = overview(curves, metric) if rounds else b""
    if picture:
        write_atomically(directory.path / "overview.png", picture)
    environment = Environment(autoescape=True, trim_blocks=True)
    page = environment.from_string(PAGE).render(
        style=Markup(STYLE),
        name=directory.path.name,
        summary=summary,
        rounds=rounds,
        recent=rounds[-20:],
        metric=metric,
        table=comparison(directory),
        certificate=certificate_text(summary) if summary is not None else "",
        picture=base64.b64encode(picture).decode(),
        config=directory.config_path.read_text(encoding="utf-8") if directory.config_path.exists() else "",
        command=f"amgt-fed run --config {directory.config_path.name} --out NEW_DIRECTORY",
    )
    write_atomically(directory.report_path, page.encode())
    return directory.report_path


def _name(directory: RunDirectory) -> str:
    config = directory.config()
    return "FedAvg, dense" if config.codec.downlink == "model" and config.codec.uplink == "dense" else "AMGT-Fed"
