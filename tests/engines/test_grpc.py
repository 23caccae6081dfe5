"""The grpc engine: real server and client processes on loopback, and nothing of them afterwards."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amgt_fed.engines.grpc import run_grpc, shares
from amgt_fed.engines.job import Job
from amgt_fed.errors import EngineError

Probe = Callable[..., Job]


@pytest.fixture
def probe(probe: Probe, tmp_path: Path) -> Probe:
    """The probe's jobs, whose processes carry the directory in their environment and so can be found."""

    def make(*arguments: Any, **options: Any) -> Job:
        job = probe(*arguments, **options)
        return dataclasses.replace(job, environment={**job.environment, "PROBE_DIRECTORY": str(tmp_path)})

    return make


Find = Callable[[Path], dict[int, str]]


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        (5, 2, [(0, 1), (2, 4)]),
        (2, 8, [(0, 0), (1, 1)]),
        (1, 1, [(0, 0)]),
        (7, 3, [(0, 1), (2, 3), (4, 6)]),
    ],
)
def test_nodes_are_shared_out_evenly_and_completely(nodes: int, workers: int, expected: list[tuple[int, int]]) -> None:
    assert list(shares(nodes, workers)) == expected


def test_every_node_is_asked_in_warm_processes_with_the_job_s_configuration(
    probe: Probe, tmp_path: Path, processes_of: Find
) -> None:
    job = probe(nodes=5, rounds=3, note="a \"quoted\" 'text'\n", ratio=0.1, flag=True)
    run_grpc(job)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["run_config"] == dict(job.run_config)
    for number, answers in enumerate(report["rounds"]):
        assert sorted(answer["partition"] for answer in answers) == [0, 1, 2, 3, 4]
        assert {answer["round"] for answer in answers} == {number}
        assert all(answer["run_config"] == dict(job.run_config) for answer in answers)
        assert {(answer["num_partitions"], answer["threads"]) for answer in answers} == {(5, 1)}
    pids = {answer["pid"] for answers in report["rounds"] for answer in answers}
    assert len(pids) == 2, "two workers, and no new process for a new round"
    assert (tmp_path / "logs" / "server.log").exists()
    assert (tmp_path / "logs" / "client-1.log").exists()
    assert processes_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "raise"}, r"MoonIsNotFull: round 1: the moon is not full; wait two weeks \(log: .*server\.log\)"),
        ({"mode": "die"}, r"the server was killed by signal 9.*server\.log"),
        ({"server_app": "no_such_module:app"}, r"there is no module 'no_such_module'.*server\.log"),
        ({"client_app": "probe_client:nothing"}, r"client-\d stopped with exit code 2: .*no attribute 'nothing'"),
    ],
)
def test_a_failure_is_one_line_that_says_why_and_where_to_look(
    probe: Probe, tmp_path: Path, processes_of: Find, options: dict[str, str], says: str
) -> None:
    with pytest.raises(EngineError) as caught:
        run_grpc(probe(nodes=2, **options))
    assert re.search(says, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert processes_of(tmp_path) == {}


def test_a_federation_of_nobody_is_refused(probe: Probe) -> None:
    with pytest.raises(EngineError, match="number of nodes is 0"):
        run_grpc(probe(nodes=0))


def listening_port(log: Path) -> int:
    found = re.search(r"listening at 127\.0\.0\.1:(\d+)", log.read_text())
    assert found is not None
    return int(found[1])


def running_engine(
    start_engine: Callable[..., subprocess.Popen[str]], job: Job, wait_for: Callable[..., None]
) -> tuple[subprocess.Popen[str], int]:
    """An engine whose ServerApp hangs, all nodes connected; and the link's port."""
    engine = start_engine("grpc", job)
    wait_for(lambda: (job.run_dir / "started").exists() or engine.poll() is not None)
    assert engine.poll() is None, engine.communicate()[1]
    return engine, listening_port(job.run_dir / "logs" / "server.log")


def test_a_killed_client_is_noticed_at_once_and_named(
    probe: Probe,
    tmp_path: Path,
    start_engine: Callable[..., subprocess.Popen[str]],
    processes_of: Find,
    wait_for: Callable[..., None],
) -> None:
    engine, _ = running_engine(start_engine, probe(nodes=2, mode="hang"), wait_for)
    pid = next(pid for pid, command in processes_of(tmp_path).items() if "amgt_fed_clients run" in command)
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    _, errors = engine.communicate(timeout=30)
    # The notice takes .05 s; the rest is stopping the others, who say good-bye.
    assert time.monotonic() - killed < 10
    assert re.search(r"EngineError: client-\d stopped with exit code -9: ", errors.strip().splitlines()[-1])
    assert processes_of(tmp_path) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_engine_leaves_no_process_and_no_port(
    probe: Probe,
    tmp_path: Path,
    start_engine: Callable[..., subprocess.Popen[str]],
    processes_of: Find,
    wait_for: Callable[..., None],
    number: signal.Signals,
) -> None:
    engine, port = running_engine(start_engine, probe(nodes=3, mode="hang"), wait_for)
    assert len(processes_of(tmp_path)) >= 4  # the engine, the server, two clients
    engine.send_signal(number)
    engine.communicate(timeout=30)
    wait_for(lambda: processes_of(tmp_path) == {}, 20)
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe_socket.bind(("127.0.0.1", port))
