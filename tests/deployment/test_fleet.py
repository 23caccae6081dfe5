"""`amgt-server` and `amgt-client` as a user starts them: processes, gRPC on loopback, and what can go wrong."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

Fleet = Any  # of conftest.py
Wait = Callable[..., None]


def finish(*processes: subprocess.Popen[str]) -> list[int]:
    return [process.wait(60) for process in processes]


def test_a_tls_fleet_trains_to_the_end_and_everybody_goes_home(
    fleet: Fleet, tiny: ModuleType, certificates: Callable[..., list[str]]
) -> None:
    fleet.security = certificates("server")
    server, address = fleet.server(rounds=150)
    devices = [fleet.client(address, index, security=certificates(f"device-{index}")) for index in range(2)]
    assert finish(server, *devices) == [0, 0, 0], fleet.log("server")
    assert fleet.state() == {"round": 150, "w": tiny.reference(150, 2)}
    np.testing.assert_allclose(tiny.reference(150, 2), [1.0, -2.0, 3.0], atol=0.05)
    assert "node device-1 joined" in fleet.log("server")
    assert "mutual TLS" in fleet.log("server")


def test_a_client_killed_in_the_middle_of_a_round_is_asked_again_when_it_is_back(
    fleet: Fleet, tiny: ModuleType, wait: Wait
) -> None:
    server, address = fleet.server(rounds=6, pace=0.25)
    steady, mortal = fleet.client(address, 0), fleet.client(address, 1)
    wait(lambda: len(fleet.calls(0)) >= 2)
    mortal.kill()
    mortal.wait(10)
    reborn = fleet.client(address, 1)
    assert finish(server, steady, reborn) == [0, 0, 0], fleet.log("server")
    assert fleet.state() == {"round": 6, "w": tiny.reference(6, 2)}
    # The other one did each round once, and node 1's rounds were done by two processes under one node id.
    assert [call.split()[0] for call in fleet.calls(0)] == ["1", "2", "3", "4", "5", "6"]
    assert len({call.split()[1] for call in fleet.calls(1)}) == 2
    assert "node node-1 is back" in fleet.log("server") or "takes over" in fleet.log("server")


def test_a_server_killed_in_the_middle_of_a_round_goes_on_with_the_clients_it_had(
    fleet: Fleet, tiny: ModuleType, wait: Wait
) -> None:
    server, address = fleet.server(rounds=5, pace=0.25)
    clients = [fleet.client(address, index) for index in range(2)]
    wait(lambda: fleet.state()["round"] >= 2)
    server.kill()
    server.wait(10)
    interrupted = fleet.state()["round"]
    server, _ = fleet.server(rounds=5, pace=0.25, address=address)
    assert finish(server, *clients) == [0, 0, 0], fleet.log("server")
    assert interrupted < 5
    assert fleet.state() == {"round": 5, "w": tiny.reference(5, 2)}
    assert len({call.split()[1] for call in fleet.calls(0)}) == 1, "the client process stayed warm"
    assert "lost the server" in fleet.log("client-0")


def test_a_client_that_is_gone_for_good_fails_the_round_instead_of_hanging_it(fleet: Fleet, wait: Wait) -> None:
    server, address = fleet.server(rounds=50, pace=0.2, options="--grace-s 1")
    steady, mortal = fleet.client(address, 0), fleet.client(address, 1)
    wait(lambda: fleet.calls(1))
    mortal.kill()
    killed = time.monotonic()
    assert finish(server) == [2]
    assert time.monotonic() - killed < 15
    last = fleet.log("server").strip().splitlines()[-1]
    assert last.startswith("error: the ServerApp failed: RuntimeError: round ")
    assert "node node-1 is gone and was not back within 1 s" in last
    assert "Traceback" not in fleet.log("server")
    assert steady.poll() is None, "told to come again, a client waits for the next server"


@pytest.mark.parametrize(
    ("security", "says"),
    [
        (["theirs", "ours"], "does not accept"),
        (["ours", "theirs"], "the certificate of the server at"),
        ([], "wants TLS; pass --ca, --cert and --key"),
    ],
)
def test_who_has_not_the_right_certificates_gets_one_line_and_exit_code_2(
    fleet: Fleet, certificates: Callable[..., list[str]], security: list[str], says: str
) -> None:
    fleet.security = certificates("server")
    server, address = fleet.server()
    client = fleet.client(address, 0, security=certificates("a", *security) if security else ["--insecure"])
    assert finish(client) == [2]
    log = fleet.log("client-0")
    assert log.strip().splitlines()[-1].startswith("error: ")
    assert says in log
    assert "Traceback" not in log
    assert "joined" not in fleet.log("server")
    assert server.poll() is None


def test_signals_stop_both_sides_at_once_and_free_the_port(fleet: Fleet, wait: Wait) -> None:
    server, address = fleet.server(rounds=5, pace=30.0)
    clients = [fleet.client(address, index) for index in range(2)]
    wait(lambda: fleet.log("server").count("joined") == 2)
    time.sleep(0.3)  # both are asleep in the middle of their call
    started = time.monotonic()
    clients[0].send_signal(signal.SIGINT)
    clients[1].send_signal(signal.SIGTERM)
    server.send_signal(signal.SIGINT)
    assert finish(*clients, server) == [130, 143, 130]
    assert time.monotonic() - started < 6
    for name in ("server", "client-0", "client-1"):
        assert "Traceback" not in fleet.log(name), fleet.log(name)
        assert "stopping on SIG" in fleet.log(name)
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(port)))


def test_a_taken_port_is_one_line_and_exit_code_2(fleet: Fleet) -> None:
    _, address = fleet.server()
    options = ["run", "--insecure", "--server-app", "tiny:server", "--address", address]
    second = fleet.command("amgt_fed_server", *options, log="second")
    assert finish(second) == [2]
    log = fleet.log("second")
    assert f"error: cannot listen at {address}: port {address.rpartition(':')[2]} is in use" in log
    assert "Traceback" not in log


def test_one_process_hosts_several_nodes(fleet: Fleet, tiny: ModuleType) -> None:
    server, address = fleet.server(rounds=3, clients=4)
    command = ["run", "--server", address, "--client-app", "tiny:client", "--insecure", "--once", "--state-dir", "-"]
    client = fleet.command("amgt_fed_clients", *command, "--nodes", "0-3", "--num-partitions", "4", log="client")
    assert finish(server, client) == [0, 0], fleet.log("server")
    assert fleet.state() == {"round": 3, "w": tiny.reference(3, 4)}
    assert len({fleet.calls(index)[0].split()[1] for index in range(4)}) == 1


def test_a_client_app_may_fork_while_streams_are_open(fleet: Fleet, tiny: ModuleType) -> None:
    server, address = fleet.server(rounds=6)
    clients = [fleet.client(address, index, options="--client-app tiny:forking") for index in range(2)]
    assert finish(server, *clients) == [0, 0, 0], fleet.log("server")
    assert fleet.state() == {"round": 6, "w": tiny.reference(6, 2)}


def test_debug_shows_the_traceback_wherever_it_stands(fleet: Fleet) -> None:
    options = ["run", "--insecure", "--server-app", "tiny:nothing", "--address", "127.0.0.1:0"]
    plain = fleet.command("amgt_fed_server", *options, log="plain")
    debug = fleet.command("amgt_fed_server", "--debug", *options, log="debug")
    assert finish(plain, debug) == [2, 2]
    assert "Traceback" not in fleet.log("plain")
    assert "Traceback" in fleet.log("debug")
    assert "has no attribute 'nothing'" in fleet.log("plain").splitlines()[-1]


@pytest.mark.slow
def test_the_benchmark_shows_the_targets_met(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "link.py"), "--json", "--nodes", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["round_ms"] < 50
    assert 0 < shown["socket_bytes_per_message"] < 500
    assert shown["server_rss_mib"] < 1024 / 4  # with 40 of the 1000 clients
    # The bytes the grid reports are nearly all there are on the socket, and never more.
    assert 0.9 < shown["counted_share"] < 1
