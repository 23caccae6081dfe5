import math
import pickle
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amgt_fed.errors import ConfigError
from amgt_fed.schedules import (
    Constant,
    InvalidSchedule,
    InverseRound,
    InverseTime,
    RelativeInverseRound,
    StronglyConvex,
    SummableSchedule,
)

positive = st.floats(1e-9, 1e9)
schedules = st.one_of(
    st.builds(Constant, st.floats(0, 1e9)),
    st.builds(InverseTime, positive, st.one_of(st.just(0.0), st.floats(1e-14, 1e6))),
    st.builds(StronglyConvex, positive, st.floats(0, 1e9)),
    st.builds(InverseRound, st.floats(0, 1e9)),
    st.builds(RelativeInverseRound, st.floats(0, 1e3)),
)


@given(schedule=schedules, rounds=st.integers(0, 3000))
def test_the_partial_sum_is_the_sum(schedule: SummableSchedule, rounds: int) -> None:
    summed = math.fsum(schedule(k) for k in range(1, rounds + 1))
    # abs: values below 1e-300 are subnormal, where no sum has 15 digits
    assert schedule.partial_sum(rounds) == pytest.approx(summed, rel=5e-15, abs=1e-300)


def test_the_partial_sum_of_a_million_rounds_takes_no_million_steps() -> None:
    # H(10^12), from its asymptotic series: log n + gamma + 1/(2n)
    expected = math.log(1e12) + 0.57721566490153286061 + 0.5e-12
    assert InverseRound(1.0).partial_sum(10**12) == pytest.approx(expected, rel=1e-14)


@given(schedule=schedules, round=st.integers(1, 10**9))
def test_values_never_grow_and_never_turn_negative(schedule: SummableSchedule, round: int) -> None:
    assert schedule(round) >= schedule(round + 1) >= 0


def test_each_schedule_follows_its_equation() -> None:
    assert InverseTime(0.3, 0.5)(5) == 0.3 / (1 + 0.5 * 4)
    assert StronglyConvex(2.0, 3)(4) == 1 / (2.0 * 7)
    assert StronglyConvex(2.0)(1) == 0.5
    assert InverseRound(6.0)(3) == 2.0
    assert RelativeInverseRound(0.5)(10) == 0.05
    assert RelativeInverseRound(0.5).of(10, norm=4.0) == pytest.approx(0.2)
    assert Constant(0.25)(1) == Constant(0.25)(10**9) == 0.25


@given(theta=st.floats(0, 10), norm=st.floats(0, 1e6), slack=st.floats(0, 1e6), round=st.integers(1, 10**6))
def test_a_relative_budget_lies_within_its_absolute_bound(theta: float, norm: float, slack: float, round: int) -> None:
    relative = RelativeInverseRound(theta)
    assert relative.of(round, norm) <= relative.at_most(norm + slack)(round) * (1 + 1e-15)


@given(mu=st.floats(1e-6, 1e3), kappa=st.floats(1, 1e6))
def test_no_step_of_the_smooth_schedule_exceeds_one_over_l(mu: float, kappa: float) -> None:
    schedule = StronglyConvex.for_smoothness(mu, mu * kappa)
    assert schedule(1) <= 1 / (mu * kappa) * (1 + 1e-12)
    if schedule.t0 >= 1:  # and t0 is the smallest whole number that does it
        assert StronglyConvex(mu, schedule.t0 - 1)(1) > 1 / (mu * kappa) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("build", "name", "value"),
    [
        (lambda: Constant(-1.0), "value", "-1.0"),
        (lambda: InverseTime(0.0), "initial", "0.0"),
        (lambda: InverseTime(math.nan), "initial", "nan"),
        (lambda: InverseTime(1.0, -0.1), "decay", "-0.1"),
        (lambda: StronglyConvex(-2.0), "mu", "-2.0"),
        (lambda: StronglyConvex(math.inf), "mu", "inf"),
        (lambda: StronglyConvex(1.0, -1), "t0", "-1"),
        (lambda: StronglyConvex.for_smoothness(2.0, 1.0), "smoothness", "1.0"),
        (lambda: StronglyConvex.for_smoothness(2.0, math.nan), "smoothness", "nan"),
        (lambda: StronglyConvex.for_smoothness(0.0, 1.0), "mu", "0.0"),
        (lambda: InverseRound(math.inf), "c", "inf"),
        (lambda: RelativeInverseRound(-0.5), "theta", "-0.5"),
        (lambda: RelativeInverseRound(0.5).of(1, -1.0), "norm", "-1.0"),
        (lambda: RelativeInverseRound(0.5).at_most(math.nan), "norm_bound", "nan"),
        (lambda: InverseRound(1.0)(0), "round", "0"),
        (lambda: InverseTime(1.0)(-3), "round", "-3"),
        (lambda: Constant(1.0)(0), "round", "0"),
        (lambda: InverseRound(1.0).partial_sum(-1), "rounds", "-1"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(build, name, value) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        build()
    assert str(caught.value).startswith(f"{name} is {value}; give a finite number >")
    assert isinstance(caught.value, ConfigError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_schedules_are_frozen_values() -> None:
    assert StronglyConvex(2.0, 3) == StronglyConvex(2.0, 3)
    assert hash(InverseRound(1.0)) == hash(InverseRound(1.0))
    with pytest.raises(FrozenInstanceError):
        InverseRound(1.0).c = 2.0  # type: ignore[misc]
