"""A process that runs one run after the other, told by the comparison that started it.

    python -m amgt_fed.compare.worker SOCKET NUMBER

Each message is one JSON object. In: {"key", "path", "config"}. Out: {"worker": NUMBER}, {"event": "ready"}, then
for each run {"event": "round", "key", "round"}, and {"event": "end", "key", "error"}, empty where it finished.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from amgt_fed.errors import AMGTFedError
from amgt_fed.runs import RoundRecord


def main(address: str, number: int) -> None:
    """Serve until the other side closes the connection, as it does at its own end, whatever that is."""
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(address)
    link = Connection(channel.detach())

    def tell(**message: object) -> None:
        link.send_bytes(json.dumps(message).encode())

    tell(worker=number)
    from amgt_fed import api  # seconds

    tell(event="ready")
    while True:
        try:
            job = json.loads(link.recv_bytes())
        except EOFError:
            return
        key = job["key"]
        error = ""
        try:
            directory = Path(job["path"])
            started = (directory / "config.toml").exists()
            first: dict[str, Any] = {"resume": directory} if started else {"config": _config(job["config"], directory)}
            api.run(**first, on_round=partial(_tell_round, tell, key))
            for unneeded in ("clients", "checkpoint", "failure.json"):
                _remove(directory / unneeded)
        except (AMGTFedError, OSError) as known:
            error = str(known)
        except Exception as unknown:  # one run's fault, a task's of the user for instance, must not end the others
            traceback.print_exc()
            error = f"{type(unknown).__name__}: {unknown}"
        tell(event="end", key=key, error=error)


def _tell_round(tell: Callable[..., None], key: str, _: str, record: RoundRecord) -> None:
    tell(event="round", key=key, round=record.round)


def _config(flat: dict[str, Any], directory: Path) -> Any:
    from amgt_fed.config import from_flat

    return from_flat({**flat, "out": str(directory)})


def _remove(path: Path) -> None:
    """Drop what only an unfinished run needs: the clients' states are as large as the model, each."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
