"""The streaming mean: the same bits in every order, right by a float64 reference, and hostile numbers refused."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from amgt_fed.codec import get_codec
from amgt_fed.errors import RoundError
from amgt_fed.federated.aggregate import Accumulator
from amgt_fed.federated.gather import MAX_EXAMPLES, MAX_NUMBER
from amgt_fed.federated.messages import Aggregate, ClientUpdate
from amgt_fed.layout import Layout

LAYOUT = Layout.from_shapes({"weight": (3, 4), "bias": (5,)})
DENSE = get_codec("dense")


def vector(seed: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).standard_normal(LAYOUT.size)).astype(np.float32)


def update(client: int, *, scale: float = 1.0, num_examples: int | None = None, **changes: Any) -> ClientUpdate:
    norm = float(np.linalg.norm(vector(client, scale).astype(np.float64)))
    made = ClientUpdate(
        round=1,
        payload=DENSE.encode(vector(client, scale), LAYOUT).payload,
        num_examples=num_examples or 3 + 7 * client,
        error_l2=0.1 * client,
        update_l2=norm,
        deviation_l2=0.01 * client * norm,
        loss=1.0 / (1 + client),
        metrics={"accuracy": 0.1 * client},
    )
    return replace(made, **changes)


def bits(aggregate: Aggregate) -> tuple[Any, ...]:
    return (
        aggregate.mean.tobytes(),
        aggregate.num_examples,
        aggregate.participants,
        aggregate.update_norm,
        aggregate.delta,
        aggregate.error_l2,
        aggregate.drift,
        aggregate.loss,
        dict(aggregate.metrics),
    )


def gathered(order: tuple[int, ...], fates: dict[int, str], clip: float = 0.0) -> Accumulator:
    accumulator = Accumulator(LAYOUT, fates, clip_norm=clip)
    for client in order:
        if fates[client] == "fails":
            accumulator.give_up(client)
        elif fates[client] == "damaged":
            accumulator.add(client, update(client, payload=update(client).payload[:-1]))
        elif fates[client] == "answers":
            accumulator.add(client, update(client, scale=10.0**client))
    return accumulator  # "silent": never heard of


def test_every_order_of_arrival_gives_the_same_bits_with_failures_and_damage_between() -> None:
    fates = {0: "answers", 1: "fails", 2: "answers", 3: "damaged", 4: "answers", 5: "silent"}
    found: set[str] = set()
    for order in permutations(fates):
        accumulator = gathered(order, fates)
        found.add(repr(bits(accumulator.aggregate())))
        assert set(accumulator.rejected) == {3}
    assert len(found) == 1


@given(
    fates=st.lists(st.sampled_from(["answers", "fails", "damaged", "silent"]), min_size=1, max_size=9),
    data=st.data(),
    clip=st.sampled_from([0.0, 1.0, 30.0]),
)
@settings(max_examples=60, deadline=None)
def test_order_does_not_matter_for_any_mix_of_fates(fates: list[str], data: st.DataObject, clip: float) -> None:
    by_client = dict(enumerate(fates))
    first = tuple(data.draw(st.permutations(list(by_client))))
    one, two = gathered(tuple(by_client), by_client, clip), gathered(first, by_client, clip)
    if "answers" not in fates:
        for accumulator in (one, two):
            with pytest.raises(RoundError, match="no usable update"):
                accumulator.aggregate()
        return
    assert bits(one.aggregate()) == bits(two.aggregate())
    assert one.added == two.added == fates.count("answers")


def reference(clients: list[int], scales: dict[int, float], weights: dict[int, int], clip: float) -> dict[str, Any]:
    """By the book, in float64."""
    total = sum(weights[client] for client in clients)
    q = {client: vector(client, scales[client]).astype(np.float64) for client in clients}
    shrunk = {c: min(1.0, clip / np.linalg.norm(q[c])) if clip else 1.0 for c in clients}
    used = {c: shrunk[c] * q[c] for c in clients}
    mean = sum(weights[c] / total * used[c] for c in clients)
    norm = np.linalg.norm(mean)
    spread = sum(weights[c] / total * np.linalg.norm(used[c] - mean) ** 2 for c in clients)
    delta = sum(
        weights[c] / total * (0.01 * c * np.linalg.norm(q[c]) + np.linalg.norm(used[c] - q[c])) for c in clients
    )
    loss = sum(weights[c] / total / (1 + c) for c in clients)
    accuracy = sum(weights[c] / total * 0.1 * c for c in clients)
    return {
        "mean": mean,
        "norm": norm,
        "drift": math.sqrt(spread) / norm,
        "delta": delta,
        "loss": loss,
        "acc": accuracy,
    }


@given(
    scales=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8),
    weights=st.lists(st.integers(1, 10**6), min_size=8, max_size=8),
    clip=st.sampled_from([0.0, 0.5, 50.0]),
)
@settings(max_examples=60, deadline=None)
def test_the_mean_and_its_measures_equal_a_float64_reference(
    scales: list[float], weights: list[int], clip: float
) -> None:
    clients = list(range(len(scales)))
    accumulator = Accumulator(LAYOUT, clients, clip_norm=clip)
    for client in reversed(clients):
        accumulator.add(client, update(client, scale=scales[client], num_examples=weights[client]))
    found = accumulator.aggregate()
    right = reference(clients, dict(enumerate(scales)), dict(enumerate(weights)), clip)
    largest = max(float(np.abs(right["mean"]).max()), 1e-30)
    np.testing.assert_allclose(found.mean, right["mean"], rtol=1e-6, atol=1e-6 * largest)
    assert found.update_norm == pytest.approx(right["norm"], rel=1e-9)
    assert found.delta == pytest.approx(right["delta"], rel=1e-9)
    assert found.loss == pytest.approx(right["loss"], rel=1e-9)
    assert found.metrics["accuracy"] == pytest.approx(right["acc"], rel=1e-9)
    if right["drift"] > 1e-3:
        assert found.drift == pytest.approx(right["drift"], rel=1e-4)
    assert found.num_examples == sum(weights[: len(scales)])


@given(seed=st.integers(0, 10_000), clip=st.sampled_from([0.0, 0.3, 2.0]))
@settings(max_examples=40, deadline=None)
def test_delta_bounds_what_the_mean_lost_of_the_true_updates(seed: int, clip: float) -> None:
    """delta_k >= ||m_k - sum_i w_i D_i||, clipping included (section 4)."""
    rng = np.random.default_rng(seed)
    true = [rng.standard_normal(LAYOUT.size).astype(np.float32) for _ in range(4)]
    seen = [(d + rng.standard_normal(LAYOUT.size) * rng.uniform(0, 1)).astype(np.float32) for d in true]
    weights = [int(w) for w in rng.integers(1, 50, 4)]
    accumulator = Accumulator(LAYOUT, range(4), clip_norm=clip)
    for client in range(4):
        deviation = float(np.linalg.norm(seen[client].astype(np.float64) - true[client]))
        payload = DENSE.encode(seen[client], LAYOUT).payload
        facts = {"update_l2": float(np.linalg.norm(true[client])), "deviation_l2": deviation}
        accumulator.add(client, update(client, payload=payload, num_examples=weights[client], **facts))
    found = accumulator.aggregate()
    wanted = sum(w * d.astype(np.float64) for w, d in zip(weights, true, strict=True)) / sum(weights)
    assert np.linalg.norm(found.mean - wanted) <= found.delta + 1e-6


def test_a_waiting_update_stays_compressed_and_only_one_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import amgt_fed.federated.gather as module

    decoded: list[int] = []
    real = module.decode

    def counting(payload: bytes, layout: Layout) -> Any:
        decoded.append(len(payload))
        return real(payload, layout)

    monkeypatch.setattr(module, "decode", counting)
    accumulator = Accumulator(LAYOUT, range(5))
    for client in (4, 3, 2, 1):
        accumulator.add(client, update(client))
    assert decoded == []  # all wait for client 0
    accumulator.give_up(0)
    assert len(decoded) == 4
    assert accumulator.added == 4
    held = [value for value in vars(accumulator).values() if isinstance(value, np.ndarray)]
    assert sum(array.size for array in held) == LAYOUT.size  # the sum, and nobody's update beside it


def test_strangers_and_second_answers_are_refused_and_change_nothing() -> None:
    accumulator = Accumulator(LAYOUT, [1, 3])
    with pytest.raises(RoundError, match="client 2 was not asked"):
        accumulator.add(2, update(2))
    with pytest.raises(RoundError, match="client 0 was not asked"):
        accumulator.give_up(0)
    accumulator.add(3, update(3))
    for again in (lambda: accumulator.add(3, update(3)), lambda: accumulator.give_up(3)):
        with pytest.raises(RoundError, match="client 3 has answered"):
            again()
    accumulator.add(1, update(1))
    with pytest.raises(RoundError, match="client 1 has answered"):
        accumulator.add(1, update(1))
    alone = Accumulator(LAYOUT, [1, 3])
    alone.add(1, update(1))
    alone.add(3, update(3))
    assert bits(accumulator.aggregate()) == bits(alone.aggregate())


@pytest.mark.parametrize(
    "changes",
    [
        {"num_examples": -1},
        {"num_examples": MAX_EXAMPLES + 1},
        {"error_l2": math.nan},
        {"update_l2": -0.5},
        {"deviation_l2": math.inf},
        {"deviation_l2": 10 * MAX_NUMBER},
        {"loss": math.nan},
        {"metrics": {"accuracy": math.inf}},
        {"metrics": {"loss": math.nan}},
    ],
)
def test_an_impossible_number_is_refused_and_the_client_may_still_be_given_up(changes: dict[str, Any]) -> None:
    accumulator = Accumulator(LAYOUT, [1, 2])
    with pytest.raises(RoundError, match="client 1"):
        accumulator.add(1, update(1, **changes))
    accumulator.give_up(1)
    accumulator.add(2, update(2))
    assert accumulator.aggregate().participants == (2,)


def test_no_examples_are_refused() -> None:
    with pytest.raises(RoundError, match="claims 0 examples"):
        Accumulator(LAYOUT, [1]).add(1, replace(update(1), num_examples=0))


def test_the_largest_numbers_allowed_keep_every_measure_finite() -> None:
    accumulator = Accumulator(LAYOUT, range(3))
    huge = {name: MAX_NUMBER for name in ("error_l2", "update_l2", "deviation_l2", "loss")}
    for client in range(3):
        accumulator.add(client, update(client, num_examples=MAX_EXAMPLES, metrics={"m": -MAX_NUMBER}, **huge))
    found = accumulator.aggregate()
    assert all(map(math.isfinite, (found.delta, found.error_l2, found.loss, found.metrics["m"])))


def test_a_metric_only_some_report_is_averaged_over_those() -> None:
    accumulator = Accumulator(LAYOUT, [0, 1])
    accumulator.add(0, update(0, num_examples=30, metrics={"f1": 0.5}))
    accumulator.add(1, update(1, num_examples=10, metrics={}))
    assert accumulator.aggregate().metrics == {"f1": 0.5}


def test_a_payload_of_another_model_is_rejected_with_its_reason() -> None:
    other = Layout.from_shapes({"weight": (4, 3), "bias": (5,)})
    accumulator = Accumulator(LAYOUT, [0, 1])
    accumulator.add(0, update(0, payload=DENSE.encode(vector(0), other).payload))
    accumulator.add(1, update(1))
    assert list(accumulator.rejected) == [0]
    assert "schema" in str(accumulator.rejected[0])
    assert accumulator.aggregate().participants == (1,)
