"""What every engine is asked to do: run one ServerApp with so many client nodes until it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

RunConfigValue: TypeAlias = bool | int | float | str
"""What Flower allows as a value of a run configuration."""

SERVER_APP = "amgt_fed_server.app:app"
CLIENT_APP = "amgt_fed_clients.app:app"


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a ServerApp / ClientApp pair.

    The apps find everything in `run_config` (flat, dotted keys), which the engine hands to the ServerApp's and to
    every ClientApp's `Context`. Node i of n gets the node configuration {"partition-id": i, "num-partitions": n}.
    """

    run_config: Mapping[str, RunConfigValue]
    num_nodes: int
    run_dir: Path  # absolute; logs of child processes go to run_dir/"logs"
    server_app: str = SERVER_APP
    client_app: str = CLIENT_APP
    workers: int = 0  # parallel clients; 0: one per core
    environment: Mapping[str, str] = field(default_factory=dict)  # for child processes


Engine: TypeAlias = Callable[[Job], None]
"""Blocks until the ServerApp has returned. Raises EngineError, in one clear line, when it did not; whatever the
engine started is stopped before it returns or raises, KeyboardInterrupt included."""
