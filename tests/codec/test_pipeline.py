import hashlib
import subprocess
import sys

import numpy as np
import pytest

from amgt_fed.codec import Layout, MaxBytes, RelativeError, decode, decode_into, encode, get_codec
from amgt_fed.codec.lowrank import Factors

LAYOUT = Layout.from_shapes({"conv": (8, 4, 3, 3), "fc": (96, 160), "bias": (96,)})


def update(rank: int = 3, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = (noise * rng.laplace(size=LAYOUT.size)).astype(np.float32)
    segment = LAYOUT.segments[1]
    out[segment.offset : segment.stop] += (
        (rng.standard_normal((96, rank)) @ rng.standard_normal((rank, 160))).reshape(-1).astype(np.float32)
    )
    return out


def test_low_rank_structure_is_found_and_paid_by_tensor() -> None:
    encoded = encode(update(), LAYOUT, RelativeError(0.1))
    ranks = {t.name: t.rank for t in encoded.tensors}
    assert ranks["fc"] == 3
    assert ranks["bias"] == 0
    plain = get_codec("deadzone").encode(update(), LAYOUT, RelativeError(0.1))
    assert len(encoded.payload) < len(plain.payload) / 3
    assert sum(t.payload_bytes for t in encoded.tensors) <= len(encoded.payload)
    assert sum(t.payload_bytes for t in encoded.tensors) > 0.8 * len(encoded.payload)


def test_noise_costs_no_more_than_the_plain_dead_zone() -> None:
    noise = np.random.default_rng(3).laplace(size=LAYOUT.size).astype(np.float32)
    for nmse in (0.5, 0.1, 0.01):
        mine = encode(noise, LAYOUT, RelativeError(nmse))
        plain = get_codec("deadzone").encode(noise, LAYOUT, RelativeError(nmse))
        assert len(mine.payload) <= 1.01 * len(plain.payload)


def test_laplace_noise_comes_close_to_its_dead_zone_entropy() -> None:
    layout = Layout.from_shapes({"x": (1 << 19,)})
    x = np.random.default_rng(1).laplace(size=layout.size).astype(np.float32)
    encoded = encode(x, layout, RelativeError(0.1))
    # The least order-0 entropy of a dead-zone quantizer with centroids at this error, found by a sweep: 1.757 bits.
    assert encoded.bits_per_parameter < 1.757 * 1.02


def test_decode_into_adds_what_decode_gives() -> None:
    encoded = encode(update(), LAYOUT, MaxBytes(600))
    for dtype in (np.float64, np.float32):
        out = np.full(LAYOUT.size, 0.5, dtype)
        decode_into(encoded.payload, LAYOUT, out, 0.25)
        expected = dtype(0.5) + dtype(0.25) * encoded.decoded.astype(dtype)
        np.testing.assert_array_equal(out, expected)


def test_the_state_of_one_round_serves_the_next() -> None:
    first = encode(update(seed=0), LAYOUT, MaxBytes(500))
    second = encode(update(seed=1), LAYOUT, MaxBytes(500), state=first.state)
    fresh = encode(update(seed=1), LAYOUT, MaxBytes(500))
    assert second.error_l2 <= 1.1 * fresh.error_l2
    np.testing.assert_array_equal(decode(second.payload, LAYOUT), second.decoded)


def test_equal_inputs_give_equal_bytes_in_another_process() -> None:
    program = (
        "import numpy as np, hashlib\n"
        "from amgt_fed.codec import *\n"
        "x = np.random.default_rng(7).standard_normal(3000).astype(np.float32)\n"
        "e = encode(x, Layout.from_shapes({'w': (50, 60)}), MaxBytes(700))\n"
        "print(hashlib.sha256(e.payload + e.decoded.tobytes()).hexdigest())\n"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    x = np.random.default_rng(7).standard_normal(3000).astype(np.float32)
    here = encode(x, Layout.from_shapes({"w": (50, 60)}), MaxBytes(700))
    assert there.stdout.strip() == hashlib.sha256(here.payload + here.decoded.tobytes()).hexdigest()


def test_low_rank_sums_do_not_depend_on_their_order() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(-300, 300, (6, 20)), rng.integers(-300, 300, (6, 30))
    mantissa, exponent = rng.integers(8, 16, 6), rng.integers(0, 20, 6)
    order = np.array([3, 0, 5, 1, 4, 2])
    one = Factors(left, right, mantissa, exponent, -30)
    other = Factors(left[order], right[order], mantissa[order], exponent[order], -30)
    for (_, a), (_, b) in zip(one.blocks(7), other.blocks(7), strict=True):
        np.testing.assert_array_equal(a, b)
    # The same sums in Python's whole numbers, rounded once.
    exact = sum(int(left[k, 2]) * int(right[k, 5]) * (int(mantissa[k]) << int(exponent[k])) for k in range(6))
    assert next(one.blocks(20))[1][2, 5] == np.float32(exact * 2.0**-30)


def test_framing_is_small_and_grows_by_under_four_bytes_a_tensor() -> None:
    def size(count: int) -> int:
        layout = Layout.from_shapes({f"t{i}": (40,) for i in range(count)})
        return len(encode(np.zeros(layout.size, np.float32), layout, RelativeError(0.1)).payload)

    assert size(1) <= 32
    one = Layout.from_shapes({"t": (64,)})
    spike = np.zeros(64, np.float32)
    spike[5] = 1
    assert len(encode(spike, one, RelativeError(1e-3)).payload) <= 32 + 4
    many = Layout.from_shapes({f"t{i}": (64,) for i in range(9)})
    few = encode(spike, one, RelativeError(1e-3))
    nine = encode(np.concatenate([spike, np.zeros(512, np.float32)]), many, RelativeError(1e-3))
    assert len(nine.payload) - len(few.payload) <= 4 * 8


@pytest.mark.parametrize("shape", [(1,), (), (0,), (1, 1), (1, 50), (50, 1), (2, 2), (3, 0)])
def test_odd_shapes_survive(shape: tuple[int, ...]) -> None:
    layout = Layout.from_shapes({"x": shape})
    x = np.arange(1, layout.size + 1, dtype=np.float32)
    for budget in (RelativeError(0.0), RelativeError(0.1), MaxBytes(60)):
        encoded = encode(x, layout, budget)
        np.testing.assert_array_equal(decode(encoded.payload, layout), encoded.decoded)
