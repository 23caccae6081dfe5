"""Messages survive the wire; bytes that were damaged, cut or made up give a WireError or a valid message."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amgt_fed.errors import WireError
from amgt_fed.federated.gather import MAX_EXAMPLES, MAX_NUMBER
from amgt_fed.federated.messages import ClientUpdate, NeedsModel, RoundPlan, StepRecord
from amgt_fed.layout import Layout
from amgt_fed.wire import (
    Evaluation,
    Hello,
    decode_evaluation,
    decode_hello,
    decode_plan,
    decode_question,
    decode_update,
    encode_evaluation,
    encode_hello,
    encode_needs_model,
    encode_plan,
    encode_question,
    encode_update,
    limits,
)
from amgt_fed.wire.v1 import update_pb2 as pb

LAYOUT = Layout.from_shapes({"weight": (2, 3), "bias": (2,), "scale": ()})
OTHER = Layout.from_shapes({"weight": (3, 2), "bias": (2,), "scale": ()})
GOLDEN = Path(__file__).parents[1] / "golden" / "wire"

rounds = st.integers(1, limits.MAX_ROUND)
numbers = st.floats(-MAX_NUMBER, MAX_NUMBER)
norms = st.floats(0, MAX_NUMBER)
counts = st.integers(1, MAX_EXAMPLES)
metrics = st.dictionaries(st.text(max_size=limits.MAX_NAME), numbers, max_size=5)
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
reasons = st.text(min_size=1, max_size=limits.MAX_REASON)


@st.composite
def plans(draw: st.DrawFn) -> RoundPlan:
    round = draw(rounds)
    payloads = draw(st.lists(st.binary(max_size=8), max_size=min(3, round - 1)))
    steps = tuple(StepRecord(round - len(payloads) + index, data) for index, data in enumerate(payloads))
    model = None
    if draw(st.booleans()):
        size = LAYOUT.size
        model = np.array(draw(st.lists(float32s, min_size=size, max_size=size)), np.float32)
    digest = draw(st.binary(min_size=8, max_size=8))
    return RoundPlan(
        draw(st.integers(0, 2**64 - 1)), round, digest, steps, model, draw(st.integers(0, min(round - 1, 2**32 - 1)))
    )


updates = st.builds(
    ClientUpdate,
    round=rounds,
    payload=st.binary(max_size=40),
    num_examples=counts,
    error_l2=norms,
    update_l2=norms,
    deviation_l2=norms,
    loss=numbers,
    metrics=metrics,
)
refusals = st.builds(NeedsModel, rounds, reasons)
hellos = st.integers(1, 2**32 - 1).flatmap(
    lambda count: st.builds(
        Hello,
        st.integers(0, count - 1),
        st.just(count),
        counts,
        st.integers(0, limits.MAX_ROUND),
        st.just(LAYOUT.digest),
    )
)
evaluations = st.builds(Evaluation, rounds, counts, numbers, metrics)


@given(plan=plans())
@settings(deadline=None, max_examples=60)
def test_a_plan_survives_the_wire_bit_for_bit(plan: RoundPlan) -> None:
    again = decode_plan(encode_plan(plan, LAYOUT), LAYOUT)
    assert (again.run, again.round, again.base_digest, again.steps, again.accepted_round) == (
        plan.run,
        plan.round,
        plan.base_digest,
        plan.steps,
        plan.accepted_round,
    )
    if plan.model is None:
        assert again.model is None
    else:
        assert again.model is not None
        assert again.model.dtype == np.float32
        assert again.model.tobytes() == plan.model.tobytes()


@given(update=updates)
@settings(deadline=None, max_examples=60)
def test_an_update_survives_the_wire(update: ClientUpdate) -> None:
    assert decode_update(encode_update(update), LAYOUT) == update


@given(answer=refusals)
@settings(deadline=None, max_examples=30)
def test_a_request_for_the_model_survives_the_wire(answer: NeedsModel) -> None:
    assert decode_update(encode_needs_model(answer), LAYOUT) == answer
    assert decode_evaluation(encode_evaluation(answer), LAYOUT) == answer


@given(hello=hellos, run=st.integers(0, 2**64 - 1), evaluation=evaluations)
@settings(deadline=None, max_examples=60)
def test_introductions_questions_and_scores_survive_the_wire(hello: Hello, run: int, evaluation: Evaluation) -> None:
    assert decode_hello(encode_hello(hello), LAYOUT) == hello
    assert decode_question(encode_question(run), LAYOUT) == run
    assert decode_evaluation(encode_evaluation(evaluation), LAYOUT) == evaluation


@given(update=updates)
@settings(deadline=None, max_examples=20)
def test_equal_messages_have_equal_bytes_whatever_the_order_of_their_metrics(update: ClientUpdate) -> None:
    turned = dict(reversed(list(update.metrics.items())))
    same = ClientUpdate(
        update.round,
        update.payload,
        update.num_examples,
        update.error_l2,
        update.update_l2,
        update.deviation_l2,
        update.loss,
        turned,
    )
    assert encode_update(same) == encode_update(update)


# ---- examples that the golden files and the damage tests share

MODEL = np.array([0.5, -1.25, 3e-8, 0.0, -0.0, 65504.0, 1e-38, 7.0, -2.5], np.float32)
EXAMPLES: dict[str, tuple[bytes, Callable[[bytes, Layout], Any], Any]] = {
    "plan_steps": (
        encode_plan(
            RoundPlan(0x0123456789ABCDEF, 7, b"12345678", (StepRecord(5, b"five"), StepRecord(6, b"six")), None, 4),
            LAYOUT,
        ),
        decode_plan,
        RoundPlan,
    ),
    "plan_model": (encode_plan(RoundPlan(1, 2, b"abcdefgh", (), MODEL, 1), LAYOUT), decode_plan, RoundPlan),
    "update": (
        encode_update(
            ClientUpdate(3, b"\x00payload\xff", 57, 0.25, 1.5, 0.125, 2.302585, {"accuracy": 0.5, "f1": 1.0})
        ),
        decode_update,
        ClientUpdate | NeedsModel,
    ),
    "needs_model": (encode_needs_model(NeedsModel(9, "lost it")), decode_update, ClientUpdate | NeedsModel),
    "question": (encode_question(2**63 + 5), decode_question, int),
    "hello": (encode_hello(Hello(3, 20, 71, 12, LAYOUT.digest)), decode_hello, Hello),
    "evaluation": (
        encode_evaluation(Evaluation(8, 359, 0.125, {"accuracy": 0.96875})),
        decode_evaluation,
        Evaluation | NeedsModel,
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_version_1_bytes_are_what_they_were(name: str) -> None:
    data, _, _ = EXAMPLES[name]
    assert data == (GOLDEN / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_cut_anywhere_is_refused_or_valid(name: str) -> None:
    data, decode, kind = EXAMPLES[name]
    refused = 0
    for length in range(len(data)):
        try:
            assert isinstance(decode(data[:length], LAYOUT), kind)
        except WireError:
            refused += 1
    assert refused >= len(data) // 2


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_with_one_flipped_bit_is_refused_or_valid(name: str) -> None:
    data, decode, kind = EXAMPLES[name]
    refused = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = decode(bytes(damaged), LAYOUT)
        except WireError:
            refused += 1
            continue
        assert isinstance(found, kind)
        _check_valid(found)
    assert refused > 0


@given(data=st.binary(max_size=60))
@settings(deadline=None, max_examples=150)
def test_made_up_bytes_are_refused_or_valid(data: bytes) -> None:
    for _, decode, kind in EXAMPLES.values():
        for prefix in (b"", b"\x08\x01"):  # the second is what a right version looks like
            try:
                found = decode(prefix + data, LAYOUT)
            except WireError:
                continue
            assert isinstance(found, kind)
            _check_valid(found)


def _check_valid(found: object) -> None:
    if isinstance(found, int):
        assert 0 <= found < 2**64
        return
    if isinstance(found, Hello):
        assert 0 <= found.client < found.num_clients
        assert 1 <= found.num_examples <= MAX_EXAMPLES
        assert found.layout_digest == LAYOUT.digest
        return
    assert isinstance(found, RoundPlan | ClientUpdate | NeedsModel | Evaluation)
    assert 1 <= found.round <= limits.MAX_ROUND
    if isinstance(found, ClientUpdate):
        for norm in (found.error_l2, found.update_l2, found.deviation_l2):
            assert 0 <= norm <= MAX_NUMBER
    if isinstance(found, ClientUpdate | Evaluation):
        assert 1 <= found.num_examples <= MAX_EXAMPLES
        assert all(math.isfinite(value) for value in (found.loss, *found.metrics.values()))
    if isinstance(found, RoundPlan):
        assert [step.round for step in found.steps] == list(range(found.round - len(found.steps), found.round))
        assert found.accepted_round < found.round
        assert found.model is None or np.isfinite(found.model).all()


# ---- what is impossible is named


def _update(**changes: Any) -> bytes:
    fields: dict[str, Any] = {"version": 1, "round": 1, "payload": b"x", "num_examples": 1, "loss": 1.0}
    return pb.ClientUpdate(**{**fields, **changes}).SerializeToString()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": 2}, "wire version 2"),
        ({"version": 0}, "wire version 0"),
        ({"round": 0}, "round 0"),
        ({"round": limits.MAX_ROUND + 1}, "round"),
        ({"num_examples": 0}, "num_examples is 0"),
        ({"num_examples": MAX_EXAMPLES + 1}, "num_examples"),
        ({"error_l2": -1.0}, "error_l2"),
        ({"update_l2": math.nan}, "update_l2"),
        ({"deviation_l2": math.inf}, "deviation_l2"),
        ({"deviation_l2": 1e300}, "deviation_l2"),
        ({"loss": -math.inf}, "loss"),
        ({"metrics": {"accuracy": math.nan}}, "accuracy"),
        ({"metrics": {"x" * 65: 1.0}}, "65 characters"),
        ({"metrics": {str(index): 1.0 for index in range(65)}}, "65 metrics"),
    ],
)
def test_an_impossible_number_in_an_update_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(WireError, match=named):
        decode_update(_update(**changes), LAYOUT)


def _plan(**changes: Any) -> bytes:
    fields: dict[str, Any] = {"version": 1, "round": 5, "layout_digest": LAYOUT.digest, "base_digest": b"8 bytes."}
    return pb.RoundPlan(**{**fields, **changes}).SerializeToString()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layout_digest": OTHER.digest}, "same task"),
        ({"layout_digest": b""}, "same task"),
        ({"base_digest": b"7 bytes"}, "digest has 7 bytes"),
        ({"model": b"1234"}, "model of 4 bytes"),
        ({"model": struct.pack("<9f", *[math.nan] * 9)}, "not finite"),
        ({"first_step": 4, "steps": [b"a", b"b"]}, "do not lead to round 5"),
        ({"first_step": 0, "steps": [b""] * 5}, "do not lead to round 5"),
        ({"first_step": 2, "steps": [b"a", b"b"]}, "do not lead to round 5"),
        ({"accepted_round": 5}, "cannot have been used"),
    ],
)
def test_an_impossible_plan_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(WireError, match=named):
        decode_plan(_plan(**changes), LAYOUT)


def test_a_hello_of_another_model_or_number_is_refused() -> None:
    with pytest.raises(WireError, match="same task"):
        decode_hello(encode_hello(Hello(0, 1, 5, 1, OTHER.digest)), LAYOUT)
    with pytest.raises(WireError, match="numbers run from 0"):
        decode_hello(encode_hello(Hello(4, 4, 5, 1, LAYOUT.digest)), LAYOUT)
    with pytest.raises(WireError, match="claims round"):
        decode_hello(encode_hello(Hello(0, 1, 5, limits.MAX_ROUND + 1, LAYOUT.digest)), LAYOUT)


def test_a_message_beyond_the_limit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Untouchable:
        def FromString(self, _: bytes) -> None:  # protobuf's name
            raise AssertionError("a message beyond the limit was parsed")

    monkeypatch.setattr(pb, "ClientUpdate", Untouchable())
    limit = limits.max_message_bytes(LAYOUT)
    with pytest.raises(WireError, match=f"at most {limit}"):
        decode_update(bytes(limit + 1), LAYOUT)


def test_the_largest_honest_messages_are_within_the_limit() -> None:
    dense = np.zeros(LAYOUT.size, np.float32)
    plan = RoundPlan(2**64 - 1, limits.MAX_ROUND, b"12345678", (), dense, limits.MAX_ROUND - 1)
    assert decode_plan(encode_plan(plan, LAYOUT), LAYOUT).round == limits.MAX_ROUND
    names = {f"{index:02}" + "ä" * (limits.MAX_NAME - 2): 1.0 for index in range(limits.MAX_METRICS)}
    update = ClientUpdate(1, bytes(4 * LAYOUT.size + 64), 1, 0.0, 0.0, 0.0, 0.0, names)
    assert decode_update(encode_update(update), LAYOUT) == update


def test_a_reason_too_long_for_the_wire_is_shortened() -> None:
    answer = decode_update(encode_needs_model(NeedsModel(1, "x" * 5000)), LAYOUT)
    assert answer == NeedsModel(1, "x" * limits.MAX_REASON)


def test_the_model_decoded_does_not_share_memory_with_the_message() -> None:
    data = bytearray(encode_plan(RoundPlan(1, 2, b"abcdefgh", (), MODEL), LAYOUT))
    plan = decode_plan(bytes(data), LAYOUT)
    assert plan.model is not None
    assert plan.model.flags.writeable
