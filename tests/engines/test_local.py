from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from amgt_fed.engines.job import Job
from amgt_fed.engines.local import run_local
from amgt_fed.errors import ConfigError

APPS = """
import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()
failing = ServerApp()
seen = []

@client.train()
def train(message, context):
    value = context.node_config["partition-id"] * context.run_config["scale"]
    return Message(RecordDict({"m": MetricRecord({"v": value, "threads": torch.get_num_threads()})}), reply_to=message)

@server.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    for index in range(context.run_config["rounds"]):
        replies = grid.send_and_receive([Message(RecordDict(), n, "train", group_id=str(index)) for n in nodes])
        seen.append((sum(r.content["m"]["v"] for r in replies), {r.content["m"]["threads"] for r in replies}))
    seen.append(torch.get_num_threads())

@failing.main()
def fail(grid, context):
    grid.push_messages([Message(RecordDict(), n, "train") for n in grid.get_node_ids()])
    raise ValueError("no such luck")
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    name = f"local_engine_app_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text(APPS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(num_nodes: int, server: str = "server", rounds: int = 2) -> Job:
        return Job({"scale": 3, "rounds": rounds}, num_nodes, tmp_path, f"{name}:{server}", f"{name}:client", workers=2)

    return make


def test_the_server_app_runs_over_all_nodes_with_one_thread_and_the_number_of_threads_comes_back(
    job: Callable[..., Job],
) -> None:
    torch.set_num_threads(2)
    before = os.environ.get("OMP_NUM_THREADS")
    run_local(job(4))
    assert torch.get_num_threads() == 2
    assert os.environ.get("OMP_NUM_THREADS") == before
    module = __import__(job(4).server_app.partition(":")[0])
    assert module.seen == [(18, {1}), (18, {1}), 1]


def test_what_the_server_app_raises_comes_through(job: Callable[..., Job]) -> None:
    with pytest.raises(ValueError, match="no such luck"):
        run_local(job(3, server="failing"))


def test_an_app_that_does_not_exist_and_a_federation_of_nobody_are_refused(job: Callable[..., Job]) -> None:
    with pytest.raises(ConfigError, match="no attribute 'absent'"):
        run_local(job(3, server="absent"))
    with pytest.raises(ConfigError, match="number of nodes is 0"):
        run_local(job(0))


def test_a_hundred_trivial_clients_and_five_rounds_need_no_polling(job: Callable[..., Job]) -> None:
    run_local(job(2))  # imports
    fastest = min(_seconds(job(100, rounds=5)) for _ in range(5))
    assert fastest < 3.0  # .04 s on an idle core (benchmarks/link.py); a shared one may take many times that


def _seconds(job: Job) -> float:
    started = time.perf_counter()
    run_local(job)
    return time.perf_counter() - started
