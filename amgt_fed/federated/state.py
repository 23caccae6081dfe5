"""What the server carries from round to round, and what it knows of each client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from amgt_fed.federated.messages import StepRecord
from amgt_fed.layout import Float32Vector

_EMPTY: Mapping[str, NDArray[np.float32]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """What the server knows of one client.

    Attributes:
        synced_round: the round whose model the client holds; 0 if it must be sent the model.
        accepted_round: the last round whose update was used; 0 for none.
    """

    synced_round: int = 1
    accepted_round: int = 0


@dataclass(frozen=True, slots=True)
class ServerState:
    """All the server carries from round to round.

    Attributes:
        run: the run's number, drawn once.
        round: k, the round to run next, from 1.
        model: x_k.
        residual: what the encoded steps left out so far; None without error feedback or with `downlink=model`.
        optimizer: the server optimizer's vectors.
        steps: the latest steps, as many as are together smaller than the model.
        clients: by client (partition) number.
    """

    run: int
    round: int
    model: Float32Vector
    residual: Float32Vector | None = None
    optimizer: Mapping[str, NDArray[np.float32]] = field(default_factory=lambda: _EMPTY)
    steps: tuple[StepRecord, ...] = ()
    clients: Mapping[int, ClientRecord] = field(default_factory=dict)

    def record(self, client: int) -> ClientRecord:
        """The client's record; a client never seen is taken to hold the seeded initial model x_1."""
        return self.clients.get(client, ClientRecord())


def with_synced(state: ServerState, client: int, round: int) -> ServerState:
    """The state after learning that `client` holds x_round (0: nothing usable)."""
    clients = dict(state.clients)
    clients[client] = replace(state.record(client), synced_round=round)
    return replace(state, clients=clients)
