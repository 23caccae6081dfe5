"""Control variates: what each side holds of them, and how a step moves the common one. The algorithm: scaffold.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from amgt_fed.federated.messages import Aggregate
from amgt_fed.federated.state import Control, ServerState
from amgt_fed.layout import Float32Vector, Layout


@dataclass(frozen=True, slots=True)
class ClientControl:
    """A client's side.

    Attributes:
        own: c_i, in gradient units.
        common: c at the model the client holds.
        epoch: of both; another epoch in a plan sets them back to zero.
        round: the last round whose update entered `own`; 0 for none.
    """

    own: Float32Vector
    common: Float32Vector
    epoch: int
    round: int = 0

    @classmethod
    def zero(cls, layout: Layout, epoch: int) -> ClientControl:
        """Nothing learned yet."""
        return cls(np.zeros(layout.size, np.float32), np.zeros(layout.size, np.float32), epoch)


def zero_control(layout: Layout, epoch: int = 1) -> Control:
    """The server's side before round 1."""
    return Control(np.zeros(layout.size, np.float64), np.zeros(layout.size, np.float32), epoch)


def next_common(common: Float32Vector, step: Float32Vector, keep: float, gain: float) -> Float32Vector:
    """c <- keep c + gain s: two products and a sum in float32, the same bits on every machine."""
    return np.add(np.multiply(common, np.float32(keep)), np.multiply(step, np.float32(gain)))


def control_mean(state: ServerState) -> NDArray[np.float64] | None:
    """sum_i n_i c_i / sum_i n_i over all clients, in gradient units; None without control variates."""
    if state.control is None:
        return None
    return state.control.total / max(state.num_examples, 1)


def coefficients(aggregate: Aggregate, state: ServerState, lr: float) -> tuple[float, float]:
    """(keep, gain) of the step lr m: 1 - w and w / (lr s_k), with w the participants' share of all examples.

    m / s_k estimates c + the participants' mean change, and c + w (that change) is (1 - w) c + w m / s_k.
    """
    share = aggregate.num_examples / max(state.num_examples, aggregate.num_examples)
    return 1.0 - share, share / (lr * aggregate.gradient_scale)


def moved(control: Control, aggregate: Aggregate, step: Float32Vector, keep: float, gain: float) -> Control:
    """The server's side after the step."""
    assert aggregate.control_shift is not None  # the accumulator was told of the control variates
    return replace(
        control,
        total=control.total + aggregate.control_shift,
        common=next_common(control.common, step, keep, gain),
    )


def restarted(state: ServerState, layout: Layout) -> ServerState:
    """The state with all control variates at zero, in a new epoch; model, residual and records stay."""
    assert state.control is not None
    return replace(
        state,
        control=zero_control(layout, state.control.epoch + 1),
        steps=tuple(replace(step, keep=1.0, gain=0.0) for step in state.steps),
        clients={client: replace(record, control_round=0) for client, record in state.clients.items()},
    )
