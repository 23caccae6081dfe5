"""The threshold against plain sorting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amgt_fed.optimizer import AMGT
from amgt_fed.optimizer.errors import InvalidBudget
from amgt_fed.optimizer.threshold import hard_threshold
from tests.reference import amgt as reference

VECTORS = arrays(np.float64, st.integers(0, 60), elements=st.floats(-100, 100, allow_subnormal=False))


@settings(max_examples=200, deadline=None)
@given(values=VECTORS, budget=st.floats(1e-3, 1e3))
def test_dropped_entries_fit_the_budget_and_no_further_one_would(values: np.ndarray, budget: float) -> None:
    moment = torch.from_numpy(values.copy())
    kept = hard_threshold(moment, budget).numpy()
    assert np.array_equal(moment.numpy(), values)  # the caller's tensor stays
    dropped = np.where(kept == 0, values, 0)
    assert np.array_equal(kept + dropped, values)
    assert np.linalg.norm(dropped) <= budget * (1 + 1e-12)
    survivors = np.abs(kept[kept != 0])
    if survivors.size:
        assert (dropped**2).sum() + survivors.min() ** 2 > budget**2 * (1 - 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [5, 4096, 4097, 300_000])
@pytest.mark.parametrize("share", [1e-3, 0.3, 0.9, 2.0])
def test_large_tensors_drop_what_sorting_drops(dtype: torch.dtype, size: int, share: float) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64).to(dtype)
    exact = values.double().numpy()
    budget = share * float(np.linalg.norm(exact))
    kept = hard_threshold(values, budget)
    smallest = np.sort(np.abs(exact))
    count = int((np.cumsum(smallest**2) <= budget**2).sum())
    assert int((kept == 0).sum()) == count
    assert kept.dtype == dtype


@settings(max_examples=100, deadline=None)
@given(values=VECTORS, budget=st.floats(1e-3, 1e3))
def test_the_sufficient_rule_stays_within_the_budget_and_drops_no_more(values: np.ndarray, budget: float) -> None:
    moment = torch.from_numpy(values.copy())
    cheap, exact = hard_threshold(moment, budget, exact=False), hard_threshold(moment, budget)
    assert float((moment - cheap).norm()) <= budget * (1 + 1e-12)
    assert int((cheap == 0).sum()) <= int((exact == 0).sum())
    if values.size:
        np.testing.assert_array_equal(cheap.numpy(), reference.sufficient_threshold(values, budget))


def test_nan_and_infinity_are_kept_and_a_bad_budget_refused() -> None:
    kept = hard_threshold(torch.tensor([1.0, math.inf, math.nan]), 5.0)
    assert kept[0] == 0
    assert kept[1] == math.inf
    assert math.isnan(kept[2])
    for budget in (-1.0, math.nan):
        with pytest.raises(InvalidBudget):
            hard_threshold(torch.ones(2), budget)


@pytest.mark.parametrize("rule", ["exact", "sufficient"])
def test_threshold_error_is_measured_per_group_and_within_the_budget(rule: str) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    groups = [{"params": [first], "threshold": 2.0}, {"params": [second], "threshold": 0.0}]
    optimizer = AMGT(groups, lr=1.0, betas=(0.0, 0.9), preconditioned=False, threshold_rule=rule)
    assert optimizer.threshold_error() == [0.0, 0.0]
    for t in range(1, 8):
        first.grad, second.grad = torch.randn_like(first), torch.randn_like(second)
        before = first.clone()
        optimizer.step()
        # b1 = 0: m_hat is the gradient, and x moved by T(m_hat)
        error, unused = optimizer.threshold_error()
        assert error == pytest.approx(float((before - first - first.grad).norm()), rel=1e-9)
        assert error <= 2 / t * float(first.grad.norm()) * (1 + 1e-12) or t == 1
        assert (error > 0) or rule == "sufficient"
        assert unused == 0
