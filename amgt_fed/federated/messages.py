"""The vocabulary both sides of a round share. All frozen; vectors in them are never written to.

Rounds count from 1. x_k is the model round k starts from; an update is gradient-signed, x_k - x_i.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from amgt_fed.layout import Float32Vector


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The encoded step that took x_round to x_{round + 1}.

    Attributes:
        keep, gain: what it did to the common control variate: c <- keep c + gain s, with s the decoded step.
    """

    round: int
    payload: bytes
    keep: float = 1.0
    gain: float = 0.0


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What the server sends to one client for one round: what that client lacks, and no more.

    Attributes:
        run: the run's number; state that a client holds of another run is not used.
        round: k.
        base_digest: `vector_digest` of x_k, so that both sides provably hold the same model.
        steps: the steps the client missed, oldest first, ending with the one that made x_k.
        model: x_k itself, where it is smaller than the steps or the client asked for it.
        accepted_round: the last round whose update from this client the server used; 0 for none.
        error_budget: l2 error this round's update may lose; 0: what the configuration says.
        control_epoch: control variates of another epoch count as zero.
        control: the common control variate, beside `model`; None for zero.
        probe: an encoded offset; the gradient is then measured at x_k minus it.
    """

    run: int
    round: int
    base_digest: bytes
    steps: tuple[StepRecord, ...] = ()
    model: Float32Vector | None = None
    accepted_round: int = 0
    error_budget: float = 0.0
    control_epoch: int = 0
    control: Float32Vector | None = None
    probe: bytes = b""


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """What a client answers: its encoded update and the measured errors of ALGORITHM section 4.

    Attributes:
        payload: encode(D + residual), decoded by the server to q.
        num_examples: examples the client trained on; its weight in the mean.
        error_l2: ||(D + residual) - q||, the residual it keeps.
        update_l2: ||D||.
        deviation_l2: ||q - D||, this client's share of the round's bounded error delta_k (27).
        loss: mean local training loss.
        gradient_scale: s such that D is about s times the mean gradient on the way; 0 where it is unknown.
        fine: a second payload, of what the first leaves out; in gradients, whose mean may be far smaller than they are.
        control_round: with control variates, the last round whose update entered this client's own; 0 for none.
    """

    round: int
    payload: bytes
    num_examples: int
    error_l2: float
    update_l2: float
    deviation_l2: float
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    gradient_scale: float = 0.0
    control_round: int = 0
    fine: bytes = b""


@dataclass(frozen=True, slots=True)
class NeedsModel:
    """A client's answer when it cannot reach x_k from what it holds; the server sends the model itself."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The weighted mean of a round's updates, and what was measured of them.

    Attributes:
        mean: m_k = sum_i w_i q_i, rounded once from float64, in the layout's order.
        delta: delta_k = sum_i w_i ||q_i - D_i||, at least ||m_k - sum_i w_i D_i||.
        drift: sqrt(sum_i w_i ||q_i - m_k||^2) / ||m_k||; 0 where m_k = 0.
        loss: sum_i w_i loss_i.
        norms: ||q_i|| by participant, after clipping and discount.
        rounds: the round of an update that came late, by client; the others are of the round itself.
        gradient_scale: sum_i w_i s_i; 0 where a client did not say.
        control_shift: with control variates, sum_i n_i q_i / s_i: what the sum of n_i c_i has grown by.
        outliers: by client, how an update stands apart from the others; only a robust rule looks.
    """

    mean: Float32Vector
    num_examples: int
    participants: tuple[int, ...]
    update_norm: float
    delta: float
    error_l2: float
    drift: float
    loss: float
    metrics: Mapping[str, float]
    norms: Mapping[int, float] = field(default_factory=dict)
    rounds: Mapping[int, int] = field(default_factory=dict)
    gradient_scale: float = 0.0
    control_shift: NDArray[np.float64] | None = None
    outliers: Mapping[int, str] = field(default_factory=dict)
