"""Child processes that never outlive the block that started them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from amgt_fed.engines import reaper
from amgt_fed.errors import EngineError

LOOPBACK = "127.0.0.1"
TERMINATED = 128 + signal.SIGTERM
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Child:
    """One started process and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Children:
    """Start processes inside a `with` block; at its end, however it ends, all of them are gone.

    Gone means the processes themselves, what they started in turn, and the ports they listened on: they are asked to
    end, and killed after `grace_s`. It holds for an exception, Ctrl-C (once or twice) and SIGTERM; and if this process
    is killed outright, a small guardian process does the same.

    Args:
        log_dir: each child's output goes to `log_dir/NAME.log`; created as needed.
        environment: the children's environment, complete; see `child_environment`.
        grace_s: how long children get to end by themselves.
        scratch: directories that the guardian removes, if it comes to that; in every other case they are the caller's.
    """

    def __init__(
        self, log_dir: Path, environment: Mapping[str, str], *, grace_s: float = 5.0, scratch: Sequence[Path] = ()
    ) -> None:
        self.log_dir = log_dir
        self._token = uuid.uuid4().hex
        self.environment = {**environment, reaper.MARK: self._token}
        self._grace_s = grace_s
        self._scratch = [str(directory) for directory in scratch]
        self._children: list[Child] = []
        self._guardian: subprocess.Popen[bytes] | None = None
        self._former_handler: signal.Handlers | int | None = None
        self._handles_sigterm = False

    def __enter__(self) -> Children:
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(f"cannot create the log directory {self.log_dir}: {error.strerror}") from error
        # -I: neither the user's PYTHON* variables nor this folder (it holds a ray.py) may get in the script's way.
        # Unmarked, for we may be a marked child ourselves: whoever kills us must leave our guardian to its work.
        unmarked = {name: value for name, value in os.environ.items() if name != reaper.MARK}
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, self._token, *self._scratch],
            stdin=subprocess.PIPE,
            env=unmarked,
            start_new_session=True,
        )
        if threading.current_thread() is threading.main_thread():
            handler = signal.signal(signal.SIGTERM, _exit_on_sigterm)
            self._former_handler = handler if isinstance(handler, signal.Handlers | int) else signal.SIG_DFL
            self._handles_sigterm = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop()
        finally:
            if self._handles_sigterm:
                signal.signal(signal.SIGTERM, self._former_handler)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
        """Start `command` in a session of its own, so that a Ctrl-C at the terminal reaches this process alone.

        Args:
            name: what error messages call it, and the stem of its log file.
            command: program and arguments.
            environment: variables on top of the block's own.

        Raises:
            EngineError: the program cannot be started.
        """
        log = self.log_dir / f"{name}.log"
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**self.environment, **(environment or {})},
                    start_new_session=True,
                )
        except OSError as error:
            raise EngineError(f"cannot start {name} ({command[0]}): {error.strerror}") from error
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def check(self, but: Child | None = None) -> None:
        """Raise `EngineError`, naming the child and the end of its log, if a child other than `but` has ended."""
        for child in self._children:
            if child is not but and (code := child.process.poll()) is not None:
                raise EngineError(
                    f"{child.name} stopped with exit code {code}: {telling_line(child.log)} (log: {child.log})"
                )

    def finish(self, child: Child) -> None:
        """Take note that `child` has ended and was meant to: `check` no longer looks at it.

        Raises:
            EngineError: it has not ended yet.
        """
        if child.process.poll() is None:
            raise EngineError(f"{child.name} (process {child.process.pid}) is still running")
        self._children.remove(child)

    def _stop(self) -> None:
        try:
            # Newest first: a node says good-bye to a server that still listens.
            for child in reversed(self._children):
                _signal_group(child, signal.SIGTERM)
            deadline = time.monotonic() + self._grace_s
            while time.monotonic() < deadline and self._is_anything_left():
                time.sleep(reaper.POLL_S)
        finally:  # a second Ctrl-C during the grace period comes here at once
            for child in self._children:
                _signal_group(child, signal.SIGKILL)
            reaper.kill_marked_processes(self._token)
            for child in self._children:
                child.process.wait()
            if self._guardian is not None:
                # It must not read its end of file as our death: there is nothing left for it to do.
                self._guardian.kill()
                self._guardian.communicate()

    def _is_anything_left(self) -> bool:
        running = [child for child in self._children if child.process.poll() is None]  # also reaps what has ended
        return bool(running) or bool(reaper.marked_processes(self._token))


def _signal_group(child: Child, number: signal.Signals) -> None:
    # Until poll() has reaped it, the child's process id, which is also its group's, cannot belong to anybody else.
    if child.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)


def _exit_on_sigterm(number: int, frame: FrameType | None) -> None:
    # The default action would end this process without leaving any `with` block.
    raise SystemExit(TERMINATED)


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Build the environment that lets children import what this process can, with one thread each.

    Args:
        extra: variables that win over this process's own; its PYTHONPATH goes first rather than replacing everything.
    """
    standard = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    standard |= {str(Path(sysconfig.get_path("platstdlib"), "lib-dynload"))}
    search = [
        *extra.get("PYTHONPATH", "").split(os.pathsep),
        *(str(Path(entry or ".").absolute()) for entry in sys.path),
    ]
    kept = [entry for entry in dict.fromkeys(search) if entry and entry not in standard and Path(entry).is_dir()]
    scripts = sysconfig.get_path("scripts")
    return {
        **os.environ,
        # The same sums in the same order on every engine: a thread pool splits them by its size.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
        **extra,
        "PYTHONPATH": os.pathsep.join(kept),
    }


def executable(name: str, package: str) -> str:
    """Find a command that `package` installs, beside this Python first.

    Raises:
        EngineError: it is not there; says what to install.
    """
    search = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    if (found := shutil.which(name, path=search)) is None:
        raise EngineError(
            f"the command {name!r} is not installed beside {sys.executable}; run: pip install '{package}'"
        )
    return found


def free_ports(count: int) -> list[int]:
    """Find `count` different TCP ports on loopback that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        # All are held until the last is found, or the system would hand the same one out twice.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]


def telling_line(log: Path, limit: int = 500) -> str:
    """Return the line of a log that says best why its process ended, without colours, at most `limit` characters.

    A port that is taken goes before the traceback it leads to; else it is the last line that speaks of an error, or
    the last line.
    """
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in plain(log.read_text(errors="replace")).splitlines() if line.strip()]
        for wanted in ("address already in use", "error", ""):
            if found := [line for line in lines if wanted in line.lower()]:
                return found[-1][-limit:]
    return "it wrote nothing"


def plain(text: str) -> str:
    """Strip terminal colour sequences."""
    return _COLOUR.sub("", text)
