"""One client's side of a round: plan and state in, update and new state out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from amgt_fed.codec import Codec, Encoded, MaxBytes, MaxError, decode
from amgt_fed.codec.budget import byte_limit
from amgt_fed.codec.interface import l2_norm
from amgt_fed.codec.subspace import for_round
from amgt_fed.errors import RoundError
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.federated.control import ClientControl, next_common
from amgt_fed.federated.messages import ClientUpdate, NeedsModel, RoundPlan
from amgt_fed.layout import Float32Vector, Layout, vector_digest


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What local training gives: the new parameters x_i, and what was seen on the way.

    Attributes:
        gradient_scale: s such that x_k - x_i is s times the mean gradient on the way; 0 where it is not (Adam, say).
    """

    vector: Float32Vector
    num_examples: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    gradient_scale: float = 0.0


Train = Callable[[Float32Vector], LocalResult]
"""Trains from x_k, which it must not modify."""


@dataclass(frozen=True, slots=True)
class ClientState:
    """All a client carries from round to round.

    Attributes:
        run: the run it belongs to.
        round: the round whose model x_round is held; 1 for the seeded initial model.
        model: x_round.
        residual: what earlier payloads left out; None without error feedback.
        sent: the last answer, kept until the server says it was used.
        sent_base: digest of the model `sent` was made from.
        control: the control variates (scaffold.py); None without them.
    """

    run: int
    round: int
    model: Float32Vector
    residual: Float32Vector | None = None
    sent: ClientUpdate | None = None
    sent_base: bytes = b""
    control: ClientControl | None = None


@dataclass(frozen=True, slots=True)
class Compression:
    """How a client encodes its update.

    Attributes:
        caps: what this client's own link allows, in bytes or bits; the smallest payload of budget and caps is sent.
    """

    codec: Codec
    budget: BudgetRule
    error_feedback: bool
    caps: tuple[BudgetRule, ...] = ()


def advance(plan: RoundPlan, state: ClientState, layout: Layout) -> ClientState | NeedsModel:
    """The state with x_k as its model, through the plan's steps or its model; nothing else changes.

    Returns:
        The new state, or `NeedsModel` where the steps do not connect or the result is not the server's x_k.
    """
    state = _in_epoch(plan, state, layout)
    control = state.control
    if plan.model is not None:
        layout.check(plan.model)
        if vector_digest(plan.model) != plan.base_digest:
            return NeedsModel(plan.round, "the model received does not match its digest")
        if control is not None:
            common = np.zeros(layout.size, np.float32) if plan.control is None else plan.control
            control = replace(control, common=common)
        return replace(state, round=plan.round, model=plan.model, control=control)
    vector = state.model
    at = state.round
    for step in plan.steps:
        if step.round < at:
            continue  # taken already
        if step.round != at:
            return NeedsModel(plan.round, f"the steps begin at round {step.round}, this client holds round {at}")
        decoded = decode(step.payload, layout)
        vector = vector - decoded
        if control is not None:
            control = replace(control, common=next_common(control.common, decoded, step.keep, step.gain))
        at += 1
    if at != plan.round:
        return NeedsModel(plan.round, f"this client holds round {state.round}, and the steps lead to {at}")
    if vector_digest(vector) != plan.base_digest:
        return NeedsModel(plan.round, "the models of client and server differ")
    return replace(state, round=plan.round, model=vector, control=control)


def _in_epoch(plan: RoundPlan, state: ClientState, layout: Layout) -> ClientState:
    """The state with control variates of the plan's epoch; an answer given in another epoch is void."""
    if plan.control_epoch == (0 if state.control is None else state.control.epoch):
        return state
    control = ClientControl.zero(layout, plan.control_epoch) if plan.control_epoch else None
    return replace(state, control=control, sent=None, sent_base=b"")


def client_round(
    plan: RoundPlan, state: ClientState, train: Train, layout: Layout, compression: Compression
) -> tuple[ClientUpdate | NeedsModel, ClientState]:
    """Train from x_k and encode the update with what earlier rounds left out.

    Asked twice for the same round from the same model (a server that was restarted, a reply that was lost), a client
    gives the same answer again and does not train. An update the server never used goes back into the residual.

    Returns:
        The answer and the next state; with `NeedsModel` the state is the old one.

    Raises:
        RoundError: training gave parameters that are not finite.

    Source: ALGORITHM section 4.
    """
    sent = state.sent
    if sent is not None and sent.round == plan.round and state.sent_base == plan.base_digest:
        return sent, state
    advanced = advance(plan, state, layout)
    if isinstance(advanced, NeedsModel):
        return advanced, state
    residual = state.residual
    if compression.error_feedback:
        residual = np.zeros(layout.size, np.float32) if residual is None else residual
        if sent is not None and plan.accepted_round < sent.round:
            residual = residual + decode(sent.payload, layout)

    result = checked_result(train(advanced.model), plan.round)
    update = advanced.model - result.vector
    wanted = update if not compression.error_feedback or residual is None else update + residual
    encoded = encode_within(plan, wanted, layout, compression)
    answer = ClientUpdate(
        round=plan.round,
        payload=encoded.payload,
        num_examples=result.num_examples,
        error_l2=encoded.error_l2,
        update_l2=l2_norm(update),
        deviation_l2=l2_norm(encoded.decoded - update),
        loss=result.loss,
        metrics=result.metrics,
        gradient_scale=result.gradient_scale,
    )
    kept = wanted - encoded.decoded if compression.error_feedback else None
    return answer, replace(advanced, residual=kept, sent=answer, sent_base=plan.base_digest)


def checked_result(result: LocalResult, round: int) -> LocalResult:
    """The result itself.

    Raises:
        RoundError: its parameters are not finite.
    """
    if not np.isfinite(result.vector).all():
        raise RoundError(f"local training diverged in round {round}: parameters are not finite; lower client.lr")
    return result


def encode_within(plan: RoundPlan, wanted: Float32Vector, layout: Layout, compression: Compression) -> Encoded:
    """Encode within the round's budget, and within this client's own caps where they give fewer bytes.

    Raises:
        CodecError: no payload is small enough for a cap, or exact enough for the budget.
    """
    budget = MaxError(plan.error_budget) if plan.error_budget > 0 else compression.budget.at(plan.round)
    codec = for_round(compression.codec, plan.round)
    encoded = codec.encode(wanted, layout, budget)
    rooms = [byte_limit(cap, layout.size) for rule in compression.caps if (cap := rule.at(plan.round)) is not None]
    room = min((found for found in rooms if found is not None), default=None)
    if room is None or len(encoded.payload) <= room:
        return encoded
    return codec.encode(wanted, layout, MaxBytes(max(room, 1)))
