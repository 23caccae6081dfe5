"""The charts of a comparison, each as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen is needed, nor looked for

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray

from amgt_fed.compare.ledger import Ledger, value_of
from amgt_fed.compare.links import LINKS, seconds_on
from amgt_fed.compare.results import FEDAVG, TaskResult, rounds_of
from amgt_fed.runs import RoundRecord

Vector = NDArray[np.float64]
Style = dict[str, Any]
_OURS = "amgt"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.dpi": 110,
    "svg.hashsalt": "amgt-fed",  # the same chart, the same bytes
}
_BAND = "; lines are means over the seeds, bands reach from the worst to the best"
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure.

    Attributes:
        name: of its files, without the ending.
        title: as text.
        png, svg: its bytes.
    """

    name: str
    title: str
    png: bytes
    svg: bytes


@dataclass(frozen=True, slots=True)
class _Runs:
    """One method's finished runs, all over the same rounds."""

    method: str
    style: Style
    runs: list[list[RoundRecord]]


def charts_of(task: TaskResult, ledger: Ledger) -> list[Chart]:
    """The metric against bytes, rounds and simulated time, and the measured error against its budget.

    A line is the mean over the seeds; its band reaches from the worst seed to the best.
    """
    found = []
    for index, result in enumerate(task.methods):
        finished = rounds_of(ledger, task.task, result.method)
        if finished:
            found.append(_Runs(result.method, _style_of(index, result.method), finished))
    if not found:
        return []
    metric, name = task.metric, task.task.replace(":", ".").replace("/", "-")
    charts = [
        _chart(f"{name}-bytes", f"{metric} against bytes up and down, all clients{_BAND}", found, _bytes, metric),
        _chart(f"{name}-rounds", f"{metric} against rounds{_BAND}", found, _rounds, metric),
    ]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(11, 7.6), constrained_layout=True)
        for axis, (link, rate) in zip(axes.flat, LINKS.items(), strict=True):
            for method in found:
                _line(axis, method, partial(_seconds, rate), metric)
            axis.set(xlabel="seconds", ylabel=metric, title=f"links of {link}", xscale="log")
        axes.flat[0].legend(fontsize=8)
        charts.append(_saved(figure, f"{name}-links", f"{metric} against simulated time on four links{_BAND}"))
        figure, axis = plt.subplots(figsize=(9, 5), constrained_layout=True)
        if _errors(axis, found):
            charts.append(
                _saved(
                    figure,
                    f"{name}-errors",
                    "measured error of each round, first seed, and its budget c/k",
                )
            )
        else:
            plt.close(figure)
    return charts


def _style_of(index: int, method: str) -> Style:
    ours = method == _OURS
    others = plt.get_cmap("tab20")((2 * index + 2) % 20 + (index >= 9))  # from orange on: blue is ours, grey FedAvg's
    color = "#1f5fbf" if ours else "#8a8f98" if method == FEDAVG else others
    return {"color": color, "linewidth": 2.4 if ours else 1.3, "linestyle": "-" if ours else _DASHES[index % 4]}


def _bytes(rounds: Sequence[RoundRecord]) -> Vector:
    return np.array(list(accumulate(record.uplink_bytes + record.downlink_bytes for record in rounds)), np.float64)


def _seconds(rate: float, rounds: Sequence[RoundRecord]) -> Vector:
    return np.array(seconds_on(rounds, rate), np.float64)


def _rounds(rounds: Sequence[RoundRecord]) -> Vector:
    return np.array([record.round for record in rounds], np.float64)


def _chart(
    name: str, title: str, found: list[_Runs], along: Callable[[Sequence[RoundRecord]], Vector], metric: str
) -> Chart:
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(9, 5), constrained_layout=True)
        for runs in found:
            _line(axis, runs, along, metric)
        axis.set(xlabel="round" if along is _rounds else "bytes", ylabel=metric, title=title.removesuffix(_BAND))
        if along is _bytes:
            axis.set_xscale("log")
        axis.legend(fontsize=8)
        return _saved(figure, name, title)


def _line(axis: Axes, runs: _Runs, along: Callable[[Sequence[RoundRecord]], Vector], metric: str) -> None:
    # A run that ended early, by a rule of its configuration, takes the others' later rounds off the mean's line.
    length = min(len(rounds) for rounds in runs.runs)
    places = np.mean([along(rounds)[:length] for rounds in runs.runs], axis=0)
    values = np.array([[_number(value_of(r, metric)) for r in rounds[:length]] for rounds in runs.runs])
    scored = np.isfinite(values).all(axis=0)
    if not scored.any():
        return
    places, values = places[scored], values[:, scored]
    axis.plot(places, values.mean(axis=0), label=runs.method, **runs.style)
    if len(values) > 1:
        axis.fill_between(places, values.min(axis=0), values.max(axis=0), color=runs.style["color"], alpha=0.12, lw=0)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _errors(axis: Axes, found: list[_Runs]) -> bool:
    """Draw delta_k, and c/k where a run has a budget; False where no method loses anything."""
    drawn = False
    for runs in found:
        rounds = runs.runs[0]
        lossy = [record for record in rounds if record.delta > 0]
        if not lossy:
            continue
        drawn = True
        axis.plot([r.round for r in lossy], [r.delta for r in lossy], label=runs.method, **runs.style)
        budget = [(r.round, r.delta_budget) for r in rounds if r.delta_budget]
        if budget:
            color = runs.style["color"]
            axis.plot(*zip(*budget, strict=True), color=color, linestyle=":", label=f"{runs.method}: budget c/k")
    if drawn:
        axis.set(
            xlabel="round", ylabel="l2 norm", title="measured error of a round, first seed", xscale="log", yscale="log"
        )
        axis.legend(fontsize=8)
    return drawn


def _saved(figure: Any, name: str, title: str) -> Chart:
    images = []
    for kind in ("png", "svg"):
        data = io.BytesIO()
        figure.savefig(data, format=kind, metadata={"Date": None} if kind == "svg" else None)
        images.append(data.getvalue())
    plt.close(figure)
    return Chart(name, title, *images)
