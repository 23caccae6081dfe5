"""Where a run keeps what it knows."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from amgt_fed.errors import StateError
from amgt_fed.runs.files import write_atomically
from amgt_fed.runs.records import RoundRecord, RunSummary

if TYPE_CHECKING:
    from amgt_fed.config import RunConfig


class RunDirectory:
    """The files of one run: `config.toml`, `rounds.jsonl`, `summary.json`, `checkpoint/`, `report.html`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.toml"

    @property
    def rounds_path(self) -> Path:
        """One JSON line per round."""
        return self.path / "rounds.jsonl"

    @property
    def summary_path(self) -> Path:
        """How the run ended."""
        return self.path / "summary.json"

    @property
    def checkpoint_path(self) -> Path:
        """The folder of the latest checkpoint."""
        return self.path / "checkpoint"

    @property
    def report_path(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def baseline_path(self) -> Path:
        """The run directory of dense FedAvg, run beside this one."""
        return self.path / "baseline"

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the directory for one process; the system lets go of it when the process ends, however it ends.

        Raises:
            StateError: another process runs here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateError(
                    f"run directory {self.path} is in use by another process; wait or choose --out"
                ) from None
            yield

    def write_config(self, text: str) -> None:
        """Write the resolved configuration, as TOML."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_path, text.encode())

    def append_round(self, record: RoundRecord) -> None:
        """Add one line to `rounds.jsonl`, flushed to the operating system."""
        with self.rounds_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record), allow_nan=False) + "\n")

    def cut_rounds(self, before: int) -> None:
        """Drop the lines of round `before` and later: a resumed run writes them again."""
        if not self.rounds_path.exists():
            return
        kept = [record for record in self.rounds() if record.round < before]
        text = "".join(json.dumps(asdict(record), allow_nan=False) + "\n" for record in kept)
        write_atomically(self.rounds_path, text.encode())

    def rounds(self) -> list[RoundRecord]:
        """All complete lines so far; a last line cut off by a crash is left out."""
        if not self.rounds_path.exists():
            return []
        records = []
        lines = self.rounds_path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                records.append(RoundRecord.from_dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                if number == len(lines):  # no newline after it: the writer was cut off
                    break
                raise StateError(f"{self.rounds_path} line {number} is damaged: {error}") from error
        return records

    def write_summary(self, summary: RunSummary) -> None:
        """Replace `summary.json`."""
        write_atomically(self.summary_path, (json.dumps(asdict(summary), indent=2, allow_nan=False) + "\n").encode())

    def summary(self) -> RunSummary | None:
        """How the run ended, or None while it has not."""
        if not self.summary_path.exists():
            return None
        try:
            return RunSummary.from_dict(json.loads(self.summary_path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise StateError(f"{self.summary_path} is damaged: {error}") from error

    def config(self) -> RunConfig:
        """The configuration the run was started with.

        Raises:
            StateError: this is no run directory.
        """
        from amgt_fed.config import from_toml

        if not self.config_path.exists():
            raise StateError(f"{self.path} is not a run directory: it has no config.toml")
        return from_toml(self.config_path)
