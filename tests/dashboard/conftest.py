"""Run directories made by hand, and a dashboard process over them."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from amgt_fed.config import from_flat, to_toml
from amgt_fed.federated.state import ServerState
from amgt_fed.runs import Checkpoint, RoundRecord, RunDirectory, save_checkpoint
from amgt_fed.runs.clients import ClientLedger

PARAMETERS = 1000
MakeRun = Callable[..., RunDirectory]


def record(round: int, **known: object) -> RoundRecord:
    values = {
        "round": round,
        "loss": 2.0 / round,
        "metrics": {"accuracy": 1 - 0.9 / round},
        "train_loss": 2.0 / round,
        "uplink_bytes": 100,
        "downlink_bytes": 60,
        "update_norm": 3.0 / round,
        "step_norm": 3.0 / round,
        "delta": 1.5 / round,
        "delta_budget": 2.0 / round,
        "drift": 0.5,
        "residual_norm": 0.1,
        "num_clients": 4,
        "failures": int(round == 2),
        "num_examples": 400,
        "status": "improving",
        "seconds": 0.5,
        "elapsed_s": 0.5 * round,
    }
    return RoundRecord(**{**values, **known})  # type: ignore[arg-type]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(name, rounds, clients)`: an unfinished run's directory."""

    def make(name: str, rounds: int = 10, clients: int = 4) -> RunDirectory:
        directory = RunDirectory(tmp_path / "runs" / name)
        directory.write_config(to_toml(from_flat({"rounds": 20, "seed": 3})))
        lines = (json.dumps(asdict(record(number))) + "\n" for number in range(1, rounds + 1))
        directory.rounds_path.write_text("".join(lines), encoding="utf-8")
        ledger = ClientLedger()
        everyone = range(clients)
        ledger.add(
            rounds,
            sent=dict.fromkeys(everyone, 15),
            received={client: 20 + client for client in everyone},
            relative_norms=dict.fromkeys(everyone, math.sqrt(2)),
            failures={1: "<b>sensor unplugged</b>"},
            now=1.7e9,
        )
        state = ServerState(run=1, round=rounds + 1, model=np.zeros(PARAMETERS, np.float32))
        save_checkpoint(directory.checkpoint_path, Checkpoint(state, b"\x00" * 32, ledger=ledger.rows()))
        return directory

    return make


@pytest.fixture
def start_dashboard() -> Iterator[Callable[..., str]]:
    """`start_dashboard(PATH, OPTION, ...)` gives the page's address; the process ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> str:
        command = [sys.executable, "-m", "amgt_fed.cli.main", "dashboard", "--port", "0", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "80"})
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) in (0, 130)
        if process.stdout is not None:
            process.stdout.close()
