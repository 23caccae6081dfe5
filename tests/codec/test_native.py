"""The C kernel gives the bits that numpy gives, and is not needed."""

import math
import shutil
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amgt_fed.codec import (
    BitsPerParameter,
    CodecError,
    Encoded,
    Layout,
    MaxBytes,
    RelativeError,
    decode,
    decode_into,
    encode,
    get_codec,
    native,
    rans,
    scan,
    symbols,
)
from amgt_fed.codec.quantize import quantize
from amgt_fed.codec.tables import gap_book, level_book

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="this machine has no C compiler")
LAYOUT = Layout.from_shapes({"weight": (24, 40), "kernel": (6, 4, 3, 3), "bias": (24,), "scale": (), "none": (0, 3)})
# Both sides of the ends of blocks, rows and chunks.
SIZES = [0, 1, 31, 32, 33, 255, 256, 257, 5000, scan.CHUNK - 1, scan.CHUNK, scan.CHUNK + 1, 3 * scan.CHUNK + 777]


def both_ways(work: Callable[[], object]) -> tuple[object, object]:
    with native.use_kernel(False) as used:
        assert not used
        slow = work()
    with native.use_kernel(True) as used:
        assert used
        fast = work()
    return slow, fast


def vector(size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = (rng.laplace(size=size) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
    out[rng.random(size) < 0.1] = 0
    out[rng.random(size) < 0.05] *= np.float32(1e-39)  # denormals
    out[rng.random(size) < 0.05] *= np.float32(-0.0)
    return out


@needs_compiler
@pytest.mark.parametrize("size", SIZES)
def test_every_pass_gives_the_same_bits(size: int) -> None:
    x, y = vector(size), vector(size, 1)
    for work in (
        lambda: scan.squares(x),
        lambda: scan.squared_difference(x, y),
        lambda: scan.histogram(x).tobytes(),
        lambda: quantize(x[x != 0], 0.37).levels.tobytes(),
        lambda: [getattr(quantize(x, 1e-3), name) for name in ("ones", "first", "others", "squares")],
    ):
        slow, fast = both_ways(work)
        assert slow == fast
    for threshold in (1e-45, 1e-3, 0.5, 20.0, math.inf):
        for expected in (0, size):  # 0: the kernel finds more than it has room for
            slow, fast = both_ways(lambda t=threshold, e=expected: scan.select(x, np.float32(t), e))
            assert isinstance(slow, scan.Selection)
            assert isinstance(fast, scan.Selection)
            np.testing.assert_array_equal(slow.indices, fast.indices)
            np.testing.assert_array_equal(slow.values.view(np.uint32), fast.values.view(np.uint32))
            assert slow.rest == fast.rest
            np.testing.assert_array_equal(slow.indices, np.flatnonzero(np.abs(x) >= np.float32(threshold)))
            assert slow.rest == pytest.approx(math.fsum(float(v) ** 2 for v in x if abs(v) < threshold), rel=1e-12)


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    numbers=arrays(np.int32, st.integers(0, 400), elements=st.integers(0, (1 << 31) - 2)),
    widths=arrays(np.uint8, st.integers(0, 300), elements=st.integers(0, 31)),
    first=st.integers(0, 40),
)
def test_symbols_and_bits_are_written_and_read_alike(numbers: np.ndarray, widths: np.ndarray, first: int) -> None:
    levels = np.where(numbers % 2, -1, 1).astype(np.int32) * (numbers // 2 + 1)
    indices = np.unique(numbers)
    values = (np.arange(widths.size, dtype=np.int64) * 0x9E3779B1 & ((1 << widths.astype(np.int64)) - 1)).astype(
        np.uint32
    )
    lead = symbols.PlainBits(np.zeros(first, np.uint8), np.ones(first, np.uint8))
    for work in (
        lambda: [part.tolist() for part in symbols.level_symbols(levels)],
        lambda: [part.tolist() for part in symbols.gap_symbols(indices)],
        lambda: symbols.pack([lead, symbols.PlainBits(values, widths)]),
    ):
        slow, fast = both_ways(work)
        assert slow == fast
    data = memoryview(symbols.pack([lead, symbols.PlainBits(values, widths)]))
    for read in both_ways(lambda: symbols.unpack(data, widths, first)):
        np.testing.assert_array_equal(read, values)


@needs_compiler
@pytest.mark.parametrize("log2_lanes", [0, 1, 6, 10])
def test_the_range_coder_writes_and_reads_the_same_words(log2_lanes: int) -> None:
    rng = np.random.default_rng(log2_lanes)
    tables = rng.integers(0, 512, 5)
    lengths = rng.integers(1, 3000, 9)
    runs = rans.Runs(
        np.concatenate([level_book().frequency, gap_book().frequency])[tables], rng.integers(0, 5, 9), lengths
    )
    drawn = [rng.choice(64, n, p=runs.frequency[r] / (1 << 15)) for n, r in zip(lengths, runs.rows, strict=True)]
    given_symbols = np.concatenate(drawn).astype(np.uint8)
    slow, fast = both_ways(lambda: rans.encode(given_symbols, runs, log2_lanes))
    assert slow == fast
    assert isinstance(slow, bytes)
    for symbols_read, used in both_ways(lambda: rans.decode(memoryview(slow + b"tail"), runs, log2_lanes)):
        assert used == len(slow)
        np.testing.assert_array_equal(symbols_read, given_symbols)
    for damaged in (slow[:-2], slow[: 4 << log2_lanes]):
        for outcome in both_ways(lambda d=damaged: refusal(lambda: rans.decode(memoryview(d), runs, log2_lanes))):
            assert outcome is not None
            assert "end" in outcome


def refusal(work: Callable[[], object]) -> str | None:
    try:
        work()
    except CodecError as error:
        return str(error)
    return None


def same(one: Encoded, other: Encoded) -> None:
    assert one.payload == other.payload
    np.testing.assert_array_equal(one.decoded.view(np.uint32), other.decoded.view(np.uint32))
    assert one.error_l2 == other.error_l2
    assert one.tensors == other.tensors


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    rank=st.integers(0, 4),
    budget=st.sampled_from(
        [RelativeError(x) for x in (0.9, 0.5, 0.1, 1e-3, 1e-7, 0.0)]
        + [MaxBytes(x) for x in (20, 90, 400, 2000)]
        + [BitsPerParameter(x) for x in (0.7, 4.0)]
    ),
    scale=st.sampled_from([1.0, 1e-30, 1e30]),
)
def test_payloads_and_decoded_floats_are_the_same(seed: int, rank: int, budget: RelativeError, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x = vector(LAYOUT.size, seed).astype(np.float64)
    x[: 24 * 40] += (rng.standard_normal((24, rank)) @ rng.standard_normal((rank, 40))).reshape(-1)
    update = (x * scale).astype(np.float32)
    slow, fast = both_ways(lambda: encode(update, LAYOUT, budget))
    assert isinstance(slow, Encoded)
    assert isinstance(fast, Encoded)
    same(slow, fast)
    for read in both_ways(lambda: decode(slow.payload, LAYOUT)):
        np.testing.assert_array_equal(read, slow.decoded)


@needs_compiler
@pytest.mark.parametrize("name", ["amgt", "unbiased", "deadzone"])
@pytest.mark.parametrize("budget", [RelativeError(0.6), RelativeError(0.05), MaxBytes(30_000)])
def test_large_vectors_too(name: str, budget: RelativeError | MaxBytes) -> None:
    layout = Layout.from_shapes({"x": (3, 50_000), "y": (70_000,)})
    update = vector(layout.size, 5)
    slow, fast = both_ways(lambda: get_codec(name).encode(update, layout, budget))
    assert isinstance(slow, Encoded)
    assert isinstance(fast, Encoded)
    same(slow, fast)
    for out in both_ways(lambda: added(slow.payload, layout)):
        np.testing.assert_array_equal(out, 1 + 0.5 * slow.decoded.astype(np.float64))


def added(payload: bytes, layout: Layout) -> np.ndarray:
    out = np.ones(layout.size)
    decode_into(payload, layout, out, 0.5)
    return out


@needs_compiler
def test_the_residual_is_left_in_place() -> None:
    update = vector(LAYOUT.size)
    encoded = encode(update, LAYOUT, MaxBytes(500))
    left = update.copy()
    encoded.subtract_from_(left)
    np.testing.assert_array_equal(left, update - decode(encoded.payload, LAYOUT))


def test_without_a_compiler_numpy_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    native._library.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    try:
        with native.use_kernel(True) as used:
            assert not used
            update = vector(LAYOUT.size)
            assert encode(update, LAYOUT, RelativeError(0.1)).nmse <= 0.1
    finally:
        native._library.cache_clear()


def test_a_small_update_starts_no_compiler_and_a_large_one_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def slow(source: object) -> None:
        started.append(source)
        time.sleep(0.3)

    native._library.cache_clear()
    monkeypatch.setattr(native, "compile_library", slow)
    monkeypatch.setattr(native, "_compiler", None)
    try:
        encode(vector(1000), Layout.from_shapes({"x": (1000,)}), RelativeError(0.5))
        assert native.kernel_for(1000) is None
        assert started == []
        begin = time.perf_counter()
        assert native.kernel_for(native.WORTH_COMPILING) is None
        assert time.perf_counter() - begin < 0.2
        thread = native._compiler
        assert thread is not None
        thread.join(10)
        assert len(started) == 1
    finally:
        native._library.cache_clear()


def test_the_lanes_are_folded_in_one_order() -> None:
    # By hand: pairs half a length apart, until one is left.
    lanes = np.random.default_rng(0).standard_normal(scan.LANES) * 10.0 ** np.arange(-128, 128)
    expected = lanes.tolist()
    while len(expected) > 1:
        half = len(expected) // 2
        expected = [expected[i] + expected[i + half] for i in range(half)]
    assert scan.fold(lanes) == expected[0]
