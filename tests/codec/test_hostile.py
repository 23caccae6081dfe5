"""Damaged and made-up payloads are decoded or refused with CodecError, quickly and in bounded memory."""

import importlib.util
import sys
import time
import tracemalloc
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amgt_fed.codec import CodecError, CorruptPayload, Layout, MaxBytes, RelativeError, decode, decode_into, encode
from amgt_fed.codec.body import PIPELINE
from amgt_fed.codec.frame import wrap

FUZZ = Path(__file__).parents[2] / "benchmarks" / "codec_fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("codec_fuzz", FUZZ)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def test_ten_thousand_mutations_are_decoded_or_refused(fuzz: ModuleType) -> None:
    refused = accepted = 0
    for payload in fuzz.mutations(10_000, seed=7):
        try:
            assert np.isfinite(decode(payload, fuzz.LAYOUT)).all()
            accepted += 1
        except CodecError:
            refused += 1
    assert refused > 5000
    assert accepted > 500  # the mutations reach past the checks


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=200), codec_id=st.integers(0, 255))
def test_any_body_under_a_right_checksum_is_decoded_or_refused(body: bytes, codec_id: int) -> None:
    layout = Layout.from_shapes({"w": (6, 9), "b": (6,)})
    try:
        decoded = decode(wrap(codec_id, body, layout, 0.0), layout)
    except CodecError:
        return
    assert decoded.shape == (layout.size,)
    assert np.isfinite(decoded).all()


def test_truncation_anywhere_and_any_flipped_bit_is_refused() -> None:
    layout = Layout.from_shapes({"w": (10, 12)})
    x = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    payload = encode(x, layout, MaxBytes(90)).payload
    for length in range(len(payload)):
        with pytest.raises(CodecError):
            decode(payload[:length], layout)
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            decode(bytes(damaged), layout)


def test_an_accumulator_is_untouched_when_a_payload_is_refused(fuzz: ModuleType) -> None:
    out = np.zeros(fuzz.LAYOUT.size)
    refused = 0
    for payload in fuzz.mutations(600, seed=3):
        try:
            decode_into(payload, fuzz.LAYOUT, out, 1.0)
            out[:] = 0
        except CodecError:
            refused += 1
            assert not out.any()
    assert refused > 200


def test_a_short_payload_cannot_keep_the_decoder_busy() -> None:
    layout = Layout.from_shapes({"w": (2048, 2048)})
    rank = bytes([254]) + b"\x00" + bytes([0, 255, 255]) * 254
    for flags in (0, 10):
        body = bytes([PIPELINE, flags, 1]) + rank + b"\x00" + bytes(5000)
        start = time.perf_counter()
        with pytest.raises(CorruptPayload):
            decode(wrap(2, body, layout, 0.0), layout)
        assert time.perf_counter() - start < 0.5  # 50 ms on an idle core; the suite shares its cores


def test_zstandard_cannot_be_made_to_inflate_past_the_model() -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(200 << 20))
    layout = Layout.from_shapes({"w": (1000,)})
    tracemalloc.start()
    with pytest.raises(CorruptPayload, match="zstandard"):
        decode(wrap(2, bytes([1]) + bomb, layout, 0.0), layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_values_beyond_float32_are_refused_before_they_are_made() -> None:
    layout = Layout.from_shapes({"w": (4, 5)})
    x = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    honest = bytearray(encode(x, layout, RelativeError(0.5)).payload[14:])
    assert honest[0] == PIPELINE
    scaled = bytes([3]) + (190).to_bytes(2, "little") + bytes(honest)
    with pytest.raises(CorruptPayload, match="float32 ends"):
        decode(wrap(2, scaled, layout, 0.0), layout)
