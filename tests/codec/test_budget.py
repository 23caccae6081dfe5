import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amgt_fed.codec import (
    BitsPerParameter,
    ImpossibleBudget,
    InvalidBudget,
    InvalidUpdate,
    Layout,
    MaxBytes,
    MaxError,
    RelativeError,
    decode,
    encode,
    get_codec,
)

LAYOUT = Layout.from_shapes({"weight": (8, 12), "kernel": (4, 2, 3, 3), "bias": (7,), "scale": (), "none": (0, 3)})
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = arrays(np.float32, LAYOUT.size, elements=FINITE)


def true_error(decoded: np.ndarray, update: np.ndarray) -> float:
    return math.sqrt(math.fsum((float(a) - float(b)) ** 2 for a, b in zip(decoded, update, strict=True)))


def adversarial(kind: int, rng: np.random.Generator) -> np.ndarray:
    n = LAYOUT.size
    base = rng.standard_normal(n)
    spike = np.zeros(n)
    spike[rng.integers(n)] = 10.0 ** rng.integers(-38, 38)
    made = [
        base * 1e-44,  # denormals
        base * 10.0 ** rng.uniform(-38, 37, n),  # huge ranges
        spike,
        spike + base * 1e-3,
        np.full(n, rng.standard_normal()),
        np.zeros(n),
        np.where(np.arange(n) % 2, 1.0, -1.0) * 3e38,  # alternating, at the end of the range
        np.where(np.arange(n) % 2, 1e-20, 1e20),
        np.outer(base[:8], base[8:20]).repeat(2)[:n] if n <= 192 else base,
        rng.standard_cauchy(n),
    ]
    return made[kind % len(made)].astype(np.float32)


def check(update: np.ndarray, budget: MaxError | RelativeError | MaxBytes | BitsPerParameter) -> None:
    encoded = encode(update, LAYOUT, budget)
    np.testing.assert_array_equal(decode(encoded.payload, LAYOUT), encoded.decoded)
    error = true_error(encoded.decoded, update)
    assert encoded.error_l2 == pytest.approx(error, rel=1e-12)
    norm = true_error(np.zeros_like(update), update)
    match budget:
        case MaxError(l2):
            assert error <= l2
        case RelativeError(nmse):
            assert error <= math.sqrt(nmse) * norm
        case MaxBytes(count):
            assert len(encoded.payload) <= count
        case BitsPerParameter(bits):
            assert len(encoded.payload) <= bits * LAYOUT.size / 8


@settings(max_examples=150, deadline=None)
@given(update=vectors, nmse=st.sampled_from([0.0, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0, 2.0]))
def test_a_relative_error_is_never_exceeded(update: np.ndarray, nmse: float) -> None:
    check(update, RelativeError(nmse))


@settings(max_examples=150, deadline=None)
@given(update=vectors, count=st.integers(15, 900))
def test_a_byte_count_is_never_exceeded(update: np.ndarray, count: int) -> None:
    check(update, MaxBytes(count))


@pytest.mark.parametrize("kind", range(10))
def test_no_budget_is_broken_by_adversarial_vectors(kind: int) -> None:
    rng = np.random.default_rng(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            update = adversarial(kind, rng)
            norm = true_error(np.zeros_like(update), update)
            for share in (0.0, 1e-7, 1e-3, 0.2, 0.7):
                check(update, MaxError(share * norm))
                check(update, RelativeError(share))
            for count in (15, 40, 200, 5000):
                check(update, MaxBytes(count))
            check(update, BitsPerParameter(4.0))


def test_more_bytes_never_hurt_much_and_more_error_costs_fewer_bytes() -> None:
    update = np.random.default_rng(0).laplace(size=LAYOUT.size).astype(np.float32)
    errors = [encode(update, LAYOUT, MaxBytes(count)).error_l2 for count in (30, 60, 120, 240, 800)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2 * errors[0]
    sizes = [len(encode(update, LAYOUT, RelativeError(nmse)).payload) for nmse in (0.0, 0.01, 0.1, 0.5, 0.9)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 8


def test_impossible_budgets_say_the_smallest_possible() -> None:
    update = np.ones(LAYOUT.size, np.float32)
    for count in (1, 13, 14):
        with pytest.raises(ImpossibleBudget, match=r"15|needs 1"):
            encode(update, LAYOUT, MaxBytes(count))
    with pytest.raises(ImpossibleBudget, match="topk"):
        get_codec("topk", fraction=0.01).encode(update, LAYOUT, RelativeError(0.01))
    with pytest.raises(ImpossibleBudget, match=r"dense .* takes \d+"):
        get_codec("dense").encode(update, LAYOUT, MaxBytes(100))


@pytest.mark.parametrize(
    "build",
    [
        lambda: MaxError(-1.0),
        lambda: MaxError(math.nan),
        lambda: RelativeError(-0.1),
        lambda: MaxBytes(0),
        lambda: MaxBytes(2.5),
        lambda: BitsPerParameter(0),
        lambda: BitsPerParameter(math.inf),
    ],
)
def test_senseless_budgets_are_refused(build: object) -> None:
    with pytest.raises(InvalidBudget):
        build()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_by_position(bad: float) -> None:
    update = np.ones(LAYOUT.size, np.float32)
    update[17] = bad
    with pytest.raises(InvalidUpdate, match=r"update\[17\]"):
        encode(update, LAYOUT, RelativeError(0.1))


def test_wrong_dtype_and_shape_are_refused() -> None:
    with pytest.raises(InvalidUpdate, match="float64"):
        encode(np.ones(LAYOUT.size), LAYOUT, RelativeError(0.1))
    with pytest.raises(InvalidUpdate, match="shape"):
        encode(np.ones(3, np.float32), LAYOUT, RelativeError(0.1))
