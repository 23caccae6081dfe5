"""SCAFFOLD with compressed updates: a client's round with control variates against client drift.

Client i holds c_i, an estimate of the mean gradient on its local path, and derives the common c from the steps it is
sent, so that c costs no bytes. With s_i the local rate times the local steps:

    local steps   x <- x - eta (g_i(x) - c_i + c)
    sends         q_i = decode(encode(D_i - s_i c))             s_i (mean g_i - c_i), whatever c is
    c_i          <- c_i + q_i / s_i                             once the server says that it used q_i
    server        m   = s (c~ + sum_i w_i q_i / s_i)            c~ = sum over all clients of n_i c_i / n
                  c  <- (1 - w) c + w (step / (alpha s))        both ends, from the decoded step
                                                                s = sum_i w_i s_i; w: the participants' share of n

Where nothing is compressed this is SCAFFOLD with option II (Karimireddy et al. 2020, arXiv 1910.06378, (4), (5)),
weighted by examples and by 1 / s_i, so that clients with more local steps do not pull harder (FedNova's
normalisation). With one local step it is EF21 (Richtarik et al. 2021, arXiv 2106.05203): the codec sees the difference
to what was sent before, so its error vanishes as c_i converges, and c_i takes the place of the error-feedback residual.
c~ is exact under any codec and any participation, for the server decodes the very q_i that the clients add; so the
fixed point is the minimum of the global objective. c is off by what the downlink's codec left out; that bends the local
path but enters neither q_i nor m to first order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from amgt_fed.codec import decode
from amgt_fed.codec.interface import l2_norm
from amgt_fed.errors import RoundError
from amgt_fed.federated.client import ClientState, Compression, LocalResult, advance, checked_result, encode_within
from amgt_fed.federated.control import ClientControl
from amgt_fed.federated.messages import ClientUpdate, NeedsModel, RoundPlan
from amgt_fed.layout import Float32Vector, Layout

CorrectedTrain = Callable[[Float32Vector, Float32Vector], LocalResult]
"""Trains from x_k with the second vector, c - c_i, added to every gradient; modifies neither."""


def scaffold_round(
    plan: RoundPlan, state: ClientState, train: CorrectedTrain, layout: Layout, compression: Compression
) -> tuple[ClientUpdate | NeedsModel, ClientState]:
    """`client_round` with control variates.

    An update the server never used is dropped: the next one is encoded against the same c_i, so nothing is lost.

    Raises:
        RoundError: training gave parameters that are not finite, or cannot tell s_i.
    """
    sent, held = state.sent, state.control
    same_epoch = held is not None and held.epoch == plan.control_epoch
    if same_epoch and sent is not None and sent.round == plan.round and state.sent_base == plan.base_digest:
        return sent, state
    advanced = advance(plan, state, layout)
    if isinstance(advanced, NeedsModel):
        return advanced, state
    control = _settled(plan, advanced, layout)
    result = checked_result(train(advanced.model, np.subtract(control.common, control.own)), plan.round)
    scale = result.gradient_scale
    if not scale > 0:
        raise RoundError("client.scaffold needs plain SGD steps, whose sum is a gradient; set client.optimizer = sgd")
    update = advanced.model - result.vector
    wanted = update - np.multiply(control.common, np.float32(scale))
    encoded = encode_within(plan, wanted, layout, compression)
    answer = ClientUpdate(
        round=plan.round,
        payload=encoded.payload,
        num_examples=result.num_examples,
        error_l2=encoded.error_l2,
        update_l2=l2_norm(update),
        deviation_l2=encoded.error_l2,
        loss=result.loss,
        metrics=result.metrics,
        gradient_scale=scale,
        control_round=control.round,
    )
    return answer, replace(advanced, residual=None, sent=answer, sent_base=plan.base_digest, control=control)


def _settled(plan: RoundPlan, state: ClientState, layout: Layout) -> ClientControl:
    """The control variates after the server's word on the last answer."""
    control, sent = state.control, state.sent
    if control is None:
        raise RoundError(f"the server runs round {plan.round} without control variates, this client with them")
    if sent is None or not plan.accepted_round >= sent.round > control.round:
        return control
    learned = np.divide(decode(sent.payload, layout), np.float32(sent.gradient_scale))
    return replace(control, own=np.add(control.own, learned), round=sent.round)
