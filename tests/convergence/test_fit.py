import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amgt_fed.convergence import LastHalfSlope, fit_slope


@given(exponent=st.floats(-4, 4), scale=st.floats(1e-6, 1e6), first=st.integers(1, 10**5), count=st.integers(3, 200))
def test_the_slope_of_a_power_is_its_exponent(exponent: float, scale: float, first: int, count: int) -> None:
    rounds = np.arange(first, first + count, dtype=float)
    slope = fit_slope(rounds, scale * rounds**exponent)
    assert slope is not None
    # log k over a short stretch late in a run barely varies: rounding of log(value) is all that moves the slope
    spread = math.log(rounds[-1] / rounds[0])
    assert slope.value == pytest.approx(exponent, abs=1e-13 * (abs(exponent) * math.log(rounds[-1]) + 20) / spread)
    assert slope.points == count


def test_the_slope_and_its_error_are_those_of_least_squares() -> None:
    generator = np.random.default_rng(1)
    rounds = np.arange(1, 500)
    values = rounds**-1.3 * np.exp(generator.normal(0, 0.5, rounds.size))
    x, y = np.log(rounds), np.log(values)
    coefficients, covariance = np.polyfit(x, y, 1, cov=True)
    slope = fit_slope(rounds, values)
    assert slope is not None
    assert slope.value == pytest.approx(coefficients[0], rel=1e-10)
    assert slope.standard_error == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-10)


def test_values_without_a_logarithm_are_left_out() -> None:
    rounds = [1, 2, 3, 4, 5, 6]
    slope = fit_slope(rounds, [1, 0, 1 / 3, math.nan, 1 / 5, math.inf])
    assert slope is not None
    assert slope.points == 3
    assert slope.value == pytest.approx(-1)
    assert fit_slope([1, 2], [1, 2]) is None
    assert fit_slope([7, 7, 7], [1, 2, 3]) is None


@pytest.mark.parametrize("last", [3, 5, 31, 32, 100, 1000, 4096, 5000])
def test_the_running_slope_is_that_of_the_last_half(last: int) -> None:
    generator = np.random.default_rng(last)
    # An early phase of another slope: a fit that still held it would be far off.
    values = [
        k**2.0 if k <= last // 2 else 50 * k**-1.0 * math.exp(generator.normal(0, 0.01)) for k in range(1, last + 1)
    ]
    running = LastHalfSlope()
    for k, value in enumerate(values, start=1):
        running.add(k, value)
    slope = running.slope()
    half = np.arange(last // 2 + 1, last + 1)
    expected = fit_slope(half, [values[k - 1] for k in half])
    if expected is None:
        assert slope is None
        return
    assert slope is not None
    if last < 32:
        assert slope.value == pytest.approx(expected.value, rel=1e-9)
        assert slope.points == half.size
    else:
        assert half.size * (1 - 1 / 16) - 1 <= slope.points <= half.size
        assert slope.value == pytest.approx(expected.value, abs=5 * expected.standard_error)


def test_the_running_slope_needs_constant_memory_and_survives_json_bit_for_bit() -> None:
    generator = np.random.default_rng(0)
    whole, sizes = LastHalfSlope(), []
    resumed = LastHalfSlope()
    for k in range(1, 20_001):
        value = float(generator.lognormal() / k)
        whole.add(k, value)
        resumed.add(k, value)
        if k % 1000 == 0:
            resumed = LastHalfSlope.from_state(json.loads(json.dumps(resumed.state())))
            assert resumed.slope() == whole.slope()
            sizes.append(len(resumed.state()))
    assert max(sizes) <= 17
