"""One round over the Grid: plans out, updates aggregated as they arrive, the step taken."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flwr.serverapp import Grid

from amgt_fed.errors import AMGTFedError, RoundError
from amgt_fed.federated.catchup import plan_for
from amgt_fed.federated.control import control_mean, restarted, zero_control
from amgt_fed.federated.gather import Gathering
from amgt_fed.federated.messages import Aggregate, ClientUpdate, NeedsModel
from amgt_fed.federated.server import StepReport, server_round
from amgt_fed.federated.state import ServerState, with_synced
from amgt_fed.layout import Layout, vector_digest
from amgt_fed.setup import Setup
from amgt_fed.wire import Evaluation, decode_evaluation, decode_update, encode_plan

from .control_check import ControlLost, check_control
from .exchange import Exchange, Reply, first_reasons
from .late import LateUpdates
from .roster import Roster, introduced, quorum_of
from .traffic import Traffic

log = logging.getLogger("amgt_fed.server")


@dataclass(frozen=True, slots=True)
class Score:
    """The global model's loss and metrics."""

    loss: float
    metrics: dict[str, float]


class RoundRunner:
    """Runs rounds of one federation; the state goes in and comes out."""

    def __init__(self, grid: Grid, setup: Setup, layout: Layout, roster: Roster) -> None:
        self._grid = grid
        self._setup = setup
        self._layout = layout
        self._roster = roster
        self._downlink = setup.downlink()
        self._optimizer = setup.server_optimizer()
        self._uplink = setup.compression().budget
        federation = setup.config.federation
        self._late = LateUpdates(layout, federation.max_staleness, federation.staleness_exponent)

    def run(self, state: ServerState, traffic: Traffic) -> tuple[ServerState, Aggregate, StepReport]:
        """Run round `state.round`, with another sample where too few answer.

        Raises:
            RoundError: every attempt stayed below the quorum.
        """
        federation = self._setup.config.federation
        attempt = 0
        while True:
            state = self._late.poll(state, traffic)
            participants, dropped = self._roster.sample(
                state.round, attempt, avoid=traffic.failures, busy=self._late.busy
            )
            self._late.drop(dropped)
            accumulator = self._setup.gathering(self._layout, participants, control=control_mean(state))
            enough = min(federation.clients_per_round, len(participants))
            try:
                state = self.collect("train", state, accumulator, participants, traffic, enough=enough)
            except ControlLost as lost:  # at most once a round: in the new epoch no client is expected to hold one
                log.warning("%s; all control variates start again from zero", lost)
                state = restarted(lost.state, self._layout)
                continue
            needed = max(quorum_of(self._setup.config, enough), accumulator.fewest)
            if accumulator.added >= needed:
                state = self._late.poll(state, traffic)
                self._late.add_to(accumulator, state, traffic)
                aggregate = accumulator.aggregate()
                for client, reason in accumulator.rejected.items():
                    if client not in traffic.failures:
                        traffic.fail(client, str(reason))
                log_outliers(aggregate)
                self._late.settle(aggregate, traffic)
                after, report = server_round(
                    aggregate, state, self._layout, self._optimizer, self._downlink, uplink=self._uplink
                )
                return after, aggregate, report
            reasons = {client: traffic.failures[client] for client in participants if client in traffic.failures}
            text = (
                f"round {state.round}: {accumulator.added} of {len(participants)} clients gave an update within "
                f"{federation.deadline_s:g} s, the quorum needs {needed} ({first_reasons(reasons)})"
            )
            if attempt == federation.retries:
                raise RoundError(text)
            attempt += 1
            log.warning("%s; trying other clients", text)
            state = introduced(state, self._roster.refresh())

    def close(self) -> None:
        """Listen to no earlier round any longer."""
        self._late.close()

    def collect(
        self,
        message_type: str,
        state: ServerState,
        accumulator: Gathering,
        participants: list[int],
        traffic: Traffic,
        *,
        probe: bytes = b"",
        error_budget: float | None = None,
        enough: int | None = None,
    ) -> ServerState:
        """Send `participants` their plans and put what they answer into `accumulator`.

        Args:
            message_type: "train" or "train.gradient".
            state: before the round.
            accumulator: expects `participants`.
            participants: clients that are connected.
            traffic: counts bytes and failures.
            probe: with "train.gradient", where to measure.
            error_budget: with "train.gradient", the l2 error allowed; None: plans as they are.
            enough: answers after which the others are not waited for; None: all are. The others may answer late.

        Returns:
            The state, which notes who had to be sent the model.

        Raises:
            ControlLost: a client's control variate is another than the server's sum counts on.
        """
        config = self._setup.config
        digest = vector_digest(state.model)
        dense = self._downlink.codec is None
        deadline_s, is_round = config.federation.deadline_s, message_type == "train"
        exchange = Exchange(
            self._grid,
            message_type,
            group=str(state.round),
            deadline_s=deadline_s,
            # A message that may be answered late must live so long.
            ttl_s=deadline_s * (1 + config.federation.max_staleness) if is_round else None,
        )
        answered = 0

        def plan(client: int, dense: bool) -> bytes:
            found = plan_for(state, client, digest, dense=dense)
            if error_budget is not None:
                found = replace(found, probe=probe, error_budget=error_budget)
            return encode_plan(found, self._layout)

        exchange.send({client: plan(client, dense) for client in participants}, self._roster.nodes)
        resent: set[int] = set()
        for reply in exchange.replies():
            client = reply.client
            try:
                answer = self._read(reply, state.round)
                if not isinstance(answer, NeedsModel):
                    if is_round:
                        check_control(state, client, answer)
                    accumulator.add(client, answer)
                    answered += 1
                    if answered == enough:
                        break
                    continue
                if client in resent or dense:
                    raise RoundError(f"it was sent the model and still cannot start: {answer.reason}")
            except ControlLost:
                exchange.close()
                traffic.add(exchange)
                raise
            except AMGTFedError as error:
                traffic.fail(client, str(error))
                accumulator.give_up(client)
                continue
            log.warning("client %d is sent the model: %s", client, answer.reason)
            resent.add(client)
            state = with_synced(state, client, 0)
            exchange.send({client: plan(client, True)}, self._roster.nodes)
        for client in exchange.missing:
            accumulator.give_up(client)
            if answered == enough:
                traffic.surplus += 1
            else:
                traffic.fail(client, f"no answer within {deadline_s:g} s")
        if is_round:
            self._late.keep(state.round, exchange)
        else:
            exchange.close()
        traffic.add(exchange)
        for client, reason in accumulator.rejected.items():
            traffic.fail(client, str(reason))
        return state

    def _read(self, reply: Reply, round: int) -> ClientUpdate | NeedsModel:
        if reply.error:
            raise RoundError(reply.error)
        answer = decode_update(reply.data, self._layout)
        if answer.round != round:
            raise RoundError(f"it answered for round {answer.round}, this is round {round}")
        return answer

    def score_on_clients(
        self, state: ServerState, participants: tuple[int, ...], traffic: Traffic
    ) -> tuple[ServerState, Score | None]:
        """Have the round's participants score x_{k+1} on their own data; weighted by examples."""
        digest = vector_digest(state.model)
        dense = self._downlink.codec is None
        exchange = Exchange(
            self._grid,
            "evaluate",
            group=str(state.round),
            deadline_s=self._setup.config.federation.deadline_s,
        )
        asked = [client for client in participants if client in self._roster.nodes]
        exchange.send(
            {client: encode_plan(plan_for(state, client, digest, dense=dense), self._layout) for client in asked},
            self._roster.nodes,
        )
        answers = {}
        for reply in exchange.replies():
            try:
                if reply.error:
                    raise RoundError(reply.error)
                answer = decode_evaluation(reply.data, self._layout)
                if answer.round != state.round:
                    raise RoundError(f"it scored the model of round {answer.round}, this is that of {state.round}")
                if isinstance(answer, NeedsModel):
                    raise RoundError(answer.reason)
            except AMGTFedError as error:
                traffic.fail(reply.client, str(error))
                continue
            answers[reply.client] = answer
            if not dense:
                state = with_synced(state, reply.client, state.round)
        for client in exchange.missing:
            traffic.fail(client, "no score in time")
        exchange.close()
        traffic.add(exchange)
        return state, mean_score([answers[client] for client in sorted(answers)])


def log_outliers(aggregate: Aggregate) -> None:
    """Name those whose update stood apart."""
    for client, apart in aggregate.outliers.items():
        log.warning("client %d stands apart: %s", client, apart)


def mean_score(answers: Sequence[Evaluation]) -> Score | None:
    """The mean over examples; a metric counts where it was reported. None for no answers."""
    if not answers:
        return None
    total = sum(answer.num_examples for answer in answers)
    loss = sum(answer.loss * answer.num_examples for answer in answers) / total
    metrics = {}
    for name in sorted({name for answer in answers for name in answer.metrics}):
        told = [answer for answer in answers if name in answer.metrics]
        weight = sum(answer.num_examples for answer in told)
        metrics[name] = sum(answer.metrics[name] * answer.num_examples for answer in told) / weight
    return Score(loss, metrics)


def start_state(run: int, setup: Setup) -> tuple[ServerState, Layout]:
    """The state before round 1, from the seeded initial model, and the model's layout."""
    flat = setup.fresh_model()
    control = zero_control(flat.layout) if setup.config.client.scaffold else None
    return ServerState(run=run, round=1, model=flat.read(), control=control), flat.layout
