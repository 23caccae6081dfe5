"""End every process that carries a mark in its environment; as a script, as soon as its standard input closes.

The script's arguments are the mark, and directories to remove once the processes are gone.

The mark is inherited by children's children, daemons included, so nothing that an engine started can hide behind a
new session or a dead parent. Standard library only: the script starts in about 20 ms and must not import the package.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "AMGT_FED_ENGINE_PROCESS"
"""Environment variable whose value says which `Children` block a process belongs to."""

POLL_S = 0.02


def marked_processes(token: str) -> list[int]:
    """List the process ids whose environment holds `MARK=token`, this process left out.

    Reads /proc, so it finds nothing where there is none (macOS); process groups are what is left to stop there.
    """
    needle = f"{MARK}={token}\0".encode()
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            # A process of another user, or one that has just ended, is none of ours.
            with contextlib.suppress(OSError):
                if needle in Path(entry.path, "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def end_marked_processes(token: str, grace_s: float) -> None:
    """Ask every marked process to end (SIGTERM), then kill those that are left after `grace_s` seconds."""
    _signal_all(marked_processes(token), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and marked_processes(token):
        time.sleep(POLL_S)
    kill_marked_processes(token)


def kill_marked_processes(token: str) -> None:
    """Kill every marked process, and again, until none is left that was started in between."""
    while left := marked_processes(token):
        _signal_all(left, signal.SIGKILL)
        time.sleep(POLL_S)


def _signal_all(process_ids: list[int], number: signal.Signals) -> None:
    for process_id in process_ids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, number)


if __name__ == "__main__":
    # The other end of standard input is held by the engine's process alone: it closes when that ends, however it ends.
    sys.stdin.buffer.read()
    end_marked_processes(sys.argv[1], grace_s=3.0)
    for directory in sys.argv[2:]:
        shutil.rmtree(directory, ignore_errors=True)
