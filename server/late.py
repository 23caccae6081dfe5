"""Updates that come after their round: kept open, discounted, used once, or refused as too old."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from amgt_fed.errors import AMGTFedError, RoundError
from amgt_fed.federated.gather import Gathering
from amgt_fed.federated.messages import Aggregate, ClientUpdate, NeedsModel
from amgt_fed.federated.state import ServerState, with_synced
from amgt_fed.layout import Layout
from amgt_fed.wire import decode_update

from .exchange import Exchange
from .traffic import Traffic

log = logging.getLogger("amgt_fed.server")


def discount(staleness: int, exponent: float) -> float:
    """(1 + s)^-a: what an update counts that was made s steps ago. Source: Xie et al. 2019 (arXiv 1903.03934), 5.2."""
    return float((1.0 + staleness) ** -exponent)


@dataclass(slots=True)
class LateUpdates:
    """What clients still owe from earlier rounds, and what has come since.

    A client is given no new plan while it owes an update, or while its update waits to be used: from the next plan it
    reads whether the last one was, and what the server calls unused must never be used after.

    Attributes:
        layout: of the model.
        max_staleness: steps an update may be late; 0: nothing is kept.
        exponent: of the discount.
    """

    layout: Layout
    max_staleness: int
    exponent: float
    _open: list[tuple[int, Exchange]] = field(default_factory=list)
    _arrived: dict[int, ClientUpdate] = field(default_factory=dict)

    @property
    def busy(self) -> set[int]:
        """Clients that are to be left alone."""
        return {client for _, exchange in self._open for client in exchange.missing} | set(self._arrived)

    def keep(self, round: int, exchange: Exchange) -> None:
        """Go on listening to a round that is over."""
        if self.max_staleness and exchange.missing:
            self._open.append((round, exchange))
        else:
            exchange.close()

    def poll(self, state: ServerState, traffic: Traffic) -> ServerState:
        """Take in what has come, without waiting, and let go of what would be too old."""
        still_open = []
        for round, exchange in self._open:
            for reply in exchange.replies(0.0):
                try:
                    if reply.error:
                        raise RoundError(reply.error)
                    answer = decode_update(reply.data, self.layout)
                    if isinstance(answer, NeedsModel):
                        state = with_synced(state, reply.client, 0)
                        raise RoundError(f"it could not start round {round}: {answer.reason}")
                    if answer.round != round:
                        raise RoundError(f"it answered for round {answer.round}, it was asked in {round}")
                except AMGTFedError as error:
                    traffic.fail(reply.client, str(error))
                    continue
                self._arrived[reply.client] = answer
            if exchange.missing and state.round - round <= self.max_staleness:
                still_open.append((round, exchange))
            else:
                for client in exchange.missing:
                    traffic.fail(
                        client, f"its update of round {round} has not come in {self.max_staleness} more rounds"
                    )
                exchange.close()
            traffic.add(exchange)
        self._open = still_open
        return state

    def add_to(self, accumulator: Gathering, state: ServerState, traffic: Traffic) -> None:
        """Give the round what has come late."""
        for client, update in list(self._arrived.items()):
            staleness = state.round - update.round
            try:
                if staleness > self.max_staleness:
                    raise RoundError(
                        f"its update of round {update.round} came {staleness} rounds late, "
                        f"federation.max_staleness is {self.max_staleness}"
                    )
                accumulator.add_late(client, update, discount(staleness, self.exponent))
            except RoundError as error:
                traffic.fail(client, str(error))
                del self._arrived[client]

    def settle(self, aggregate: Aggregate, traffic: Traffic) -> None:
        """The round was taken: what was added to it has been used, or was no payload."""
        for client, round in aggregate.rounds.items():
            log.info("client %d's update of round %d was used late", client, round)
        traffic.late += len(aggregate.rounds)
        self._arrived.clear()

    def close(self) -> None:
        """Listen to nobody any longer."""
        for _, exchange in self._open:
            exchange.close()
        self._open.clear()
        self._arrived.clear()

    def drop(self, clients: set[int]) -> None:
        """Wait for these clients no longer, and use nothing of theirs that has come: they are to be asked anew."""
        for _, exchange in self._open:
            exchange.give_up(clients)
        for client in clients:
            self._arrived.pop(client, None)
