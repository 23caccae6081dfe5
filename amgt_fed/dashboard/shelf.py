"""Which runs are shown: the directories that were named, and those that appear in the folders that were named."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from amgt_fed.dashboard.feed import RunFeed
from amgt_fed.errors import StateError
from amgt_fed.runs import RunDirectory


class Shelf:
    """The runs under some paths, each a run directory or a folder of them; looked at anew by each `feeds`.

    Raises:
        StateError: a path does not exist.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if not path.is_dir():
                raise StateError(f"there is no folder {path}; name a run directory or a folder of runs")
        self._paths = [path.resolve() for path in paths]
        self._feeds: dict[Path, RunFeed] = {}
        self._lock = threading.Lock()

    def feeds(self) -> list[RunFeed]:
        """All runs, each brought up to date, those named first and then by path."""
        feeds = self._known()
        for feed in feeds:
            feed.refresh()
        return feeds

    def feed(self, id: str) -> RunFeed | None:
        """The run the page calls `id`, up to date; None if there is none (any more)."""
        found = next((feed for feed in self._known() if feed.id == id), None)
        if found is not None:
            found.refresh()
        return found

    def _known(self) -> list[RunFeed]:
        with self._lock:
            for path in self._found():
                if path not in self._feeds:
                    self._feeds[path] = RunFeed(self._free_name(path), RunDirectory(path))
            for path in [path for path in self._feeds if not _is_run(path)]:
                del self._feeds[path]  # deleted while the page is open
            return list(self._feeds.values())

    def _found(self) -> list[Path]:
        found = []
        for path in self._paths:
            runs = [path] if _is_run(path) else sorted(p.parent for p in path.glob("*/config.toml"))
            for run in runs:
                found.append(run)
                if _is_run(run / "baseline"):
                    found.append(run / "baseline")
        return found

    def _free_name(self, path: Path) -> str:
        """Short and unique; never with a slash, for it stands in addresses."""
        own = f"{path.parent.name} (FedAvg)" if path.name == "baseline" else path.name
        taken = {feed.id for feed in self._feeds.values()}
        name, number = own, 2
        while name in taken:
            name, number = f"{own} #{number}", number + 1
        return name


def _is_run(path: Path) -> bool:
    return (path / "config.toml").is_file()
