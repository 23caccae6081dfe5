"""What devices did is added up over servers and restarts, and never counted twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from amgt_fed.flower.link_grid import LinkGrid
from amgt_fed.flower.tally import NodeTally
from amgt_fed.link import TrafficReport, node_id_of
from amgt_fed.link.traffic import Traffic
from server.fleet import Fleet
from server.fleet_activity import Activity, ActivityFile, ActivityRecorder
from server.fleet_files import FleetError


class Grid:
    """What a recorder asks of a grid."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.sent: dict[str, int] = {}
        self.tallies: dict[str, NodeTally] = {}
        ids = {node_id_of(name): name for name in ("a", "host/0", "host/1")}
        self.tally = SimpleNamespace(of=lambda node: self.tallies.get(ids[node], NodeTally()))

    def node_names(self) -> dict[int, str]:
        return {node_id_of(name): name for name in self.present}

    def traffic(self) -> TrafficReport:
        return TrafficReport({name: Traffic(sent_bytes=sent) for name, sent in self.sent.items()})


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.init(tmp_path / "fleet", ["h"])


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def recorder(fleet: Fleet, grid: Grid, now: Callable[[], float] = lambda: 100.0) -> ActivityRecorder:
    return ActivityRecorder(fleet, cast(LinkGrid, grid), every_s=0.02, now=now)


def test_counts_are_added_up_over_nodes_of_a_device_and_over_restarts(fleet: Fleet) -> None:
    grid, file = Grid(), ActivityFile(fleet.folder)
    grid.present, grid.sent = {"a", "host/0", "host/1"}, {"a": 10, "host/0": 5, "host/1": 6}
    grid.tallies = {"a": NodeTally(2, 1), "host/0": NodeTally(3), "host/1": NodeTally(4)}
    with recorder(fleet, grid):
        eventually(lambda: file.read().get("a"))
        grid.tallies["a"] = NodeTally(5, 1)
        grid.sent["a"] = 30
    assert file.read() == {"a": Activity(100.0, 5, 1, 30), "host": Activity(100.0, 7, 0, 11)}
    with recorder(fleet, grid, now=lambda: 200.0):  # a second server, which counts from zero
        pass
    assert file.read()["a"] == Activity(200.0, 10, 2, 60)


def test_a_device_that_is_gone_is_not_seen(fleet: Fleet) -> None:
    grid, file, clock = Grid(), ActivityFile(fleet.folder), [100.0]
    grid.present, grid.sent = {"a"}, {"a": 1}
    with recorder(fleet, grid, now=lambda: clock[0]):
        eventually(lambda: file.read().get("a"))
        grid.present = set()
        time.sleep(0.1)
        clock[0] = 500.0
    assert file.read()["a"].last_seen == 100.0


def test_counts_that_cannot_be_written_are_written_later(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grid, file = Grid(), ActivityFile(fleet.folder)
    grid.present, grid.sent = {"a"}, {"a": 7}

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with recorder(fleet, grid):
        with monkeypatch.context() as patch:
            patch.setattr("server.fleet_activity.write_file", full)
            eventually(lambda: "No space left" in caplog.text)
        eventually(lambda: file.read().get("a"))
    assert file.read()["a"].sent_bytes == 7


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', '{"a": {"x": 1}}'])
def test_a_damaged_file_is_named(fleet: Fleet, damage: str) -> None:
    (fleet.folder / "activity.json").write_text(damage)
    with pytest.raises(FleetError, match=r"activity\.json is damaged"):
        ActivityFile(fleet.folder).read()
