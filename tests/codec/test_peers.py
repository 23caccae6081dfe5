import math

import numpy as np
import pytest

from amgt_fed.codec import (
    Codec,
    InvalidUpdate,
    Layout,
    MaxBytes,
    RelativeError,
    UnknownCodec,
    codec_names,
    decode,
    decode_into,
    get_codec,
)

LAYOUT = Layout.from_shapes({"w": (64, 200), "b": (64,), "s": ()})


@pytest.fixture
def update() -> np.ndarray:
    return np.random.default_rng(2).laplace(size=LAYOUT.size).astype(np.float32)


def mean_decoded(name: str, update: np.ndarray, draws: int, budget: object = None, **parameters: object) -> np.ndarray:
    rng = np.random.default_rng(0)
    codec = get_codec(name, **parameters)
    return sum(codec.encode(update, LAYOUT, budget, rng=rng).decoded.astype(np.float64) for _ in range(draws)) / draws


@pytest.mark.parametrize("name", codec_names())
def test_any_payload_decodes_without_being_told_its_codec(name: str, update: np.ndarray) -> None:
    codec: Codec = get_codec(name)
    budget = MaxBytes(3000) if name in ("amgt", "unbiased", "deadzone") else None
    encoded = codec.encode(update, LAYOUT, budget)
    np.testing.assert_array_equal(decode(encoded.payload, LAYOUT), encoded.decoded)
    np.testing.assert_array_equal(codec.decode(encoded.payload, LAYOUT), encoded.decoded)
    out = np.ones(LAYOUT.size)
    decode_into(encoded.payload, LAYOUT, out, -2.0)
    np.testing.assert_array_equal(out, 1 - 2.0 * encoded.decoded.astype(np.float64))
    assert np.count_nonzero(encoded.decoded) > 0
    again = codec.encode(update, LAYOUT, budget)
    assert again.payload == encoded.payload  # no hidden randomness
    zero = codec.encode(np.zeros(LAYOUT.size, np.float32), LAYOUT, budget)
    assert not decode(zero.payload, LAYOUT).any()


def test_float16_rounds_to_half_an_ulp_and_names_what_does_not_fit(update: np.ndarray) -> None:
    decoded = get_codec("float16").encode(update, LAYOUT).decoded
    assert (np.abs(decoded - update) <= np.abs(update) * 2.0**-11 + 2.0**-25).all()
    with pytest.raises(InvalidUpdate, match="65504"):
        get_codec("float16").encode(np.full(LAYOUT.size, 7e4, np.float32), LAYOUT)


def test_int8_errs_by_at_most_a_254th_of_its_blocks_largest(update: np.ndarray) -> None:
    decoded = get_codec("int8", block=256).encode(update, LAYOUT).decoded
    for start in range(0, LAYOUT.size, 256):
        part = slice(start, start + 256)
        assert np.abs(decoded[part] - update[part]).max() <= np.abs(update[part]).max() / 254 * (1 + 1e-5)


def test_sign_contracts_as_karimireddy_states(update: np.ndarray) -> None:
    encoded = get_codec("sign").encode(update, LAYOUT)
    for segment, x in LAYOUT.views(update):
        delta = float(np.abs(x).sum(dtype=np.float64)) ** 2 / (x.size * float((x.astype(float) ** 2).sum()))
        q = encoded.decoded[segment.offset : segment.stop]
        assert float(((x - q).astype(float) ** 2).sum()) == pytest.approx(
            (1 - delta) * float((x.astype(float) ** 2).sum()), rel=1e-4, abs=1e-9
        )


def test_topk_contracts_by_its_fraction_and_keeps_the_largest(update: np.ndarray) -> None:
    encoded = get_codec("topk", fraction=0.05).encode(update, LAYOUT)
    kept = np.flatnonzero(encoded.decoded)
    assert len(kept) == round(0.05 * LAYOUT.size)
    assert encoded.nmse <= 1 - 0.05
    assert np.abs(update[kept]).min() >= np.delete(np.abs(update), kept).max()


def test_stc_spends_sattlers_bits_on_each_position() -> None:
    # (17): b* = 6 at p = .01, and b* + 1 / (1 - (1 - p)^(2^b*)) = 8.108 bits for each position of a random vector.
    layout = Layout.from_shapes({"x": (400_000,)})
    x = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    encoded = get_codec("stc", fraction=0.01).encode(x, layout)
    expected = 6 + 1 / (1 - 0.99**64)
    measured = 8 * len(encoded.payload) / 4000 - 1
    assert measured == pytest.approx(expected, rel=0.02)
    kept = np.flatnonzero(encoded.decoded)
    assert np.unique(np.abs(encoded.decoded[kept])).tolist() == pytest.approx([np.abs(x[kept]).mean()], rel=1e-6)


@pytest.mark.parametrize(("levels", "bucket"), [(1, 64), (7, 512)])
def test_qsgd_is_unbiased_with_the_variance_of_its_lemma(levels: int, bucket: int, update: np.ndarray) -> None:
    codec = get_codec("qsgd", levels=levels, bucket=bucket)
    rng = np.random.default_rng(1)
    nmse = np.mean([codec.encode(update, LAYOUT, rng=rng).nmse for _ in range(20)])
    bound = min(bucket / levels**2, math.sqrt(bucket) / levels)
    assert 0.01 * bound < nmse <= bound
    mean = mean_decoded("qsgd", update, 200, levels=levels, bucket=bucket)
    assert np.sum((mean - update) ** 2) == pytest.approx(nmse / 200 * np.sum(update.astype(float) ** 2), rel=0.1)


@pytest.mark.parametrize(("bits", "stated"), [(1, 0.57), (2, 0.13), (4, 0.0095)])
def test_eden_reaches_its_papers_error_without_bias(bits: int, stated: float) -> None:
    layout = Layout.from_shapes({"x": (1 << 14,)})
    x = np.random.default_rng(3).standard_t(4, layout.size).astype(np.float32)  # heavier than a Gaussian
    rng = np.random.default_rng(4)
    draws = [get_codec("eden", bits=bits).encode(x, layout, rng=rng) for _ in range(30)]
    assert np.mean([d.nmse for d in draws]) == pytest.approx(stated, rel=0.06)
    mean = np.mean([d.decoded.astype(float) for d in draws], axis=0)
    assert np.sum((mean - x) ** 2) < 1.3 * stated / 30 * np.sum(x.astype(float) ** 2)


def test_powersgd_recovers_low_rank_and_its_warm_start_converges() -> None:
    rng = np.random.default_rng(5)
    layout = Layout.from_shapes({"w": (40, 60)})
    exact = (rng.standard_normal((40, 2)) @ rng.standard_normal((2, 60))).astype(np.float32).reshape(-1)
    assert get_codec("powersgd", rank=2).encode(exact, layout).nmse < 1e-10
    noisy = (exact + 0.5 * rng.standard_normal(exact.size)).astype(np.float32)
    codec = get_codec("powersgd", rank=2)
    state, errors = None, []
    for _ in range(5):
        encoded = codec.encode(noisy, layout, state=state)
        state = encoded.state
        errors.append(encoded.nmse)
    values = np.linalg.svd(noisy.reshape(40, 60), compute_uv=False).astype(float)
    best = float((values[2:] ** 2).sum() / (values**2).sum())
    assert errors[-1] == pytest.approx(best, rel=0.01)
    assert errors[0] > errors[-1]


def test_the_unbiased_mode_has_the_updates_mean_and_keeps_its_budget(update: np.ndarray) -> None:
    small = update
    nmse = 0.9
    encoded = get_codec("unbiased").encode(small, LAYOUT, RelativeError(nmse), rng=np.random.default_rng(9))
    assert 0.7 * nmse < encoded.nmse <= nmse
    draws = 150
    error = mean_decoded("unbiased", small, draws, RelativeError(nmse)) - small
    energy = float(np.sum(small.astype(float) ** 2))
    assert np.sum(error**2) < 1.2 * nmse / draws * energy
    biased = get_codec("amgt").encode(small, LAYOUT, RelativeError(nmse)).decoded - small
    assert np.sum(biased.astype(float) ** 2) > 20 * np.sum(error**2)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("topk", {"fraction": 0}), ("stc", {"fraction": 1.5}), ("eden", {"bits": 3}), ("powersgd", {"rank": 0}),
     ("qsgd", {"levels": 0}), ("int8", {"block": 0})],
)  # fmt: skip
def test_parameters_out_of_range_are_named(name: str, parameters: dict[str, float]) -> None:
    with pytest.raises(InvalidUpdate, match=next(iter(parameters))):
        get_codec(name, **parameters)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownCodec, match=r"gzip.*amgt.*powersgd"):
        get_codec("gzip")
