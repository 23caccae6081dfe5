"""What an engine starts is gone when its block ends, in whichever way it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from amgt_fed.engines.processes import Child, Children, child_environment, executable, free_ports, telling_line
from amgt_fed.errors import EngineError

SLEEP = "import time; time.sleep(60)"
# Ignores the polite signal, and starts a daemon in a session of its own that outlives it.
STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(daemon.pid))
time.sleep(60)
"""


def is_alive(process_id: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not count."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.02)


def test_leaving_the_block_ends_children_and_the_daemons_they_left(tmp_path: Path) -> None:
    note = tmp_path / "daemon"
    with Children(tmp_path / "logs", child_environment({}), grace_s=0.3) as children:
        child = children.start("stubborn", [sys.executable, "-c", STUBBORN, str(note)])
        wait_for(lambda: note.exists() and note.read_text())
        daemon = int(note.read_text())
        assert is_alive(daemon)
    assert not is_alive(daemon)
    assert child.process.returncode == -signal.SIGKILL


def test_an_error_in_the_block_ends_the_children_and_passes_through(tmp_path: Path) -> None:
    children = Children(tmp_path, child_environment({}))

    def start_and_fail() -> None:
        started.append(children.start("sleeper", [sys.executable, "-c", SLEEP]))
        raise ZeroDivisionError

    started: list[Child] = []
    with pytest.raises(ZeroDivisionError), children:
        start_and_fail()
    assert started[0].process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_parent_ends_the_children(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import pathlib, sys, time
        from amgt_fed.engines.processes import Child, Children, child_environment
        if __name__ == "__main__":
            with Children(pathlib.Path({str(tmp_path)!r}), child_environment({{}}), grace_s=0.3) as children:
                child = children.start("c", [sys.executable, "-c", {STUBBORN!r}, {str(tmp_path / "daemon")!r}])
                pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.process.pid))
                time.sleep(60)
        """)
    )
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    notes = [tmp_path / "child", tmp_path / "daemon"]
    wait_for(lambda: all(note.exists() and note.read_text() for note in notes))
    started = [int(note.read_text()) for note in notes]
    assert all(is_alive(process_id) for process_id in started)
    parent.send_signal(number)
    parent.wait(timeout=15)
    wait_for(lambda: not any(is_alive(process_id) for process_id in started))


def test_a_child_that_stops_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Children(tmp_path, child_environment({})) as children:
        child = children.start("node-3", [sys.executable, "-c", "import sys; print('no such disk'); sys.exit(7)"])
        child.process.wait(timeout=15)
        with pytest.raises(EngineError, match=r"node-3 stopped with exit code 7: no such disk .*node-3\.log"):
            children.check()
        children.finish(child)
        children.check()


def test_a_child_still_running_cannot_be_called_finished(tmp_path: Path) -> None:
    with Children(tmp_path, child_environment({})) as children:
        child = children.start("sleeper", [sys.executable, "-c", SLEEP])
        children.check()
        with pytest.raises(EngineError, match=r"sleeper .* is still running"):
            children.finish(child)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        Children(tmp_path, child_environment({})) as children,
        pytest.raises(EngineError, match=r"cannot start ghost .*/no/such/program.*No such file"),
    ):
        children.start("ghost", ["/no/such/program"])


def test_a_log_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file, not a directory")
    with pytest.raises(EngineError, match="cannot create the log directory"), Children(tmp_path / "logs", {}):
        pass


def test_children_import_what_their_parent_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "given").mkdir()
    (tmp_path / "own" / "my_module.py").write_text("VALUE = 'own'")
    (tmp_path / "given" / "their_module.py").write_text("VALUE = 'given'")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.chdir(tmp_path / "own")
    environment = child_environment({"PYTHONPATH": str(tmp_path / "given"), "COLOUR": "red"})
    code = "import my_module, their_module, os; print(my_module.VALUE, their_module.VALUE, os.environ['COLOUR'])"
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["own", "given", "red"]


def test_children_compute_with_one_thread() -> None:
    out = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.get_num_threads())"],
        env=child_environment({}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "1"


def test_a_missing_command_says_what_to_install() -> None:
    with pytest.raises(EngineError, match=r"'no-such-command' is not installed .* pip install 'amgt-fed\[ray\]'"):
        executable("no-such-command", "amgt-fed[ray]")


def test_free_ports_are_distinct_and_can_be_bound() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    for port in ports[:5]:
        with socket.socket() as one:
            one.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("first\n\x1b[91mERROR\x1b[0m:  disk full\nshutting down\n  \n", "ERROR:  disk full"),
        ("Traceback\n  File x\nValueError: no such key\n", "ValueError: no such key"),
        (
            "[Errno 98] address already in use\nstop\nRuntimeError: failed to start\n",
            "[Errno 98] address already in use",
        ),
        ("starting\nbye\n", "bye"),
        ("", "it wrote nothing"),
        ("x" * 2000, "x" * 500),
    ],
)
def test_the_telling_line_of_a_log_is_free_of_colours_and_bounded(tmp_path: Path, text: str, line: str) -> None:
    log = tmp_path / "log"
    assert telling_line(log) == "it wrote nothing"
    log.write_text(text)
    assert telling_line(log) == line
