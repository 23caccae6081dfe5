"""What a client process keeps warm between rounds: the task, the clients' data, one module per thread."""

from __future__ import annotations

import copy
import os
import threading
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import Context

from amgt_fed.config import from_flat
from amgt_fed.errors import ConfigError
from amgt_fed.federated.budgets import LinkBudgets, size_budget
from amgt_fed.federated.client import ClientState, Compression
from amgt_fed.layout import Float32Vector, Layout
from amgt_fed.setup import Setup, build
from amgt_fed.tasks import FlatModel

from .reproducible import ReproducibleRunner
from .store import ClientStore

_CACHED_CLIENTS = 256


class Session:
    """One configuration's warm objects, shared by all rounds and threads of this process."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._threads = threading.local()
        self._pattern = setup.fresh_model()  # never trained: each thread copies it, for building draws random numbers
        self.layout: Layout = self._pattern.layout
        self.initial: Float32Vector = self._pattern.read()
        self.reproducibly = ReproducibleRunner()
        self.needs_steps = setup.downlink().codec is not None  # so x_k must be kept between rounds
        self.data = lru_cache(_CACHED_CLIENTS)(setup.task.client_data)

    def model(self) -> FlatModel:
        """This thread's module; its parameters are whatever the last call left."""
        model: FlatModel | None = getattr(self._threads, "model", None)
        if model is None:
            module = copy.deepcopy(self._pattern.module)
            model = self._threads.model = FlatModel(module, self.setup.device)
        return model

    def fresh_state(self, run: int) -> ClientState:
        """The state of a client that has taken part in nothing: it holds the seeded initial model."""
        return ClientState(run=run, round=1, model=self.initial)


_lock = threading.Lock()
_sessions: dict[tuple[object, ...], Session] = {}


def session_for(context: Context) -> Session:
    """The session of a context's configuration, built when first asked for."""
    config = context.run_config
    own = (str(context.node_config.get("data-dir", "")), str(context.node_config.get("device", "")))
    key = (*own, *sorted(config.items()))
    with _lock:
        if key not in _sessions:
            # One run at a time: a long-lived process would otherwise keep the data of every run it ever served.
            _sessions.clear()
            _sessions[key] = Session(build(from_flat(config), data_dir=own[0], device=own[1]))
        return _sessions[key]


def client_number(context: Context) -> int:
    """Which client of the federation this node is: its `partition-id`.

    Raises:
        ConfigError: the node configuration has none.
    """
    value: Any = context.node_config.get("partition-id")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(
            f"this node's partition-id is {value!r}; start it with --partition-id N, or as a SuperNode with "
            '--node-config "partition-id=N num-partitions=M"'
        )
    return value


def compression_for(session: Session, context: Context, client: int) -> Compression:
    """How this client encodes: as the run says, and within what its link allows, by the run's table or its own word.

    Raises:
        ConfigError: the node's own `uplink-budget` is not understood.
    """
    caps = [LinkBudgets.parse(session.setup.config.codec.link_budgets).of(client)]
    if own := context.node_config.get("uplink-budget"):
        caps.append(size_budget(str(own)))
    return replace(session.setup.compression(), caps=tuple(cap for cap in caps if cap is not None))


def store_for(context: Context, client: int) -> ClientStore:
    """Where this client keeps its state: its own state directory, the run directory, or the user's state home."""
    own = context.node_config.get("state-dir")
    out = context.run_config.get("out")
    if own:
        root, durable = Path(str(own)), True
    elif out:
        root, durable = Path(str(out)) / "clients", False
    else:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        root, durable = Path(home) / "amgt-fed" / f"run-{context.run_id}", False
    return ClientStore(root.expanduser() / f"client-{client:05d}", durable=durable)
