"""Run one small federation whole, then kill and resume it at many instants; say as JSON which ended alike.

A program of its own: it imports everything once and forks for each case, and the forks kill themselves.

    python tests/helpers/killed_runs.py FOLDER
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amgt_fed_clients.store as store
import amgt_fed_server.federation as federation

from amgt_fed import run
from amgt_fed.runs.directory import RunDirectory

KEYS: dict[str, Any] = {
    "rounds": 4,
    "partition": {"num_clients": 5},
    "federation": {"clients_per_round": 3},
    "client": {"steps": 2},
    "baseline": {"run": False},
}


def die(*_: Any, **__: Any) -> None:
    """End this process as a power cut would: nothing is flushed, closed or cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def on_call(owner: Any, name: str, number: int, *, before: bool) -> Callable[[], None]:
    """Die at the `number`-th call of `owner.name`, before or after it does its work."""

    def install() -> None:
        real, count, lock = getattr(owner, name), [0], threading.Lock()

        def counted(*arguments: Any, **keywords: Any) -> Any:
            with lock:
                count[0] += 1
                mine = count[0]
            if before and mine == number:
                die()
            result = real(*arguments, **keywords)
            if mine == number:
                die()
            return result

        setattr(owner, name, counted)

    return install


def after_lines(lines: int, delay_s: float) -> Callable[[], None]:
    """Die `delay_s` seconds after round `lines` was written."""

    def install() -> None:
        real = RunDirectory.append_round

        def counted(self: RunDirectory, record: Any) -> None:
            real(self, record)
            if record.round == lines:
                threading.Timer(delay_s, die).start()

        RunDirectory.append_round = counted  # type: ignore[method-assign]

    return install


DIGITS, TINY = "digits", "tests.helpers.tiny_task:Tiny"

DEATHS = {
    # `save_checkpoint` is called once before round 1, then after each round.
    "before the first checkpoint": on_call(federation, "save_checkpoint", 1, before=True),
    "between rounds 2 and 3, line and checkpoint written": on_call(federation, "save_checkpoint", 3, before=False),
    "after round 2, line written, checkpoint not": on_call(federation, "save_checkpoint", 3, before=True),
    "in round 2, one client's state not yet saved": on_call(store.ClientStore, "save", 5, before=True),
    "in round 3, every client's state saved, step not taken": on_call(store.ClientStore, "save", 9, before=False),
    "after the last round, no summary": on_call(RunDirectory, "write_summary", 1, before=True),
    "some time in round 2": after_lines(1, random.Random(1).uniform(0.0, 0.1)),
    "some time in round 4": after_lines(3, random.Random(2).uniform(0.0, 0.02)),
}
ON_DIGITS = {"between rounds 2 and 3, line and checkpoint written", "some time in round 2"}
MOVED = {"between rounds 2 and 3, line and checkpoint written"}


def forked(work: Callable[[], str]) -> tuple[str, int]:
    """What `work` returned in a process of its own, and how that process ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            os.write(write, work().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    return text, os.waitpid(child, 0)[1]


def main(folder: Path) -> None:
    """Print {task: hash of the uninterrupted run, case: "same" or what else came of it}."""
    federation.write_report = lambda directory: directory.report_path  # tested elsewhere, a second each
    hashes = {}
    for task in (DIGITS, TINY):
        out = folder / task.rpartition(":")[2]
        # In this process, so that the forks find everything imported: torch alone takes two seconds to train at first.
        hashes[task] = run(**KEYS, task=task, out=out).summary.model_sha256
    for number, (name, install) in enumerate(DEATHS.items()):
        out = folder / str(number)
        task = DIGITS if name in ON_DIGITS else TINY

        def killed(install: Callable[[], None] = install, out: Path = out, task: str = task) -> str:
            install()
            run(**KEYS, task=task, out=out)
            return "survived"

        text, status = forked(killed)
        if text or status != signal.SIGKILL:
            hashes[name] = f"was to be killed, but {text or status}"
            continue
        if name in MOVED:
            out = out.rename(folder / "moved elsewhere")
        resumed = forked(lambda out=out: _resumed(out))[0]
        hashes[name] = "same" if resumed == hashes[task] else resumed
    print(json.dumps(hashes))


def _resumed(out: Path) -> str:
    result = run(resume=out)
    numbers = [record.round for record in result.rounds]
    return result.summary.model_sha256 if numbers == [1, 2, 3, 4] else f"rounds.jsonl holds rounds {numbers}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
