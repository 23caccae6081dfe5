"""The server's side of a round: aggregate and state in, new state with the encoded step out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from amgt_fed.codec import Codec, MaxError
from amgt_fed.codec.interface import l2_norm
from amgt_fed.codec.subspace import for_round
from amgt_fed.errors import RoundError
from amgt_fed.federated.budgets import Budget, BudgetRule
from amgt_fed.federated.catchup import window
from amgt_fed.federated.control import coefficients, moved
from amgt_fed.federated.messages import Aggregate, StepRecord
from amgt_fed.federated.server_optimizer import OptimizerSettings, filtered_step
from amgt_fed.federated.state import ClientRecord, ServerState
from amgt_fed.layout import Layout


@dataclass(frozen=True, slots=True)
class Downlink:
    """How the server's step travels; codec None sends the whole model each round."""

    codec: Codec | None
    budget: BudgetRule
    error_feedback: bool


@dataclass(frozen=True, slots=True)
class StepReport:
    """What was measured of one step: its size, its norm, and what the codec left out."""

    payload_bytes: int
    step_norm: float
    error_l2: float


def server_round(
    aggregate: Aggregate,
    state: ServerState,
    layout: Layout,
    optimizer: OptimizerSettings,
    downlink: Downlink,
    *,
    uplink: BudgetRule | None = None,
) -> tuple[ServerState, StepReport]:
    """Take x_{k+1} = x_k - decode(encode(alpha_k S(m_k) + residual)), as every client will.

    Args:
        aggregate: of the round's updates.
        state: before the step.
        layout: of the model.
        optimizer: S and alpha_k.
        downlink: how the step travels.
        uplink: the clients' budget, where it may be `auto`, which follows from the first round's error.

    Raises:
        RoundError: the step is not finite.

    Source: ALGORITHM section 4, (14).
    """
    step, optimizer_state = filtered_step(aggregate.mean, state.round, state.optimizer, optimizer)
    if not np.isfinite(step).all():
        raise RoundError(f"the aggregate of round {state.round} is not finite; lower client.lr or server.lr")
    keep, gain = (1.0, 0.0) if state.control is None else coefficients(aggregate, state, optimizer.lr_at(state.round))
    if downlink.codec is None:
        taken = step
        model = state.model - step
        steps: tuple[StepRecord, ...] = ()
        residual = None
        report = StepReport(payload_bytes=4 * layout.size, step_norm=l2_norm(step), error_l2=0.0)
    else:
        wanted = step if state.residual is None else step + state.residual
        encoded = for_round(downlink.codec, state.round).encode(wanted, layout, _budget(state, downlink))
        taken = encoded.decoded
        model = state.model - taken
        residual = wanted - encoded.decoded if downlink.error_feedback else None
        steps = window((*state.steps, StepRecord(state.round, encoded.payload, keep, gain)), layout)
        report = StepReport(len(encoded.payload), l2_norm(encoded.decoded), encoded.error_l2)
    clients = dict(state.clients)
    for client in aggregate.participants:
        before, made = state.record(client), aggregate.rounds.get(client, state.round)
        clients[client] = ClientRecord(
            synced_round=max(before.synced_round, made),
            accepted_round=made,
            num_examples=before.num_examples,
            control_round=0 if state.control is None else state.round,
        )
    return (
        replace(
            state,
            round=state.round + 1,
            model=model,
            residual=residual,
            optimizer=optimizer_state,
            steps=steps,
            clients=clients,
            first_errors=_first_errors(state, uplink, downlink, aggregate.delta, report.error_l2),
            control=None if state.control is None else moved(state.control, aggregate, taken, keep, gain),
        ),
        report,
    )


def _budget(state: ServerState, downlink: Downlink) -> Budget | None:
    follows = downlink.budget.kind == "auto" and not downlink.budget.amount
    if follows and state.first_errors[1] > 0:
        return MaxError(state.first_errors[1] / state.round)
    return downlink.budget.at(state.round)


def _first_errors(
    state: ServerState, uplink: BudgetRule | None, downlink: Downlink, up: float, down: float
) -> tuple[float, float]:
    """`ServerState.first_errors` after a round with these errors; a rule that does not follow them leaves 0."""
    rules = (uplink, downlink.budget if downlink.codec is not None else None)
    first = [
        known or (state.round * error if rule is not None and rule.kind == "auto" and not rule.amount else 0.0)
        for known, rule, error in zip(state.first_errors, rules, (up, down), strict=True)
    ]
    return first[0], first[1]
