"""Engine flower: stock SuperLink and SuperNodes carry the apps, failures are named, nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from amgt_fed.engines import flower, processes
from amgt_fed.engines.flower import check_memory, run_flower
from amgt_fed.engines.job import Job
from amgt_fed.errors import EngineError


@pytest.mark.slow
def test_apps_get_the_configuration_their_partition_and_one_thread(
    probe: Callable[..., Job],
    tmp_path: Path,
    processes_of: Callable[[Path], dict[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "my_module.py").write_text("VALUE = 41")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody there: loopback must not go through it
    job = probe(2, **{"user-module": "my_module", "a.b-c": 'say "hi"', "fail-partition": 1})
    run_flower(job)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["run_config"] == job.run_config
    (answers,) = report["rounds"]
    (failure,) = [answer["error"] for answer in answers if "error" in answer]
    assert "partition 1 has no data" in failure
    (answer,) = [answer for answer in answers if "error" not in answer]
    assert (answer["partition"], answer["num_partitions"], answer["threads"]) == (0, 2, 1)
    assert answer["run_config"] == job.run_config
    assert answer["user_value"] == 41
    assert processes_of(tmp_path) == {}
    assert not (tmp_path / "flower").exists()
    logs = sorted(log.name for log in (tmp_path / "logs").iterdir())
    assert logs == ["flwr-run.log", "superlink.log", "supernode-0.log", "supernode-1.log"]


@pytest.mark.slow
def test_a_supernode_that_dies_ends_the_run_and_is_named(
    probe: Callable[..., Job],
    tmp_path: Path,
    processes_of: Callable[[Path], dict[int, str]],
    start_engine: Callable[[str, Job], subprocess.Popen[str]],
    wait_for: Callable[..., None],
) -> None:
    with start_engine("flower", probe(mode="hang")) as engine:
        wait_for((tmp_path / "started").exists)
        (process_id,) = [number for number, command in processes_of(tmp_path).items() if "partition-id=1 " in command]
        os.kill(process_id, signal.SIGKILL)
        _, error = engine.communicate(timeout=30)
    assert "EngineError: supernode-1 stopped with exit code -9" in error
    assert processes_of(tmp_path) == {}


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_no_port_behind(
    probe: Callable[..., Job],
    tmp_path: Path,
    processes_of: Callable[[Path], dict[int, str]],
    start_engine: Callable[[str, Job], subprocess.Popen[str]],
    wait_for: Callable[..., None],
) -> None:
    with start_engine("flower", probe(mode="hang")) as engine:
        wait_for((tmp_path / "started").exists)
        commands = " ".join(processes_of(tmp_path).values())
        ports = {int(port) for port in re.findall(r"--port (\d+)", commands)}
        assert len(ports) == 3
        engine.send_signal(signal.SIGINT)
        _, error = engine.communicate(timeout=30)
    assert "KeyboardInterrupt" in error
    assert processes_of(tmp_path) == {}
    for port in ports:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((processes.LOOPBACK, port))


def test_a_supernode_that_does_not_start_is_named(probe: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((processes.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(flower, "free_ports", lambda count: [port])
        with pytest.raises(
            EngineError, match=rf"supernode-0 stopped with exit code 1: .*{port}.* address already in use"
        ):
            run_flower(probe(1))


def test_a_missing_command_says_what_to_install(
    probe: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(processes.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(EngineError, match=r"'flower-supernode' is not installed .*pip install 'flwr'"):
        run_flower(probe())


def test_a_fleet_too_large_for_the_memory_is_refused_with_the_number_that_fits() -> None:
    check_memory(20, free_mib=20 * flower.NODE_MIB)
    with pytest.raises(EngineError, match=r"100 clients.* 5000 MiB are free; use at most 25 clients"):
        check_memory(100, free_mib=25 * flower.NODE_MIB)
