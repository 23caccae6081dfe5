"""Tell that a service is ready and alive: to systemd, as sd_notify(3) says, and to a container's probe, by a file."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

log = logging.getLogger("amgt_fed")

ALIVE_EVERY_S = 5.0


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send one state, e.g. READY=1; False where nobody asked for it, or nobody listens."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), f"\0{path[1:]}" if path.startswith("@") else path)
    except OSError as error:
        log.warning("cannot tell systemd %s: %s", state, error)
        return False
    return True


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """How often to say that we are alive: half of what the unit's WatchdogSec allows; None without one."""
    microseconds, owner = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or (owner and owner != str(os.getpid())):
        return None
    return int(microseconds) / 2e6


class Watchdog:
    """Say that we are alive as long as an event loop runs what it is given, and no longer.

    systemd is told WATCHDOG=1, and `alive_file` is touched; whoever watches then restarts the service. The loop and not
    the app is watched: a round may take hours, but a connection is answered at once or never.

    Args:
        call_soon: hands a function to the event loop; may raise once the loop is closed.
        interval_s: how often to tell systemd; None: it does not ask.
        alive_file: touched every few seconds, and removed at the end.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        interval_s: float | None = None,
        alive_file: Path | None = None,
    ) -> None:
        self._call_soon = call_soon
        self._alive_file = alive_file
        intervals = [each for each in (interval_s, ALIVE_EVERY_S if alive_file is not None else None) if each]
        self._interval_s = min(intervals, default=None)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="amgt-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        notify("READY=1")
        if self._alive_file is not None:
            self._alive_file.touch()
        if self._interval_s is not None:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        notify("STOPPING=1")
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._alive_file is not None:
            self._alive_file.unlink(missing_ok=True)

    def _run(self) -> None:
        assert self._interval_s is not None
        while not self._over.wait(self._interval_s):
            try:
                self._call_soon(self._ping)
            except Exception:  # the loop is gone, and the service is about to end or to be restarted
                return

    def _ping(self) -> None:
        notify("WATCHDOG=1")
        if self._alive_file is not None:
            self._alive_file.touch()
