"""Patches between records: what applies is what was measured, and damage is always noticed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from amgt_fed.codec import RelativeError, get_codec
from amgt_fed.errors import WireError
from amgt_fed.flower.compression_arrays import Patch, apply, make
from amgt_fed.flower.compression_bytes import Reader
from amgt_fed.flower.compression_messages import (
    Answer,
    Order,
    Section,
    _answer_bytes,
    _order_bytes,
    _read_answer,
    _read_order,
)
from amgt_fed.flower.compression_values import digest_of, like, read_floats

DTYPES = ["float16", "float32", "float64", "int64", "uint8", "bool"]


def never(name: str) -> bool:
    return False


def bfloat16(values: np.ndarray) -> Array:
    """As numpy writes an array of ml_dtypes.bfloat16: two bytes of no type of numpy's own."""
    file = io.BytesIO()
    bits = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    np.save(file, bits.view("V2"), allow_pickle=False)
    return Array(dtype="bfloat16", shape=values.shape, stype="numpy.ndarray", data=file.getvalue())


@st.composite
def pairs(draw: st.DrawFn) -> tuple[ArrayRecord, ArrayRecord]:
    base, new = ArrayRecord(), ArrayRecord()
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    for index in range(draw(st.integers(0, 5))):
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        dtype = draw(st.sampled_from(DTYPES))
        values = [np.asarray(100 * rng.standard_normal(shape)).astype(dtype) for _ in range(2)]
        base[f"a{index}"], new[f"a{index}"] = (Array(np.asarray(v)) for v in values)
    if draw(st.booleans()):
        new["more"] = Array(rng.standard_normal(3))
    return base, new


@given(pair=pairs(), nmse=st.sampled_from([0.0, 0.01, 0.5]))
@settings(max_examples=40, deadline=None)
def test_a_patch_makes_what_was_measured_and_everything_but_floats_exactly(
    pair: tuple[ArrayRecord, ArrayRecord], nmse: float
) -> None:
    base, new = pair
    made = make(base, new, get_codec("amgt"), RelativeError(nmse), is_exact=never)
    found = apply(base, made.patch)
    assert digest_of(found) == digest_of(made.result)
    assert list(found) == list(new)
    squares = 0.0
    for name, array in new.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        if name == "more" or not array.dtype.startswith("float"):
            assert found[name].data == array.data
        else:
            squares += float(np.sum((found[name].numpy().astype(float) - array.numpy().astype(float)) ** 2))
    assert squares**0.5 == pytest.approx(made.deviation_l2, rel=1e-3, abs=1e-3)
    # Rounding to half precision comes on top of the codec's error.
    assert made.error_l2 <= nmse**0.5 * made.update_l2 + 2.0


def test_the_first_record_is_made_from_nothing_each_matrix_at_its_own_scale() -> None:
    rng = np.random.default_rng(0)
    record = ArrayRecord(
        {
            "large": Array(1e3 * rng.standard_normal((40, 30))),
            "small": Array((1e-4 * rng.standard_normal((40, 30))).astype(np.float32)),
            "bias": Array(rng.standard_normal(30)),
            "count": Array(np.asarray(7)),
        }
    )
    made = make(None, record, get_codec("amgt"), RelativeError(0.01), is_exact=never)
    found = apply(None, made.patch)
    for name in ("large", "small"):
        error = np.linalg.norm(found[name].numpy() - record[name].numpy()) / np.linalg.norm(record[name].numpy())
        assert error < 0.2
    assert found["bias"].data == record["bias"].data
    assert found["count"].data == record["count"].data
    assert made.patch.size < 2400 * 4 / 5


def test_bfloat16_is_a_number_although_numpy_has_no_such_type() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((20, 20)).astype(np.float32)
    base, new = ArrayRecord({"w": bfloat16(values)}), ArrayRecord({"w": bfloat16(values + 1)})
    made = make(base, new, get_codec("amgt"), RelativeError(1e-4), is_exact=never)
    found = apply(base, made.patch)["w"]
    assert (found.dtype, found.shape, found.stype) == ("bfloat16", (20, 20), "numpy.ndarray")
    np.testing.assert_allclose(read_floats(found), read_floats(new["w"]), atol=0.03, rtol=0.01)
    assert made.patch.payload


def test_arrays_of_other_serializations_travel_as_they_are() -> None:
    array = Array(dtype="float32", shape=(3,), stype="my.own", data=b"\x01\x02\x03")
    made = make(ArrayRecord(), ArrayRecord({"x": array}), get_codec("amgt"), RelativeError(0.5), is_exact=never)
    assert apply(ArrayRecord(), made.patch)["x"] == array


def test_types_that_averaging_changed_are_put_right() -> None:
    model = ArrayRecord({"n": Array(np.asarray(3)), "w": Array(np.ones(2, np.float32))})
    average = ArrayRecord({"n": Array(np.asarray(4.6)), "w": Array(np.full(2, 0.1)), "new": Array(np.ones(1))})
    found = like(average, model)
    assert found["n"].numpy() == 5
    assert [found[name].dtype for name in ("n", "w", "new")] == ["int64", "float32", "float64"]


def messages() -> tuple[bytes, bytes, ArrayRecord, Patch]:
    rng = np.random.default_rng(2)
    base = ArrayRecord({"w": Array(rng.standard_normal((6, 5)).astype(np.float32)), "n": Array(np.asarray(3))})
    new = ArrayRecord({"w": Array(rng.standard_normal((6, 5)).astype(np.float32)), "m": Array(np.asarray(4))})
    patch = make(base, new, get_codec("amgt"), RelativeError(0.1), is_exact=never).patch
    order = Order(b"runrunru", 7, 3, 2, "arrays", 5, b"digestdi", first=4, patches=(patch, patch))
    answer = Answer(b"runrunru", 7, 5, "", (Section("a", "b", patch),), 1.0, 0.5, 0.25)
    assert _read_order(Reader(_order_bytes(order))) == order
    assert _read_answer(Reader(_answer_bytes(answer))) == answer
    return _order_bytes(order), _answer_bytes(answer), base, patch


def test_a_truncated_message_is_refused_at_every_byte() -> None:
    order, answer, _, _ = messages()
    for size in range(len(order)):
        with pytest.raises(WireError):
            _read_order(Reader(order[:size]))
    for size in range(len(answer)):
        with pytest.raises(WireError):
            _read_answer(Reader(answer[:size]))


def test_every_flipped_bit_is_an_error_or_another_message_but_never_a_crash() -> None:
    _, answer, base, _ = messages()
    for position in range(8 * len(answer)):
        damaged = bytearray(answer)
        damaged[position // 8] ^= 1 << position % 8
        try:
            for section in _read_answer(Reader(bytes(damaged))).sections:
                apply(base, section.patch)
        except WireError:
            continue


def test_a_patch_to_another_base_is_refused() -> None:
    _, _, _, patch = messages()
    with pytest.raises(WireError, match="'w' is coded"):
        apply(ArrayRecord({"w": Array(np.zeros((6, 6), np.float32))}), patch)
    with pytest.raises(WireError, match="more than the"):
        apply(ArrayRecord(), Patch(schema=b"\xff\xff\xff\xff\xff\x7f"))
