"""What one run directory holds, read as it grows: only the new lines of `rounds.jsonl` each time."""

from __future__ import annotations

import json
import math
import threading
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.errors import AMGTFedError
from amgt_fed.runs import RoundRecord, RunDirectory, RunSummary
from amgt_fed.runs.checkpoint import parameters_of
from amgt_fed.runs.table import chosen_metric

from .thin import thin

_PLAIN = ("round", "elapsed_s", "loss", "train_loss", "delta", "update_norm", "drift", "failures", "num_clients")
_CERTIFIED = ("gradient_lower", "gradient_upper", "gap")


class RunFeed:
    """One run's rounds as columns, and how it stands; `refresh` takes in what is new.

    Attributes:
        id: what the page calls it; unique among the runs shown.
        version: changes whenever anything shown does.
    """

    def __init__(self, id: str, directory: RunDirectory) -> None:
        self.id = id
        self.directory = directory
        self.version = 0
        self.problem = ""
        self.summary: RunSummary | None = None
        self._lock = threading.Lock()
        self._seen: tuple[Any, ...] = ()
        self._facts: dict[str, Any] = {}
        self._parameters = 0
        self._forget()

    def _forget(self) -> None:
        self._offset = 0
        self._rest = b""
        self._columns = {name: array("d") for name in (*_PLAIN, "budget", *_CERTIFIED, "uplink", "downlink", "dense")}
        self._metrics: dict[str, array[float]] = {}
        self._status = ""

    def refresh(self) -> None:
        """Read what was written since the last call; a damaged file is told in `problem`, and read again next time."""
        with self._lock:
            seen = tuple(map(_stamp, (self.directory.rounds_path, self.directory.summary_path, self._state_path)))
            if seen == self._seen:
                return
            try:
                if not self._facts:
                    self._read_config()
                if not self._parameters:
                    self._parameters = parameters_of(self.directory.checkpoint_path)
                # A resumed run replaces the file: another inode, or fewer bytes.
                if self._seen and (seen[0][0] != self._seen[0][0] or seen[0][1] < self._offset):
                    self._forget()
                self._read_rounds()
                self.summary = self.directory.summary()
                self.problem = ""
            except (AMGTFedError, OSError, ValueError, TypeError) as error:
                self._forget()
                self.problem = str(error)
            self._seen = seen
            self.version += 1

    @property
    def _state_path(self) -> Path:
        return self.directory.checkpoint_path / "state.json"

    def _read_config(self) -> None:
        config = self.directory.config()
        self._facts = {
            "task": config.task,
            "engine": config.engine,
            "seed": config.seed,
            "planned": config.rounds,
            "clients": config.partition.num_clients,
        }

    def _read_rounds(self) -> None:
        if not self.directory.rounds_path.exists():
            return
        with self.directory.rounds_path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        *lines, rest = (self._rest + new).split(b"\n")
        for line in lines:
            if line.strip():
                self._take(RoundRecord.from_dict(json.loads(line)))
        self._offset += len(new)
        self._rest = rest

    def _take(self, record: RoundRecord) -> None:
        columns = self._columns
        for name in _PLAIN:
            columns[name].append(_number(getattr(record, name)))
        columns["budget"].append(_number(record.delta_budget))
        for name in _CERTIFIED:
            columns[name].append(_number((record.certificate or {}).get(name)))
        # What float32 models both ways would have taken, for the clients that answered.
        dense = 8.0 * self._parameters * record.num_clients
        for name, amount in (("uplink", record.uplink_bytes), ("downlink", record.downlink_bytes), ("dense", dense)):
            column = columns[name]
            column.append(amount + (column[-1] if column else 0.0))
        count = len(columns["round"])
        for name, value in record.metrics.items():
            values = self._metrics.setdefault(name, array("d"))
            values.extend([math.nan] * (count - 1 - len(values)))
            values.append(_number(value))
        self._status = record.status

    def overview(self) -> dict[str, Any]:
        """The run's row in the table, as plain values."""
        with self._lock:
            columns, summary = self._columns, self.summary
            rounds = len(columns["round"])
            metric = chosen_metric(self._metrics)
            values = columns["loss"] if metric == "loss" else self._metrics[metric]
            known = [value for value in values if not math.isnan(value)]
            uplink, downlink, dense = (_last(columns[name]) for name in ("uplink", "downlink", "dense"))
            finished = summary is not None and summary.rounds <= rounds
            return {
                "id": self.id,
                "version": self.version,
                "problem": self.problem,
                **self._facts,
                "rounds": rounds,
                "finished": finished,
                "status": self._status or "waiting",
                "stopped": summary.stopped if summary is not None else "",
                "metric": metric,
                "value": known[-1] if known else None,
                "loss": _plain(_last_known(columns["loss"])),
                "uplink": uplink,
                "downlink": downlink,
                "dense": dense or None,
                "ratio": dense / (uplink + downlink) if dense and uplink + downlink else None,
                "delta": _plain(_last_known(columns["delta"])),
                "budget": _plain(_last_known(columns["budget"])),
                "gradient_lower": _plain(_last_known(columns["gradient_lower"])),
                "gradient_upper": _plain(_last_known(columns["gradient_upper"])),
                "gap": _plain(_last_known(columns["gap"])),
                "failures": int(sum(columns["failures"])),
                "seconds": _last(columns["elapsed_s"]),
            }

    def series(self, points: int) -> dict[str, Any]:
        """The run's curves, each with at most about `points` points, and x in rounds, bytes and seconds.

        Missing values are left out of a curve. Bytes are of all rounds up to the point, both ways.
        """
        with self._lock:
            columns = {name: _vector(values) for name, values in self._columns.items()}
            count = len(columns["round"])
            curves = {name: columns[name] for name in ("loss", "train_loss", "uplink", "downlink", "delta", "budget")}
            curves |= {name: columns[name] for name in ("update_norm", "drift", *_CERTIFIED)}
            if self._parameters:
                curves["dense"] = columns["dense"]
            for name, values in self._metrics.items():
                padded = np.full(count, np.nan)
                padded[: len(values)] = _vector(values)
                curves[f"metric:{name}"] = padded
            version, metrics = self.version, sorted(self._metrics)
        total = columns["uplink"] + columns["downlink"]
        return {
            "id": self.id,
            "version": version,
            "metrics": metrics,
            "series": {
                name: {
                    "rounds": columns["round"][kept].tolist(),
                    "bytes": total[kept].tolist(),
                    "seconds": columns["elapsed_s"][kept].tolist(),
                    "value": values[kept].tolist(),
                }
                for name, values in curves.items()
                if len(kept := thin(values, points))
            },
        }


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _vector(values: array[float]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)  # a copy: an array that is shared cannot grow


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _last(values: array[float]) -> float:
    return values[-1] if values else 0.0


def _last_known(values: array[float]) -> float:
    return next((value for value in reversed(values) if not math.isnan(value)), math.nan)
