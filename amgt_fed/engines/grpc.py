"""Engine `grpc`: one server process and a few warm client processes over the AMGT link, on loopback."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from amgt_fed.engines.job import CLIENT_APP, SERVER_APP, Job
from amgt_fed.engines.processes import LOOPBACK, Child, Children, child_environment, telling_line
from amgt_fed.errors import EngineError
from amgt_fed.flower.cores import available_cores

ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
}
POLL_S = 0.05
START_S = 120.0  # for the server to listen and for all nodes to join; imports take 3 s on an idle machine
GOODBYE_S = 5.0


def run_grpc(job: Job) -> None:
    """Run the job over real gRPC: `amgt-server` in one process, the nodes shared out among `job.workers` others.

    Every process computes with one thread. Output goes to `run_dir/logs/server.log` and `client-I.log`.

    Raises:
        EngineError: a process could not start or died (named, with the line of its log that says why), or the
            ServerApp failed.
    """
    if job.num_nodes < 1:
        raise EngineError(f"number of nodes is {job.num_nodes}; give at least 1")
    environment = {**child_environment(job.environment), **ENVIRONMENT}
    with (
        tempfile.TemporaryDirectory(prefix="amgt-grpc-") as scratch,
        Children(job.run_dir / "logs", environment) as children,
    ):
        address_file = Path(scratch) / "address"
        server = children.start("server", _server_command(job, Path(scratch), address_file))
        address = _wait_for_address(address_file, server, children)
        workers = job.workers or available_cores()
        clients = [
            children.start(f"client-{index}", _client_command(job, address, first, last))
            for index, (first, last) in enumerate(shares(job.num_nodes, workers))
        ]
        _wait_for_end(server, clients, children)
        _check_result(server)
        _let_clients_leave(clients)


def shares(num_nodes: int, workers: int) -> Iterator[tuple[int, int]]:
    """Split nodes 0 to num_nodes-1 into at most `workers` runs of nearly equal length; yields (first, last)."""
    count = min(num_nodes, workers)
    for index in range(count):
        yield index * num_nodes // count, (index + 1) * num_nodes // count - 1


def _server_command(job: Job, scratch: Path, address_file: Path) -> list[str]:
    config = scratch / "run-config.json"
    config.write_text(json.dumps(dict(job.run_config)), encoding="utf-8")
    command = [sys.executable, "-m", SERVER_APP.partition(".")[0], "run", "--insecure"]
    command += ["--address", f"{LOOPBACK}:0", "--address-file", str(address_file)]
    # Nobody restarts a client of this engine, so one that is gone need not be waited for.
    command += ["--config", str(config), "--min-nodes", str(job.num_nodes), "--grace-s", "5"]
    return command if job.server_app == SERVER_APP else [*command, "--server-app", job.server_app]


def _client_command(job: Job, address: str, first: int, last: int) -> list[str]:
    command = [sys.executable, "-m", CLIENT_APP.partition(".")[0], "run", "--insecure", "--once"]
    command += ["--server", address, "--threads", "1"]
    command += ["--nodes", f"{first}-{last}", "--num-partitions", str(job.num_nodes)]
    # The app keeps its state where it does on the other engines: in the run directory.
    command += ["--state-dir", "-"]
    return command if job.client_app == CLIENT_APP else [*command, "--client-app", job.client_app]


def _wait_for_address(path: Path, server: Child, children: Children) -> str:
    deadline = time.monotonic() + START_S
    while not path.exists():
        if server.process.poll() is not None:
            _check_result(server)
            raise EngineError(f"the server ended before it listened (log: {server.log})")
        if time.monotonic() > deadline:
            raise EngineError(f"the server did not listen within {START_S:.0f} s (log: {server.log})")
        children.check()
        time.sleep(POLL_S)
    return path.read_text(encoding="utf-8")


def _wait_for_end(server: Child, clients: list[Child], children: Children) -> None:
    present, gone_since = list(clients), float("inf")
    while server.process.poll() is None:
        for client in [client for client in present if client.process.poll() == 0]:
            children.finish(client)  # told that the run is over, it may be faster than the server
            present.remove(client)
            gone_since = min(gone_since, time.monotonic())
        children.check(but=server)
        if time.monotonic() > gone_since + 2 * GOODBYE_S:
            raise EngineError(f"a client left, but the server goes on (logs: {children.log_dir})")
        time.sleep(POLL_S)


def _check_result(server: Child) -> None:
    code = server.process.returncode
    if code == 0:
        return
    if code < 0:
        raise EngineError(
            f"the server was killed by signal {-code}, perhaps because memory ran out: {telling_line(server.log)} "
            f"(log: {server.log})"
        )
    raise EngineError(f"{telling_line(server.log).removeprefix('error: ')} (log: {server.log})")


def _let_clients_leave(clients: list[Child]) -> None:
    """The run is over and the clients have been told; whoever does not leave in time is stopped with the block."""
    deadline = time.monotonic() + GOODBYE_S
    while any(client.process.poll() is None for client in clients) and time.monotonic() < deadline:
        time.sleep(POLL_S)
