"""Runs on several processes at once, one run each at a time."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from amgt_fed.compare.plan import Cell
from amgt_fed.config import to_flat
from amgt_fed.engines.processes import Child, Children, child_environment, telling_line
from amgt_fed.errors import EngineError

POLL_S = 0.5
_STARTS = 3
"""Workers that may end before they are ready, one after the other, until it is no accident."""


class Worker:
    """One process, and what it is busy with."""

    def __init__(self, number: int, child: Child) -> None:
        self.number = number
        self.child = child
        self.link: Connection | None = None
        self.is_ready = False
        self.cell: Cell | None = None


class Pool:
    """Processes that run cells; all of them are gone when the `with` block ends, however it ends.

    Args:
        jobs: processes at most.
        root: of the comparison; each process writes to `root/logs/worker-N.log`.
    """

    def __init__(self, jobs: int, root: Path) -> None:
        self._jobs = jobs
        self._root = root
        self._workers: list[Worker] = []
        self._started = 0
        self._lost_starts = 0
        # In the system's own temporary directory: a socket's path may have about 100 characters.
        self._scratch = tempfile.TemporaryDirectory(prefix="amgt-compare-")
        self._listener = socket.socket(socket.AF_UNIX)
        self._children = Children(root / "logs", child_environment({}), scratch=[Path(self._scratch.name)])

    def __enter__(self) -> Pool:
        self._listener.bind(self._address)
        self._listener.listen()
        self._children.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._children.__exit__(kind, error, trace)
        finally:
            for worker in self._workers:
                if worker.link is not None:
                    worker.link.close()
            self._listener.close()
            self._scratch.cleanup()

    @property
    def running(self) -> list[Cell]:
        """What the processes are busy with."""
        return [worker.cell for worker in self._workers if worker.cell is not None]

    def work(
        self,
        wanted: Callable[[], Sequence[Cell]],
        on_round: Callable[[Cell, int], None],
        on_end: Callable[[Cell, str], None],
    ) -> None:
        """Run what `wanted` names until it names nothing more.

        Args:
            wanted: asked again and again for the runs still to be done; those that are running may be among them.
            on_round: called with a run and the number of the round it has ended.
            on_end: called with a run that is over, and what went wrong; nothing for a run that finished.

        Raises:
            EngineError: the processes cannot be started.
        """
        while True:
            busy = {cell.key for cell in self.running}
            waiting = [cell for cell in wanted() if cell.key not in busy]
            for worker in self._workers:
                if worker.is_ready and worker.cell is None and waiting:
                    self._hand_over(worker, waiting.pop(0))
            if not waiting and not self.running:
                return
            coming = sum(not worker.is_ready for worker in self._workers)
            for _ in range(min(len(waiting) - coming, self._jobs - len(self._workers))):
                self._start()
            self._listen(on_round, on_end)

    @property
    def _address(self) -> str:
        return str(Path(self._scratch.name) / "socket")

    def _start(self) -> None:
        self._started += 1
        number = self._started
        command = [sys.executable, "-m", "amgt_fed.compare.worker", self._address, str(number)]
        self._workers.append(Worker(number, self._children.start(f"worker-{number}", command)))

    def _hand_over(self, worker: Worker, cell: Cell) -> None:
        assert worker.link is not None
        worker.cell = cell
        job = {"key": cell.key, "path": str(self._root / cell.key), "config": to_flat(cell.config)}
        with contextlib.suppress(OSError):  # it has died since; `_listen` finds the end of its connection
            worker.link.send_bytes(json.dumps(job).encode())

    def _listen(self, on_round: Callable[[Cell, int], None], on_end: Callable[[Cell, str], None]) -> None:
        links: dict[Any, Worker] = {worker.link: worker for worker in self._workers if worker.link is not None}
        for ready in wait([self._listener, *links], timeout=POLL_S):
            if ready is self._listener:
                self._accept()
                continue
            worker = links[ready]
            try:
                assert worker.link is not None
                message = json.loads(worker.link.recv_bytes())
            except (EOFError, OSError):
                worker.child.process.kill()  # it is dying, or useless; `_bury` below
                worker.child.process.wait()
                continue
            if message["event"] == "ready":
                worker.is_ready = True
                self._lost_starts = 0
            elif message["event"] == "round" and worker.cell is not None:
                on_round(worker.cell, message["round"])
            elif message["event"] == "end" and worker.cell is not None:
                cell, worker.cell = worker.cell, None
                on_end(cell, message["error"])
        for worker in [worker for worker in self._workers if worker.child.process.poll() is not None]:
            self._bury(worker, on_end)

    def _accept(self) -> None:
        channel, _ = self._listener.accept()
        link = Connection(channel.detach())
        number = json.loads(link.recv_bytes())["worker"]  # sent at once: it does nothing before
        next(worker for worker in self._workers if worker.number == number).link = link

    def _bury(self, worker: Worker, on_end: Callable[[Cell, str], None]) -> None:
        self._workers.remove(worker)
        code = worker.child.process.returncode
        cause = f"its process was killed by signal {-code}" if code < 0 else f"its process ended with code {code}"
        text = f"{cause}: {telling_line(worker.child.log)} (log: {worker.child.log})"
        if worker.link is not None:
            worker.link.close()
        self._children.finish(worker.child)
        if not worker.is_ready:
            self._lost_starts += 1
            if self._lost_starts >= _STARTS:
                raise EngineError(f"worker processes cannot start: {text}")
        if worker.cell is not None:
            on_end(worker.cell, text)
