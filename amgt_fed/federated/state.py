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
        num_examples: how many it said it has; 0 before it said anything.
        control_round: the last round whose update entered its control variate, as the server counts; 0 for none.
    """

    synced_round: int = 1
    accepted_round: int = 0
    num_examples: int = 0
    control_round: int = 0


@dataclass(frozen=True, slots=True)
class Control:
    """The server's side of the control variates (federated/scaffold.py).

    Attributes:
        total: sum over all clients of n_i c_i, exactly as the clients hold them; float64.
        common: c as the clients derive it from the steps they are sent.
        epoch: raised whenever all control variates start again from zero.
    """

    total: NDArray[np.float64]
    common: Float32Vector
    epoch: int = 0


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
        control: the control variates; None without `client.scaffold`.
        first_errors: k times the uplink's and the downlink's error in the first round k that had one, from which a
            budget of `auto` follows; 0: not known yet.
    """

    run: int
    round: int
    model: Float32Vector
    residual: Float32Vector | None = None
    optimizer: Mapping[str, NDArray[np.float32]] = field(default_factory=lambda: _EMPTY)
    steps: tuple[StepRecord, ...] = ()
    clients: Mapping[int, ClientRecord] = field(default_factory=dict)
    control: Control | None = None
    first_errors: tuple[float, float] = (0.0, 0.0)

    @property
    def num_examples(self) -> int:
        """Examples of all clients that have said how many they have."""
        return sum(record.num_examples for record in self.clients.values())

    def record(self, client: int) -> ClientRecord:
        """The client's record; a client never seen is taken to hold the seeded initial model x_1."""
        return self.clients.get(client, ClientRecord())


def with_synced(state: ServerState, client: int, round: int, *, num_examples: int = 0) -> ServerState:
    """The state after learning that `client` holds x_round (0: nothing usable), and how many examples it has."""
    clients = dict(state.clients)
    before = state.record(client)
    clients[client] = replace(before, synced_round=round, num_examples=num_examples or before.num_examples)
    return replace(state, clients=clients)
