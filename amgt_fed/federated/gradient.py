"""A client's answer in a certified round: its full gradient within an error that is measured in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec import MaxError, decode, get_codec
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.federated.messages import ClientUpdate, RoundPlan
from amgt_fed.layout import Layout

_CODEC = "amgt"  # meets every error, which codec.uplink (top-k, say) need not
_FINE_SHARE = 0.5  # of the budget, so that rounding the rest to float32 cannot break it


def encode_gradient(
    plan: RoundPlan, gradient: NDArray[np.float64], num_examples: int, loss: float, layout: Layout, rule: BudgetRule
) -> ClientUpdate:
    """Encode a gradient within the plan's error budget, or by `rule` where the plan names none.

    Near the minimum the mean over the clients is far smaller than the gradients it is made of, and may be smaller than
    their rounding to float32. Where the budget asks for that, a second payload carries what the first leaves out.

    Args:
        plan: its `error_budget` is an l2 error in [f]/[x]; 0: use `rule`.
        gradient: shape (layout.size,), float64, not modified.
        num_examples: it is the mean over.
        loss: at the same point.
        layout: of the model.
        rule: `convergence.certify_budget`.

    Returns:
        The answer; `deviation_l2` is the error against the float64 gradient.
    """
    codec = get_codec(_CODEC)
    budget = MaxError(plan.error_budget) if plan.error_budget > 0 else rule.at(plan.round)
    encoded = codec.encode(gradient.astype(np.float32), layout, budget)
    left = gradient - encoded.decoded
    error = float(np.linalg.norm(left))
    fine = b""
    if 0 < plan.error_budget < error:
        fine = codec.encode(left.astype(np.float32), layout, MaxError(_FINE_SHARE * plan.error_budget)).payload
        error = float(np.linalg.norm(left - decode(fine, layout)))
    return ClientUpdate(
        round=plan.round,
        payload=encoded.payload,
        num_examples=num_examples,
        error_l2=error,
        update_l2=float(np.linalg.norm(gradient)),
        deviation_l2=error,
        loss=loss,
        fine=fine,
    )
