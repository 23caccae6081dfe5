"""Asynchronous rounds: clients work at their own pace, and the server steps whenever enough updates have come.

Nguyen et al. 2022 (FedBuff, arXiv 2106.06639): `concurrency` clients are at work at any time; whoever answers makes
room for another, who is sent the newest model; when `buffer_size` updates are in, the server takes one step with their
mean, each discounted by the steps taken since its model. A client is asked at most once per model: from the next plan
it reads whether its last update was used.
"""

from __future__ import annotations

import logging
import math
import time

import numpy as np
from flwr.serverapp import Grid

from amgt_fed.errors import AMGTFedError, RoundError
from amgt_fed.federated.catchup import plan_for
from amgt_fed.federated.gather import check_numbers, checked_update
from amgt_fed.federated.messages import Aggregate, ClientUpdate, NeedsModel
from amgt_fed.federated.server import StepReport, server_round
from amgt_fed.federated.state import ServerState, with_synced
from amgt_fed.layout import Layout, vector_digest
from amgt_fed.setup import Setup
from amgt_fed.wire import decode_update, encode_plan

from .exchange import Exchange, Reply, first_reasons
from .late import discount
from .roster import Roster, introduced
from .rounds import RoundRunner, log_outliers
from .traffic import Traffic

log = logging.getLogger("amgt_fed.server")

_DISPATCH_STREAM = 0x4153594E
_PATIENCE_S = 1.0  # between two looks at who is connected and whose time is over


class AsyncRunner(RoundRunner):
    """Runs the steps of an asynchronous federation; what clients are working on lives on from step to step.

    With one worker in this process the order of everything follows from the seed; with more, or over a network, it
    follows from who is faster.
    """

    def __init__(self, grid: Grid, setup: Setup, layout: Layout, roster: Roster) -> None:
        super().__init__(grid, setup, layout, roster)
        federation = setup.config.federation
        self._size = federation.buffer_size or federation.clients_per_round
        self._concurrency = federation.concurrency or federation.clients_per_round
        self._exchange = Exchange(grid, "train", group="", deadline_s=math.inf, ttl_s=federation.deadline_s)
        self._working: dict[int, tuple[int, float]] = {}  # client -> round of its model, when it is given up
        self._resent: set[int] = set()
        self._buffer: dict[int, ClientUpdate] = {}
        self._drawn = 0

    def run(self, state: ServerState, traffic: Traffic) -> tuple[ServerState, Aggregate, StepReport]:
        """Collect `buffer_size` updates and step.

        Raises:
            RoundError: nobody is at work, nobody else can be asked, and the buffer is not full.
        """
        digest, attempts, self._drawn = vector_digest(state.model), 0, 0
        avoid: set[int] = set()
        try:
            while len(self._buffer) < self._size:
                self._dispatch(state, digest, avoid)
                if not self._working:
                    attempts += 1
                    self._give_up_or_forgive(state, traffic, avoid, attempts)
                    continue
                for reply in self._exchange.replies(_PATIENCE_S):
                    state = self._take(reply, state, digest, traffic, avoid)
                    if len(self._buffer) >= self._size:
                        break
                    self._dispatch(state, digest, avoid)
                self._give_up_the_slow(traffic, avoid)
                state = introduced(state, self._roster.refresh(0.0))
        finally:
            traffic.add(self._exchange)
        found = self._aggregate(state, traffic)
        after, report = server_round(found, state, self._layout, self._optimizer, self._downlink, uplink=self._uplink)
        return after, found, report

    def close(self) -> None:
        """Wait for nobody any longer; what is being worked on goes back into the clients' residuals."""
        super().close()
        self._exchange.close()

    def _dispatch(self, state: ServerState, digest: bytes, avoid: set[int]) -> None:
        """Put clients to work until enough are: drawn from the seed, the round and how many were drawn in it."""
        while len(self._working) < self._concurrency:
            idle = sorted(set(self._roster.nodes) - set(self._working) - set(self._buffer) - avoid)
            if not idle:
                break
            rng = np.random.default_rng([self._setup.config.seed, _DISPATCH_STREAM, state.round, self._drawn])
            client = int(rng.choice(idle))
            self._drawn += 1
            self._send(client, state, digest, dense=self._downlink.codec is None)

    def _send(self, client: int, state: ServerState, digest: bytes, *, dense: bool) -> None:
        plan = encode_plan(plan_for(state, client, digest, dense=dense), self._layout)
        self._working[client] = (state.round, time.monotonic() + self._setup.config.federation.deadline_s)
        self._exchange.send({client: plan}, self._roster.nodes, group=str(state.round))

    def _take(self, reply: Reply, state: ServerState, digest: bytes, traffic: Traffic, avoid: set[int]) -> ServerState:
        client = reply.client
        asked, _ = self._working.pop(client)
        try:
            if reply.error:
                raise RoundError(reply.error)
            answer = decode_update(reply.data, self._layout)
            if isinstance(answer, NeedsModel):
                if client in self._resent or self._downlink.codec is None or client not in self._roster.nodes:
                    raise RoundError(f"it was sent the model and still cannot start: {answer.reason}")
                log.warning("client %d is sent the model: %s", client, answer.reason)
                self._resent.add(client)
                state = with_synced(state, client, 0)
                self._send(client, state, digest, dense=True)
                return state
            self._check(client, answer, asked, state)
        except (AMGTFedError, ValueError) as error:
            traffic.fail(client, str(error))
            avoid.add(client)
            self._resent.discard(client)
            return state
        self._resent.discard(client)
        self._buffer[client] = answer
        return state

    def _check(self, client: int, answer: ClientUpdate, asked: int, state: ServerState) -> None:
        """Refuse what no step could use, before it takes a place in the buffer."""
        if answer.round != asked:
            raise RoundError(f"it answered for round {answer.round}, it was asked in {asked}")
        limit = self._setup.config.federation.max_staleness
        if limit and state.round - asked > limit:
            raise RoundError(f"its update is {state.round - asked} steps old, federation.max_staleness is {limit}")
        check_numbers(client, answer, self._setup.max_examples)
        checked_update(client, answer, self._layout)

    def _give_up_the_slow(self, traffic: Traffic, avoid: set[int]) -> None:
        now = time.monotonic()
        slow = [client for client, (_, until) in self._working.items() if now >= until]
        self._exchange.give_up(slow)
        for client in slow:
            del self._working[client]
            avoid.add(client)
            traffic.fail(client, f"no answer within {self._setup.config.federation.deadline_s:g} s")

    def _give_up_or_forgive(self, state: ServerState, traffic: Traffic, avoid: set[int], attempts: int) -> None:
        """Nobody works and nobody can be asked: try those that failed once more, or end the run."""
        if avoid and attempts <= self._setup.config.federation.retries:
            log.warning("step %d: nobody is left to ask; trying those that failed once more", state.round)
            avoid.clear()
            return
        raise RoundError(
            f"round {state.round}: {len(self._buffer)} of {self._size} updates are in, and of "
            f"{len(self._roster.nodes)} connected clients none is left to ask ({first_reasons(traffic.failures)}); "
            "lower federation.buffer_size, or start more clients"
        )

    def _aggregate(self, state: ServerState, traffic: Traffic) -> Aggregate:
        """The buffer's mean; every payload in it has been decoded once and is known to be sound."""
        accumulator = self._setup.gathering(self._layout, ())
        exponent = self._setup.config.federation.staleness_exponent
        for client, update in self._buffer.items():
            accumulator.add_late(client, update, discount(state.round - update.round, exponent))
            traffic.late += update.round < state.round
        self._buffer.clear()
        aggregate = accumulator.aggregate()
        log_outliers(aggregate)
        return aggregate
