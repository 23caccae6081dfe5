"""What each device has done: last seen, rounds, bytes, failures; kept beside the roll and added up over all servers."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from amgt_fed.flower.link_grid import LinkGrid
from amgt_fed.link import node_id_of

from .fleet import Fleet
from .fleet_files import PRIVATE, FleetError, locked, write_file

log = logging.getLogger("amgt_fed.server.fleet")

EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Activity:
    """A device's counts since it was enrolled."""

    last_seen: float = 0.0  # seconds since 1970; 0: never
    rounds: int = 0
    failures: int = 0
    sent_bytes: int = 0  # to the device, on the socket; see `amgt_fed.link.Traffic`
    received_bytes: int = 0

    def plus(self, other: Activity) -> Activity:
        """Both together."""
        return Activity(
            max(self.last_seen, other.last_seen),
            self.rounds + other.rounds,
            self.failures + other.failures,
            self.sent_bytes + other.sent_bytes,
            self.received_bytes + other.received_bytes,
        )

    def since(self, before: Activity) -> Activity:
        """What was added after `before`."""
        return Activity(
            self.last_seen,
            self.rounds - before.rounds,
            self.failures - before.failures,
            self.sent_bytes - before.sent_bytes,
            self.received_bytes - before.received_bytes,
        )


class ActivityFile:
    """`activity.json` of a fleet's directory."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "activity.json"
        self._lock = folder / ".activity.lock"

    def read(self) -> dict[str, Activity]:
        """Every device's counts, by name; empty before the first server has run.

        Raises:
            FleetError: the file is damaged.
        """
        try:
            rows = json.loads(self._path.read_bytes())
            return {str(name): Activity(**row) for name, row in rows.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise FleetError(f"{self._path} is damaged ({error}); remove it: only these counts are lost") from error

    def add(self, news: dict[str, Activity]) -> None:
        """Add to every device's counts.

        Raises:
            FleetError: the file is damaged, or locked for long.
            OSError: the disk is full, say.
        """
        with locked(self._lock):
            rows = self.read()
            for name, activity in news.items():
                rows[name] = rows.get(name, Activity()).plus(activity)
            data = json.dumps({name: dataclasses.asdict(row) for name, row in sorted(rows.items())}, indent=1)
            write_file(self._path, data.encode() + b"\n", PRIVATE)


class ActivityRecorder:
    """Write down, while the `with` block lasts and at its end, what a grid's nodes do."""

    def __init__(
        self, fleet: Fleet, grid: LinkGrid, every_s: float = EVERY_S, now: Callable[[], float] = time.time
    ) -> None:
        self._file = ActivityFile(fleet.folder)
        self._grid = grid
        self._every_s = every_s
        self._now = now
        self._written: dict[str, Activity] = {}
        self._received: dict[str, int] = {}  # bytes from each node when it was last looked at
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="amgt-fleet-activity", daemon=True)

    def __enter__(self) -> ActivityRecorder:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self._write()
        self._write()

    def _write(self) -> None:
        counted = self._count()
        news = {name: activity.since(self._written.get(name, Activity())) for name, activity in counted.items()}
        news = {name: activity for name, activity in news.items() if activity != Activity()}
        if not news:
            return
        try:
            self._file.add(news)
        except (FleetError, OSError) as error:  # the counts are kept and written next time; training goes on
            log.warning("what the devices do cannot be written down: %s", error)
            return
        self._written |= counted

    def _count(self) -> dict[str, Activity]:
        """A process that hosts several nodes is one device."""
        present = set(self._grid.node_names().values())
        found: defaultdict[str, Activity] = defaultdict(Activity)
        for node, traffic in self._grid.traffic().nodes.items():
            tally = self._grid.tally.of(node_id_of(node))
            # One that came and went since then is not present, but was heard of.
            is_seen = node in present or traffic.received_bytes > self._received.get(node, 0)
            self._received[node] = traffic.received_bytes
            seen = self._now() if is_seen else 0.0
            device = node.partition("/")[0]
            found[device] = found[device].plus(
                Activity(seen, tally.rounds, tally.failures, traffic.sent_bytes, traffic.received_bytes)
            )
        return dict(found)
