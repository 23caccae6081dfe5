"""AMGT against the reference, and the claims the paper makes for it."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amgt_fed.optimizer import AMGT
from tests.reference.amgt import ReferenceAMGT

OPTIONS = st.fixed_dictionaries(
    {
        "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
        "eps": st.sampled_from([0.0, 1e-12, 1e-8, 1e-3]),
        "gamma": st.sampled_from([0.0, 0.1, 1.0, 7.5]),
        "kappa": st.sampled_from([0.0, 0.3, 1.0]),
        "step_size": st.one_of(
            st.fixed_dictionaries({"lr": st.floats(0, 0.1), "lr_decay": st.sampled_from([0.0, 0.01, 1.0])}),
            st.fixed_dictionaries({"mu": st.floats(0.5, 20), "t0": st.sampled_from([0.0, 3.0, 2.5])}),
        ),
        "threshold": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "threshold_steps": st.sampled_from([0, 1, 7, 150]),
        "threshold_mode": st.sampled_from(["relative", "absolute"]),
        "threshold_rule": st.sampled_from(["exact", "sufficient"]),
        "variance": st.sampled_from(["relative", "absolute"]),
        "preconditioned": st.booleans(),
        "weight_decay": st.sampled_from([0.0, 0.05]),
        "decoupled_weight_decay": st.booleans(),
        "amsgrad": st.booleans(),
        "maximize": st.booleans(),
    }
)
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
PATHS = st.sampled_from(
    [{"foreach": False}, {"foreach": True}, {"capturable": True}, {"differentiable": True}]
    + ([{"fused": True}] if COMPILER else [])
)


def reference_options(options: dict[str, Any]) -> dict[str, Any]:
    renamed = {"threshold": "theta", "decoupled_weight_decay": "decoupled"}
    return {renamed.get(k, k): v for k, v in options.items() if k != "threshold_rule"} | {
        "exact": options["threshold_rule"] == "exact"
    }


@settings(max_examples=40, deadline=None)
@given(options=OPTIONS, path=PATHS, size=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_amgt_follows_the_reference_to_1e_12_over_200_steps(
    options: dict[str, Any], path: dict[str, bool], size: int, seed: int
) -> None:
    options = dict(options)
    options |= options.pop("step_size")
    rng = np.random.default_rng(seed)
    start, target = rng.normal(size=size), rng.normal(size=size)
    x = torch.tensor(start, requires_grad="differentiable" not in path)  # autograd refuses to step a leaf
    optimizer = AMGT([x], **options, **path)
    reference = ReferenceAMGT(start, **reference_options(options))
    for _ in range(200):
        # One gradient for both: it is the step that is compared, not how two losses amplify a rounding.
        gradient = np.clip(reference.x - target, -1, 1) + rng.normal(size=size) * rng.choice([0.1, 1.0])
        x.grad = torch.tensor(gradient)
        optimizer.step()
        reference.step(gradient)
        np.testing.assert_allclose(x.detach().numpy(), reference.x, rtol=1e-12, atol=1e-12)
        assert optimizer.threshold_error() == pytest.approx([reference.error], rel=1e-9, abs=1e-12)
