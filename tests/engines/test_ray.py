"""Engine ray: configuration and partitions reach the apps, errors come back in one line, nothing is left behind."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from amgt_fed.engines.job import Job
from amgt_fed.engines.ray import run_ray
from amgt_fed.errors import EngineError


def ray_directories() -> set[Path]:
    return set(Path("/tmp").glob("amgt-ray-*"))


@pytest.mark.slow
def test_apps_get_the_configuration_their_partition_and_one_thread(
    probe: Callable[..., Job],
    tmp_path: Path,
    processes_of: Callable[[Path], dict[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = ray_directories()
    (tmp_path / "my_module.py").write_text("VALUE = 41")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    # A cluster that the user has elsewhere is left alone: with this address Ray could not even start.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    job = probe(3, **{"rounds": 2, "user-module": "my_module", "a.b-c": 'say "hi"', "flag": False, "seed": 2**63 - 1})
    run_ray(job)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["run_config"] == job.run_config
    assert type(report["run_config"]["flag"]) is bool
    assert [sorted(answer["partition"] for answer in one) for one in report["rounds"]] == [[0, 1, 2]] * 2
    answers = [answer for one in report["rounds"] for answer in one]
    assert {answer["num_partitions"] for answer in answers} == {3}
    assert all(answer["run_config"] == job.run_config for answer in answers)
    assert {answer["threads"] for answer in answers} == {1}
    assert {answer["user_value"] for answer in answers} == {41}
    assert 1 <= len({answer["pid"] for answer in answers}) <= job.workers
    assert processes_of(tmp_path) == {}
    assert ray_directories() == before
    assert not (tmp_path / "flower").exists()
    assert (tmp_path / "logs" / "flwr-run.log").exists()


@pytest.mark.slow
def test_an_error_of_the_server_app_comes_back_as_one_line(probe: Callable[..., Job]) -> None:
    with pytest.raises(EngineError, match=r"^round 1: the moon is not full; wait two weeks \(log: .*flwr-run\.log\)$"):
        run_ray(probe(mode="raise"))


@pytest.mark.slow
def test_killing_the_run_leaves_no_process_and_no_scratch_behind(
    probe: Callable[..., Job],
    tmp_path: Path,
    processes_of: Callable[[Path], dict[int, str]],
    start_engine: Callable[[str, Job], subprocess.Popen[str]],
    wait_for: Callable[..., None],
) -> None:
    before = ray_directories()
    with start_engine("ray", probe(mode="hang")) as engine:
        wait_for((tmp_path / "started").exists)
        wait_for(lambda: any("raylet" in command for command in processes_of(tmp_path).values()))
        engine.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_of(tmp_path) and ray_directories() == before, timeout_s=15)
    assert not (tmp_path / "flower").exists()


def test_without_ray_the_error_says_what_to_install(
    probe: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install 'amgt-fed\[ray\]'"):
        run_ray(probe())
    assert list(tmp_path.iterdir()) == []
