"""Which node is which client, and who takes part in a round."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import numpy as np
from flwr.serverapp import Grid

from amgt_fed.config import RunConfig
from amgt_fed.errors import RoundError, WireError
from amgt_fed.layout import Layout
from amgt_fed.wire import Hello, decode_hello, encode_question

from .exchange import Exchange, first_reasons, node_ids

log = logging.getLogger("amgt_fed.server")

_SAMPLING_STREAM = 0x53414D50
_POLL_S = 0.2


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
            hellos |= self.refresh()
            if len(self.nodes) >= wanted or time.monotonic() > deadline:
                break
            if len(self.failed) + len(self.nodes) >= wanted:
                break  # everyone came, and some cannot take part: waiting longer would not help
            time.sleep(_POLL_S)
        if len(self.nodes) < federation.clients_per_round:
            reasons = f": {first_reasons(self.failed)}" if self.failed else "; start more, or ask for fewer a round"
            raise RoundError(
                f"{len(self.nodes)} of {wanted} clients are ready after {federation.wait_for_clients_s:g} s, a round "
                f"needs {federation.clients_per_round}{reasons}"
            )
        if len(self.nodes) < wanted:
            log.warning("%d of %d clients are here; going on with them", len(self.nodes), wanted)
        return hellos

    def refresh(self) -> dict[int, Hello]:
        """Ask nodes that are new who they are, and forget those that are gone.

        Returns:
            The introductions of the new ones.
        """
        present = set(node_ids(self._grid))
        self.nodes = {client: node for client, node in self.nodes.items() if node in present}
        self._asked &= present
        new = sorted(present - self._asked)
        return self._ask(new) if new else {}

    def sample(self, round: int, attempt: int) -> list[int]:
        """The participants of a round: drawn from the seed, the round and the attempt, and from nothing else.

        Raises:
            RoundError: fewer clients are connected than the quorum needs.
        """
        federation = self._config.federation
        available = sorted(self.nodes)
        count = min(federation.clients_per_round, len(available))
        if count < quorum_of(self._config, federation.clients_per_round):
            raise RoundError(
                f"round {round}: {len(available)} clients are connected, the quorum needs "
                f"{quorum_of(self._config, federation.clients_per_round)}; start more clients"
            )
        rng = np.random.default_rng([self._config.seed, _SAMPLING_STREAM, round, attempt])
        return sorted(int(client) for client in rng.choice(available, count, replace=False))

    def _ask(self, nodes: Sequence[int]) -> dict[int, Hello]:
        exchange = Exchange(self._grid, "query.hello", group="0", deadline_s=self._config.federation.wait_for_clients_s)
        question = encode_question(self._run)
        exchange.send(dict.fromkeys(nodes, question), {node: node for node in nodes})
        found: dict[int, tuple[int, Hello]] = {}
        for reply in exchange.replies():
            node = reply.client
            self._asked.add(node)
            try:
                if reply.error:
                    raise WireError(reply.error)
                hello = decode_hello(reply.data, self._layout)
                if hello.client >= self._config.partition.num_clients:
                    raise WireError(
                        f"it is client {hello.client}, partition.num_clients is {self._config.partition.num_clients}"
                    )
            except WireError as error:
                self.failed[node] = str(error)
                log.warning("node %d cannot take part: %s", node, error)
                continue
            if hello.client in found or hello.client in self.nodes:
                log.warning("client %d is now node %d; the node before is no longer asked", hello.client, node)
            found[hello.client] = (node, hello)
        exchange.close()
        self.sent_bytes += exchange.sent_bytes
        self.received_bytes += exchange.received_bytes
        self.nodes |= {client: node for client, (node, _) in found.items()}
        return {client: hello for client, (_, hello) in found.items()}


def quorum_of(config: RunConfig, participants: int) -> int:
    """How many of `participants` must answer for the round to count; at least 1."""
    return max(1, math.ceil(config.federation.quorum * participants - 1e-9))
