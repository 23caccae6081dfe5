"""A ServerApp / ClientApp pair that reports what an engine gave it, and a look at the processes an engine left."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amgt_fed.engines.job import Job

APPS = Path(__file__).parent / "apps"


@pytest.fixture
def probe(tmp_path: Path) -> Callable[..., Job]:
    """Make a job of the probe apps; keyword arguments set the run configuration, `nodes` the number of nodes."""

    def make(nodes: int = 2, *, server_app: str = "probe_server:app", client_app: str = "probe_client:app", **settings):
        run_config: dict[str, Any] = {
            "nodes": nodes,
            "rounds": 1,
            "out": str(tmp_path),
            "mode": "ok",
            "fail-partition": -1,
            "user-module": "",
            "partition.alpha": 0.5,
            **settings,
        }
        environment = {"PYTHONPATH": str(APPS)}
        return Job(run_config, nodes, tmp_path, server_app, client_app, workers=2, environment=environment)

    return make


@pytest.fixture
def processes_of() -> Callable[[Path], dict[int, str]]:
    """Find the live processes, daemons included, whose command line or environment names a directory."""

    def find(directory: Path) -> dict[int, str]:
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            try:
                if not entry.name.isdigit() or entry.name == "self":
                    continue
                command = (entry / "cmdline").read_bytes()
                # Without a command line it is a zombie: ended, and waiting for init to notice.
                if command and str(directory).encode() in command + (entry / "environ").read_bytes():
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
        return found

    return find


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Poll a condition until it holds, or fail."""

    def wait(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "gave up waiting"
            time.sleep(0.05)

    return wait


@pytest.fixture
def start_engine(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Run an engine on a job in a Python process of its own, as a user's command does."""

    def start(engine: str, job: Job) -> subprocess.Popen[str]:
        script = (
            "import sys; from pathlib import Path; from amgt_fed.engines.job import Job\n"
            f"from amgt_fed.engines.{engine} import run_{engine}\n"
            f"run_{engine}(Job({dict(job.run_config)!r}, {job.num_nodes}, Path({str(job.run_dir)!r}), "
            f"{job.server_app!r}, {job.client_app!r}, {job.workers}, {dict(job.environment)!r}))"
        )
        return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)

    return start
