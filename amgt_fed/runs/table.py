"""The comparison a run ends with, as rows: the terminal and the report show the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from amgt_fed.runs.directory import RunDirectory
from amgt_fed.runs.records import RoundRecord, RunSummary, bytes_to_reach

ACCURACY_TARGET = 0.95


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what, ours, FedAvg's where it ran, and how they compare."""

    what: str
    ours: str
    baseline: str
    ratio: str


def primary_metric(rounds: Sequence[RoundRecord]) -> str:
    """The metric to show of a run: `chosen_metric` of all its rounds' metrics."""
    return chosen_metric(name for record in rounds for name in record.metrics)


def chosen_metric(names: Iterable[str]) -> str:
    """Accuracy where there is one, the first by name otherwise, `loss` where there is none."""
    known = set(names)
    return "accuracy" if "accuracy" in known else min(known, default="loss")


def comparison(directory: RunDirectory) -> list[Row]:
    """The rows of a finished run; empty before that. Ratios are baseline / ours, all measured."""
    summary = directory.summary()
    if summary is None:
        return []
    rounds = directory.rounds()
    beside = RunDirectory(directory.baseline_path)
    baseline = beside.summary()
    metric = primary_metric(rounds)
    rows = [_last_metric(metric, summary, baseline)]
    if summary.reference is not None and summary.reference["metric"] == metric:
        rows.append(Row(f"{metric} without a federation", _metric(metric, summary.reference["value"]), "", ""))
    if metric == "accuracy":
        rows += _to_target(rounds, beside.rounds() if baseline is not None else [], metric)
    rows += [
        _bytes("bytes up", summary.uplink_bytes, baseline.uplink_bytes if baseline else None),
        _bytes("bytes down", summary.downlink_bytes, baseline.downlink_bytes if baseline else None),
        _bytes(
            "bytes, both ways",
            summary.uplink_bytes + summary.downlink_bytes,
            baseline.uplink_bytes + baseline.downlink_bytes if baseline else None,
        ),
        *_socket(rounds, beside.rounds() if baseline is not None else []),
        Row("rounds", str(summary.rounds), str(baseline.rounds) if baseline else "", ""),
        Row("seconds", f"{summary.seconds:.1f}", f"{baseline.seconds:.1f}" if baseline else "", ""),
    ]
    return rows


def _socket(rounds: Sequence[RoundRecord], baseline: Sequence[RoundRecord]) -> list[Row]:
    """Bytes on the connections, where the engine has its own: what the transport adds to the payload is in them."""

    def total(records: Sequence[RoundRecord]) -> int | None:
        counts = [
            sum(record.link.get(f"socket_{way}_bytes", 0) for way in ("uplink", "downlink")) for record in records
        ]
        return sum(counts) or None

    ours = total(rounds)
    return [] if ours is None else [_bytes("bytes on the socket", ours, total(baseline))]


def human_bytes(count: float) -> str:
    """A count of bytes in the unit that keeps it short: 1 kB is 1000 B."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def certificate_text(summary: RunSummary) -> str:
    """What the final model's certificate says, in one line; empty without one. Source: ALGORITHM (B)."""
    found = summary.certificate
    if found is None:
        return ""
    text = f"norm of the gradient in [{found['gradient_lower']:.4g}, {found['gradient_upper']:.4g}]"
    if found["gap"] is not None:
        text += f", f(x) - f* at most {found['gap']:.4g}, distance to the optimum at most {found['distance']:.4g}"
    if found["rigorous"]:
        return f"{text}; all clients measured"
    return f"{text} for the clients that measured; sampling error about {found['sampling_error']:.2g}"


def _last_metric(metric: str, summary: RunSummary, baseline: RunSummary | None) -> Row:
    ours = summary.metrics.get(metric)
    theirs = baseline.metrics.get(metric) if baseline else None
    difference = ""
    if ours is not None and theirs is not None:
        difference = f"{100 * (ours - theirs):+.1f} pt" if metric == "accuracy" else f"{ours - theirs:+.3g}"
    return Row(f"{metric}, last round", _metric(metric, ours), _metric(metric, theirs), difference)


def _metric(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if name == "accuracy" else f"{value:.4g}"


def _to_target(rounds: list[RoundRecord], baseline: list[RoundRecord], metric: str) -> list[Row]:
    ours, theirs = (bytes_to_reach(side, metric, ACCURACY_TARGET) for side in (rounds, baseline))
    label = f"{100 * ACCURACY_TARGET:g} %"
    ratio = f"{theirs[1] / ours[1]:,.0f} x fewer" if ours and theirs else ""
    missing = "not reached"
    return [
        Row(
            f"bytes to {label}",
            human_bytes(ours[1]) if ours else missing,
            human_bytes(theirs[1]) if theirs else missing if baseline else "",
            ratio,
        ),
        Row(
            f"rounds to {label}",
            str(ours[0]) if ours else missing,
            str(theirs[0]) if theirs else missing if baseline else "",
            "",
        ),
    ]


def _bytes(what: str, ours: int, theirs: int | None) -> Row:
    ratio = f"{theirs / ours:,.0f} x fewer" if theirs and ours else ""
    return Row(what, human_bytes(ours), "" if theirs is None else human_bytes(theirs), ratio)
