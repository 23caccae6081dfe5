"""systemd is told that a service is ready and alive, as sd_notify(3) says."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amgt_fed.cli.notify import Watchdog, notify, watchdog_interval_s


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that systemd listens at."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@amgt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


def test_ready_alive_and_stopping_are_told(systemd: socket.socket) -> None:
    def at_once(callback: Callable[[], None]) -> None:
        callback()

    with Watchdog(at_once, 0.02):
        told = [systemd.recv(100) for _ in range(3)]
    assert told == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    while (last := systemd.recv(100)) == b"WATCHDOG=1":
        pass
    assert last == b"STOPPING=1"


def test_a_loop_that_hangs_is_not_called_alive(systemd: socket.socket) -> None:
    asked = threading.Event()

    def never(callback: Callable[[], None]) -> None:
        asked.set()

    with Watchdog(never, 0.01):
        assert asked.wait(5)
        time.sleep(0.1)
    assert [systemd.recv(100), systemd.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_a_container_sees_it_by_the_age_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr("amgt_fed.cli.notify.ALIVE_EVERY_S", 0.02)
    alive, hangs = tmp_path / "alive", threading.Event()

    def loop(callback: Callable[[], None]) -> None:
        if not hangs.is_set():
            callback()

    with Watchdog(loop, None, alive):
        first = alive.stat().st_mtime_ns
        deadline = time.monotonic() + 5
        while alive.stat().st_mtime_ns == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        hangs.set()
        time.sleep(0.1)
        last = alive.stat().st_mtime_ns
        time.sleep(0.2)
        assert alive.stat().st_mtime_ns == last
    assert not alive.exists()


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})


def test_the_interval_is_half_of_the_units_and_only_for_the_main_process() -> None:
    assert watchdog_interval_s({}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "60000000"}) == 30.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}) == 30.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "x"}) is None
