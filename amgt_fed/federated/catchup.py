"""What a client lacks: the steps it missed while they are smaller than the model, the model otherwise."""

from __future__ import annotations

from amgt_fed.federated.messages import RoundPlan, StepRecord
from amgt_fed.federated.state import ServerState
from amgt_fed.layout import Layout


def window(steps: tuple[StepRecord, ...], layout: Layout) -> tuple[StepRecord, ...]:
    """The latest steps that are together smaller than the dense model; older ones would never be sent."""
    total = 0
    for count, step in enumerate(reversed(steps)):
        total += len(step.payload)
        if total >= 4 * layout.size:
            return steps[len(steps) - count :]
    return steps


def plan_for(state: ServerState, client: int, base_digest: bytes, *, dense: bool = False) -> RoundPlan:
    """The plan of round k for one client: what it lacks, and no more.

    Args:
        base_digest: `vector_digest(state.model)`, the same for every client of the round.
        dense: send the model itself (`downlink=model`, or a client that asked for it).
    """
    record = state.record(client)
    missing = tuple(step for step in state.steps if step.round >= record.synced_round)
    connected = record.synced_round >= 1 and len(missing) == state.round - record.synced_round
    # For clients whose configuration says `auto`; to others, whose own rule holds, 0 is sent.
    error_budget = state.first_errors[0] / state.round
    epoch = 0 if state.control is None else state.control.epoch
    if dense or not connected:
        return RoundPlan(
            state.run,
            state.round,
            base_digest,
            model=state.model,
            accepted_round=record.accepted_round,
            error_budget=error_budget,
            control_epoch=epoch,
            control=state.control.common if state.control is not None and state.control.common.any() else None,
        )
    return RoundPlan(
        state.run,
        state.round,
        base_digest,
        steps=missing,
        accepted_round=record.accepted_round,
        error_budget=error_budget,
        control_epoch=epoch,
    )
