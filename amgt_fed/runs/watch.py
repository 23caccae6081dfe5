"""Follow a run that another thread or process is writing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from amgt_fed.runs.directory import RunDirectory
from amgt_fed.runs.records import RoundRecord

_POLL_S = 0.1


@contextmanager
def watching(directory: RunDirectory, on_round: Callable[[RoundRecord], None] | None) -> Iterator[None]:
    """Call `on_round` from a thread for each line of `rounds.jsonl` that is there or comes, until the block ends.

    What `on_round` raises ends the calls, and is raised at the end of the block: the run itself goes on.
    """
    if on_round is None:
        yield
        return
    done = threading.Event()
    errors: list[Exception] = []

    def follow() -> None:
        try:
            _follow(directory, on_round, done)
        except Exception as error:  # the caller's function may raise anything; it is raised where the caller sees it
            errors.append(error)

    watcher = threading.Thread(target=follow, name="rounds", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(timeout=10)
    if errors:
        raise errors[0]


def _follow(directory: RunDirectory, on_round: Callable[[RoundRecord], None], done: threading.Event) -> None:
    last = 0
    offset = 0
    rest = b""
    over = False
    while not over:
        over = done.wait(_POLL_S)  # after the end, one more look: the last rounds may have come since
        try:
            if directory.rounds_path.stat().st_size < offset:
                offset, rest = 0, b""  # a resumed run cut the file
            with directory.rounds_path.open("rb") as file:
                file.seek(offset)
                new = file.read()
        except FileNotFoundError:
            continue
        offset += len(new)
        *lines, rest = (rest + new).split(b"\n")
        for line in lines:
            record = RoundRecord.from_dict(json.loads(line))
            if record.round > last:
                last = record.round
                on_round(record)
