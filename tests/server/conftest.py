"""Federations of tiny clients in this process, some of which misbehave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from amgt_fed.config import RunConfig, from_flat, to_flat
from amgt_fed.flower.local_grid import LocalGrid
from amgt_fed.runs import RunDirectory, RunSummary
from clients.app import app
from server.federation import run_federation

Fate = Callable[[Message, Context], Message]
"""What a client does instead of answering as it should."""


@dataclass
class World:
    """A federation and what happens in it.

    `fates` maps (message type, client, round) to a fate; a round of None means every round.
    """

    folder: Path
    keys: dict[str, Any] = field(default_factory=dict)
    fates: dict[tuple[str, int, int | None], Fate] = field(default_factory=dict)
    calls: list[tuple[str, int, int]] = field(default_factory=list)
    nodes: int = 4

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.folder / "run")

    @property
    def config(self) -> RunConfig:
        base = {
            "task": "tests.helpers.tiny_task:Tiny",
            "rounds": 3,
            "out": str(self.directory.path),
            "partition.num_clients": 4,
            "partition.scheme": "iid",
            "federation.clients_per_round": 4,
            "federation.wait_for_clients_s": 20.0,
            "federation.deadline_s": 20.0,
            "client.lr": 0.05,
            "client.epochs": 1,
            "codec.uplink": "deadzone",
            "codec.downlink": "deadzone",
            "codec.uplink_budget": "nmse=0.3",
            "codec.downlink_budget": "nmse=0.3",
        }
        return from_flat({**base, **self.keys})

    def __call__(self, message: Message, context: Context) -> Message:
        client, kind = int(context.node_config["partition-id"]), message.metadata.message_type
        round = int(message.metadata.group_id)
        self.calls.append((kind, client, round))
        fate = self.fates.get((kind, client, round)) or self.fates.get((kind, client, None)) or app
        return fate(message, context)

    def run(self, **keys: Any) -> RunSummary:
        self.keys.update(keys)
        config = self.config
        with LocalGrid(self, self.nodes, to_flat(config), workers=3, parallel=True) as grid:  # type: ignore[arg-type]
            return run_federation(grid, config)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("server.federation.write_report", lambda directory: directory.report_path)  # a second each
    return World(tmp_path)
