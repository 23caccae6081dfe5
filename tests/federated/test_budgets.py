"""Budgets read as written, shrink as 1/k where asked to, and refuse what makes no sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amgt_fed.codec import BitsPerParameter, MaxBytes, MaxError, RelativeError
from amgt_fed.errors import ConfigError
from amgt_fed.federated.budgets import AUTO_START, Budget, BudgetRule, LinkBudgets


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


def test_auto_is_understood_only_where_the_rounds_carry_it() -> None:
    for text in ("auto", "auto=0.5"):
        with pytest.raises(ConfigError, match="not understood"):
            BudgetRule.parse(text)
    assert BudgetRule.parse("auto", auto=True).at(1) == RelativeError(AUTO_START)
    assert BudgetRule.parse("auto=0.6", auto=True).at(4) == MaxError(0.6 / 12)
    for bad in ("auto=0", "auto=-1", "auto=x", "auto=", "auto=1/k"):
        with pytest.raises(ConfigError):
            BudgetRule.parse(bad, auto=True)


def test_a_schedule_is_promised_by_auto_alone() -> None:
    assert BudgetRule.parse("auto=0.6", auto=True).schedule_c(7.0) == 0.6
    assert BudgetRule.parse("auto", auto=True).schedule_c(0.2) == pytest.approx(0.6)
    assert BudgetRule.parse("auto", auto=True).schedule_c(0.0) is None
    assert BudgetRule.parse("error=1/k").schedule_c(0.2) is None


def test_a_table_of_links_gives_each_client_its_own() -> None:
    table = LinkBudgets.parse("0-3:bytes=300, 7:bits=0.1,2:bytes=90")
    assert table.of(1) == BudgetRule.parse("bytes=300")
    assert table.of(2) == BudgetRule.parse("bytes=90")
    assert table.of(7) == BudgetRule.parse("bits=0.1")
    assert table.of(4) is None
    assert LinkBudgets.parse("").of(0) is None


@pytest.mark.parametrize("text", ["3", "a:bytes=3", "3-1:bytes=9", "1-:bytes=9", "1:nmse=0.5", "1:auto", "1:bytes=0"])
def test_a_link_that_is_not_understood_is_named(text: str) -> None:
    with pytest.raises(ConfigError):
        LinkBudgets.parse(text)
