"""Budgets read as written, shrink as 1/k where asked to, and refuse what makes no sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amgt_fed.codec import BitsPerParameter, MaxBytes, MaxError, RelativeError
from amgt_fed.errors import ConfigError
from amgt_fed.federated.budgets import Budget, BudgetRule


@pytest.mark.parametrize(
    ("text", "round", "budget"),
    [
        ("bytes=600", 9, MaxBytes(600)),
        ("bits=0.25", 9, BitsPerParameter(0.25)),
        ("nmse=0.7", 9, RelativeError(0.7)),
        ("error=0.5", 9, MaxError(0.5)),
        ("error=0.5/k", 1, MaxError(0.5)),
        ("error=0.5/k", 4, MaxError(0.125)),
        (" error = 3e-1 / k ", 3, MaxError(0.3 / 3)),
        ("none", 1, None),
    ],
)
def test_a_budget_reads_as_written(text: str, round: int, budget: Budget | None) -> None:
    assert BudgetRule.parse(text).at(round) == budget


@given(c=st.floats(1e-6, 1e6), round=st.integers(1, 10**7))
def test_error_c_over_k_is_c_over_k(c: float, round: int) -> None:
    budget = BudgetRule.parse(f"error={c!r}/k").at(round)
    assert budget == MaxError(c / round)  # (27)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "600",
        "bytes",
        "bytes=",
        "bytes=abc",
        "bytes=1.5",
        "bytes=0",
        "bytes=-3",
        "bytes=600/k",
        "nmse=1",
        "nmse=0",
        "nmse=0.5/k",
        "bits=inf",
        "bits=nan",
        "error=0",
        "error=-1/k",
        "error=/k",
        "error=1/k/k",
        "speed=3",
        "NONE",
    ],
)
def test_a_budget_without_sense_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BudgetRule.parse(text)
    assert repr(text) in str(caught.value)
