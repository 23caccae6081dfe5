"""Which node is which client, and who takes part in a round."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from flwr.serverapp import Grid

from amgt_fed.config import RunConfig
from amgt_fed.errors import RoundError, WireError
from amgt_fed.federated.state import ServerState, with_synced
from amgt_fed.flower.mailbox import MailboxGrid
from amgt_fed.layout import Layout
from amgt_fed.wire import Hello, decode_hello, encode_question

from .exchange import Exchange, Reply, first_reasons, node_ids

log = logging.getLogger("amgt_fed.server")

_SAMPLING_STREAM = 0x53414D50
_POLL_S = 0.2
_PATIENCE_S = 1.0  # what a round waits for nodes that came since the last; a slower one takes part from the next


class Roster:
    """The clients of a federation, by number, wherever they are connected.

    Flower's node ids are drawn anew at every start, so a client is known by its partition number, which it tells when
    asked. A client that comes back under another node id takes its old place.
    """

    def __init__(self, grid: Grid, config: RunConfig, layout: Layout, run: int) -> None:
        self._grid = grid
        self._config = config
        self._layout = layout
        self._run = run
        self._asked: set[int] = set()
        self._open: list[Exchange] = []  # nodes may take long to answer, so a question stays open from round to round
        self.nodes: dict[int, int] = {}
        self.failed: dict[int, str] = {}
        self.sent_bytes = 0
        self.received_bytes = 0

    def wait(self) -> dict[int, Hello]:
        """Wait for the federation's clients, all of them if they come in time.

        Raises:
            RoundError: fewer than `clients_per_round` came within `wait_for_clients_s`, or none could start.
        """
        federation, wanted = self._config.federation, self._config.partition.num_clients
        deadline = time.monotonic() + federation.wait_for_clients_s
        hellos: dict[int, Hello] = {}
        while True:
            hellos |= self.refresh(_POLL_S)
            if len(self.nodes) >= wanted or time.monotonic() > deadline:
                break
            if len(self.failed) + len(self.nodes) >= wanted:
                break  # everyone came, and some cannot take part: waiting longer would not help
            time.sleep(0.0 if self._open else _POLL_S)  # `refresh` has waited where something is to come
        if len(self.nodes) < federation.clients_per_round:
            reasons = f": {first_reasons(self.failed)}" if self.failed else "; start more, or ask for fewer a round"
            raise RoundError(
                f"{len(self.nodes)} of {wanted} clients are ready after {federation.wait_for_clients_s:g} s, a round "
                f"needs {federation.clients_per_round}{reasons}"
            )
        if len(self.nodes) < wanted:
            log.warning("%d of %d clients are here; going on with them", len(self.nodes), wanted)
        return hellos

    def refresh(self, patience_s: float | None = None) -> dict[int, Hello]:
        """Ask nodes that are new who they are, and forget those that are gone.

        Args:
            patience_s: how long to wait for answers; None: a moment if there are new nodes, not at all otherwise.

        Returns:
            The introductions that have come since.
        """
        present = set(node_ids(self._grid))
        self.nodes = {client: node for client, node in self.nodes.items() if node in present}
        self.failed = {node: reason for node, reason in self.failed.items() if node in present}
        self._asked &= present
        if new := sorted(present - self._asked):
            self._ask(new)
        if patience_s is None:
            patience_s = _PATIENCE_S if new else 0.0
        hellos: dict[int, Hello] = {}
        still_open = []
        for exchange in self._open:
            hellos |= self._listen(exchange, patience_s)
            if not exchange.is_over:
                still_open.append(exchange)
                continue
            self._asked.difference_update(exchange.missing)  # to be asked again
            exchange.close()
        self._open = still_open
        return hellos

    def sample(
        self, round: int, attempt: int, avoid: Collection[int] = (), busy: Collection[int] = ()
    ) -> tuple[list[int], set[int]]:
        """The participants of a round: drawn from the seed, the round and the attempt, and from nothing else.

        Args:
            avoid: clients that failed in earlier attempts; left out where enough others are connected.
            busy: clients that owe an update of an earlier round; left out where the others make a quorum.

        Returns:
            The participants, `over_selection` times `clients_per_round` where so many are there, and those of `busy`
            that are among them all the same.

        Raises:
            RoundError: fewer clients are connected than the quorum needs.
        """
        federation = self._config.federation
        available = sorted(self.nodes)
        needed = quorum_of(self._config, federation.clients_per_round)
        if len(available) < needed:
            raise RoundError(
                f"round {round}: {len(available)} clients are connected, the quorum needs {needed}; start more clients"
            )
        free = [client for client in available if client not in busy]
        if len(free) >= needed:
            available = free
        wanted = math.ceil(federation.over_selection * federation.clients_per_round - 1e-9)
        count = min(wanted, len(available))
        others = [client for client in available if client not in avoid]
        if len(others) >= min(federation.clients_per_round, count):
            available, count = others, min(count, len(others))
        rng = np.random.default_rng([self._config.seed, _SAMPLING_STREAM, round, attempt])
        drawn = sorted(int(client) for client in rng.choice(available, count, replace=False))
        return drawn, set(drawn) & set(busy)

    def _ask(self, nodes: Sequence[int]) -> None:
        exchange = Exchange(self._grid, "query.hello", group="0", deadline_s=self._config.federation.wait_for_clients_s)
        exchange.send(dict.fromkeys(nodes, encode_question(self._run)), {node: node for node in nodes})
        self._asked.update(nodes)
        self._open.append(exchange)
        self.sent_bytes += exchange.take_counts()[0].total()

    def _listen(self, exchange: Exchange, patience_s: float) -> dict[int, Hello]:
        found: dict[int, Hello] = {}
        for reply in exchange.replies(patience_s):
            node = reply.client
            self.received_bytes += len(reply.data)
            try:
                hello = self._read(reply)
            except WireError as error:
                self.failed[node] = str(error)
                log.warning("node %d cannot take part: %s", node, error)
                continue
            if hello.client in self.nodes:
                log.warning("client %d is now node %d; the node before is no longer asked", hello.client, node)
            self.failed.pop(node, None)
            self.nodes[hello.client] = node
            found[hello.client] = hello
        return found

    def _read(self, reply: Reply) -> Hello:
        if reply.error:
            raise WireError(reply.error)
        hello = decode_hello(reply.data, self._layout)
        wanted = self._config.partition.num_clients
        if hello.client >= wanted:
            raise WireError(f"it is client {hello.client}, and partition.num_clients is {wanted}: they run from 0")
        # A device tells its number itself; without this it could take another's residual and rounds.
        if isinstance(self._grid, MailboxGrid) and (no := self._grid.refuses_client(reply.client, hello.client)):
            raise WireError(no)
        return hello


def introduced(state: ServerState, hellos: Mapping[int, Hello]) -> ServerState:
    """The state after clients said which model they hold; one that is ahead of a resumed server is sent the model."""
    for client, hello in hellos.items():
        synced = hello.synced_round if hello.synced_round <= state.round else 0
        state = with_synced(state, client, synced, num_examples=hello.num_examples)
    return state


def quorum_of(config: RunConfig, participants: int) -> int:
    """How many of `participants` must answer for the round to count; at least 1."""
    return max(1, math.ceil(config.federation.quorum * participants - 1e-9))
