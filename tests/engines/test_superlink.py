"""The SuperLink both Flower engines stand on: what goes wrong is told in one line, and told of the right process."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from amgt_fed.engines import processes, superlink
from amgt_fed.engines.job import Job
from amgt_fed.errors import ConfigError, EngineError


@pytest.mark.slow
def test_an_error_of_the_server_app_comes_back_as_one_line(
    probe: Callable[..., Job], tmp_path: Path, processes_of: Callable[[Path], dict[int, str]]
) -> None:
    expected = r"^round 1: the moon is not full; wait two weeks \(log: .*flwr-run\.log\)$"
    with superlink.superlink(probe(mode="raise")) as (link, _), pytest.raises(EngineError, match=expected):
        link.run()
    assert processes_of(tmp_path) == {}


@pytest.mark.slow
def test_a_superlink_that_dies_during_the_run_is_named(
    probe: Callable[..., Job],
    tmp_path: Path,
    processes_of: Callable[[Path], dict[int, str]],
    wait_for: Callable[..., None],
) -> None:
    def kill_once_started() -> None:
        wait_for((tmp_path / "started").exists)
        (server,) = [one for one, command in processes_of(tmp_path).items() if "flower-superlink" in command]
        os.kill(server, signal.SIGKILL)

    killer = threading.Thread(target=kill_once_started)
    killer.start()
    expected = r"^superlink stopped with exit code -9: .*superlink\.log\)$"
    with superlink.superlink(probe(mode="hang")) as (link, _), pytest.raises(EngineError, match=expected):
        link.run()
    killer.join()
    assert processes_of(tmp_path) == {}


def test_an_app_that_is_not_there_is_named(probe: Callable[..., Job]) -> None:
    expected = r"^flwr run was refused: .* Unable to load module no_such_module \(log: .*flwr-run\.log\)$"
    with (
        superlink.superlink(probe(client_app="no_such_module:app")) as (link, _),
        pytest.raises(EngineError, match=expected),
    ):
        link.run()


def test_a_port_in_use_is_named(probe: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((processes.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(superlink, "free_ports", lambda count: [port])
        expected = rf"^superlink stopped with exit code 1: .*{port}.* address already in use"
        with pytest.raises(EngineError, match=expected), superlink.superlink(probe()):
            pass


def test_a_job_without_nodes_is_refused_before_anything_starts(probe: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 nodes"), superlink.superlink(probe(0)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_that_cannot_be_written_is_named(probe: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "flower").write_text("a file, not a directory")
    with pytest.raises(EngineError, match=r"^cannot write to .*/flower: Not a directory"), superlink.superlink(probe()):
        pass


def test_waiting_is_bounded_and_says_for_what(tmp_path: Path) -> None:
    with (
        processes.Children(tmp_path, processes.child_environment({})) as children,
        pytest.raises(EngineError, match=r"gave up after 0 s of waiting for the moon \(logs: "),
    ):
        superlink.wait_until(lambda: False, "the moon", children, timeout_s=0.2)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "╭─ Error ────╮\n│ No such    │\n│ app.       │\n│            │\n│ Help text. │\n╰────────────╯\n",
            "No such app.",
        ),
        ("starting\nhttpx.ConnectError: refused\n", "httpx.ConnectError: refused"),
    ],
)
def test_a_refusal_is_the_first_paragraph_of_the_frame_or_the_telling_line(
    tmp_path: Path, text: str, line: str
) -> None:
    (tmp_path / "log").write_text(text)
    assert superlink.refusal(tmp_path / "log") == line
