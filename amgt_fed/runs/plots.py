"""The charts of a run, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen is needed, nor looked for

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from amgt_fed.runs.records import RoundRecord

_BLUE, _GREY, _RED = "#1f5fbf", "#8a8f98", "#c2410c"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.dpi": 110,
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's rounds under the name the legend shows."""

    name: str
    rounds: Sequence[RoundRecord]


def overview(curves: Sequence[Curve], metric: str) -> bytes:
    """Four charts: the metric against rounds and against bytes, the loss, and delta_k with its slope."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(11, 7.4), constrained_layout=True)
        for index, curve in enumerate(curves):
            color = _BLUE if index == 0 else _GREY
            _metric_by_round(axes[0][0], curve, metric, color)
            _metric_by_bytes(axes[0][1], curve, metric, color)
            _loss(axes[1][0], curve, color)
        _delta(axes[1][1], curves[0])
        for axis in (axes[0][0], axes[0][1], axes[1][0]):
            if axis.get_legend_handles_labels()[0]:
                axis.legend(loc="best")
        data = io.BytesIO()
        figure.savefig(data, format="png")
        plt.close(figure)
    return data.getvalue()


def _metric_by_round(axis: Axes, curve: Curve, metric: str, color: str) -> None:
    scored = [record for record in curve.rounds if metric in record.metrics]
    axis.plot([r.round for r in scored], [r.metrics[metric] for r in scored], color=color, label=curve.name)
    axis.set(xlabel="round", ylabel=metric, title=f"{metric} against rounds")


def _metric_by_bytes(axis: Axes, curve: Curve, metric: str, color: str) -> None:
    totals = list(accumulate(record.uplink_bytes + record.downlink_bytes for record in curve.rounds))
    scored = [(total, r.metrics[metric]) for total, r in zip(totals, curve.rounds, strict=True) if metric in r.metrics]
    if scored:
        axis.plot([x for x, _ in scored], [y for _, y in scored], color=color, label=curve.name)
        axis.set_xscale("log")
    axis.set(xlabel="bytes up and down, all clients", ylabel=metric, title=f"{metric} against bytes")


def _loss(axis: Axes, curve: Curve, color: str) -> None:
    scored = [(record.round, record.loss) for record in curve.rounds if record.loss is not None]
    if scored:
        axis.plot([x for x, _ in scored], [y for _, y in scored], color=color, label=curve.name)
        if all(loss > 0 for _, loss in scored):
            axis.set_yscale("log")
    axis.set(xlabel="round", ylabel="loss", title="loss against rounds")


def _delta(axis: Axes, curve: Curve) -> None:
    rounds = [r.round for r in curve.rounds]
    axis.plot(rounds, [r.delta for r in curve.rounds], color=_RED, label=r"$\delta_k$, measured error")
    axis.plot(rounds, [r.update_norm for r in curve.rounds], color=_BLUE, label=r"$\|m_k\|$, aggregated update")
    budget = [(r.round, r.delta_budget) for r in curve.rounds if r.delta_budget]
    if budget:
        axis.plot([x for x, _ in budget], [y for _, y in budget], color=_GREY, linestyle="--", label="budget $c/k$")
    if any(r.delta > 0 or r.update_norm > 0 for r in curve.rounds):
        axis.set(xscale="log", yscale="log")
    axis.set(xlabel="round", ylabel="l2 norm", title="error of the round beside the update")
    axis.legend(loc="best")
