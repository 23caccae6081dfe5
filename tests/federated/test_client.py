"""One client's round: reach x_k or ask for it, train once, lose nothing of what was encoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from amgt_fed.codec import decode, get_codec
from amgt_fed.errors import ConfigError, RoundError
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.federated.client import ClientState, Compression, LocalResult, advance, client_round
from amgt_fed.federated.messages import ClientUpdate, NeedsModel, RoundPlan, StepRecord
from amgt_fed.layout import Layout, vector_digest

LAYOUT = Layout.from_shapes({"weight": (12, 10), "bias": (9,)})
X1 = np.linspace(-1, 1, LAYOUT.size).astype(np.float32)
LOSSY = Compression(get_codec("deadzone"), BudgetRule.parse("nmse=0.5"), error_feedback=True)
DENSE = get_codec("dense")


class Training:
    """Moves the model by a known update and counts how often it was asked to."""

    def __init__(self) -> None:
        self.updates: list[NDArray[np.float64]] = []
        self.given: list[bytes] = []

    def __call__(self, start: NDArray[np.float32]) -> LocalResult:
        rng = np.random.default_rng(len(self.updates))
        after = start - (0.1 * rng.standard_normal(LAYOUT.size)).astype(np.float32)
        self.updates.append((start - after).astype(np.float64))
        self.given.append(start.tobytes())
        return LocalResult(after, num_examples=17, loss=0.5, metrics={"accuracy": 0.25})


def fresh() -> ClientState:
    return ClientState(run=1, round=1, model=X1)


def plan(x: NDArray[np.float32], round: int, /, **fields: object) -> RoundPlan:
    return RoundPlan(1, round, vector_digest(x), **fields)  # type: ignore[arg-type]


def step(round: int, seed: int) -> tuple[StepRecord, NDArray[np.float32]]:
    taken = (0.1 * np.random.default_rng(seed).standard_normal(LAYOUT.size)).astype(np.float32)
    return StepRecord(round, DENSE.encode(taken, LAYOUT).payload), taken


def test_the_three_norms_are_those_of_update_payload_and_residual() -> None:
    training = Training()
    state = replace(fresh(), residual=np.full(LAYOUT.size, 0.03, np.float32))
    answer, after = client_round(plan(X1, 1), state, training, LAYOUT, LOSSY)
    assert isinstance(answer, ClientUpdate)
    q, update = decode(answer.payload, LAYOUT).astype(np.float64), training.updates[0]
    assert answer.update_l2 == pytest.approx(np.linalg.norm(update), rel=1e-9)
    assert answer.deviation_l2 == pytest.approx(np.linalg.norm(q - update), rel=1e-6)
    assert answer.error_l2 == pytest.approx(np.linalg.norm(update + np.float32(0.03) - q), rel=1e-5)
    assert after.residual is not None
    np.testing.assert_allclose(after.residual, update + np.float32(0.03) - q, atol=1e-6)
    assert (answer.round, answer.num_examples, answer.loss, answer.metrics) == (1, 17, 0.5, {"accuracy": 0.25})


def test_asked_twice_it_gives_the_same_answer_and_trains_once() -> None:
    training = Training()
    first, after = client_round(plan(X1, 1), fresh(), training, LAYOUT, LOSSY)
    second, again = client_round(plan(X1, 1), after, training, LAYOUT, LOSSY)
    assert second == first
    assert again is after
    assert len(training.updates) == 1


def test_the_same_round_from_another_model_is_trained_anew_and_takes_the_first_answer_back() -> None:
    training = Training()
    _, after = client_round(plan(X1, 1), fresh(), training, LAYOUT, LOSSY)
    other = X1 + np.float32(1)
    answer, _ = client_round(plan(other, 1, model=other), after, training, LAYOUT, LOSSY)
    assert isinstance(answer, ClientUpdate)
    assert len(training.updates) == 2
    assert training.given[1] == other.tobytes()


@given(used=st.lists(st.booleans(), min_size=1, max_size=12), budget=st.sampled_from(["nmse=0.5", "nmse=0.9"]))
@settings(max_examples=40, deadline=None)
def test_used_updates_and_residual_together_are_all_local_updates(used: list[bool], budget: str) -> None:
    """Whatever the server uses or loses: sum of used q + last residual (+ a last unused q) = sum of D."""
    training, state = Training(), fresh()
    compression = replace(LOSSY, budget=BudgetRule.parse(budget))
    total, accepted = np.zeros(LAYOUT.size), 0
    for round, is_used in enumerate(used, start=1):
        answer, state = client_round(
            plan(X1, round, model=X1, accepted_round=accepted), state, training, LAYOUT, compression
        )
        assert isinstance(answer, ClientUpdate)
        if is_used:
            total += decode(answer.payload, LAYOUT)
            accepted = round
    assert state.residual is not None
    assert state.sent is not None
    kept = state.residual.astype(np.float64)
    if not used[-1]:
        kept = kept + decode(state.sent.payload, LAYOUT)
    np.testing.assert_allclose(total + kept, sum(training.updates), atol=1e-5)


def test_without_error_feedback_nothing_is_kept() -> None:
    training = Training()
    compression = replace(LOSSY, error_feedback=False)
    answer, after = client_round(plan(X1, 1), fresh(), training, LAYOUT, compression)
    assert isinstance(answer, ClientUpdate)
    assert after.residual is None
    assert answer.error_l2 == pytest.approx(answer.deviation_l2, rel=1e-6)


def test_the_budget_of_the_round_is_kept() -> None:
    compression = Compression(get_codec("deadzone"), BudgetRule.parse("error=0.6/k"), error_feedback=True)
    training, state = Training(), fresh()
    for round in range(1, 9):
        answer, state = client_round(
            plan(X1, round, model=X1, accepted_round=round - 1), state, training, LAYOUT, compression
        )
        assert isinstance(answer, ClientUpdate)
        assert answer.error_l2 <= 0.6 / round


def test_steps_lead_to_the_servers_model_bit_for_bit_and_known_ones_are_passed_over() -> None:
    one, taken1 = step(1, 1)
    two, taken2 = step(2, 2)
    x2 = X1 - taken1
    x3 = x2 - taken2
    for state in (fresh(), replace(fresh(), round=2, model=x2), replace(fresh(), round=3, model=x3)):
        reached = advance(plan(x3, 3, steps=(one, two)), state, LAYOUT)
        assert isinstance(reached, ClientState)
        assert reached.round == 3
        assert reached.model.tobytes() == x3.tobytes()
    assert fresh().model.tobytes() == X1.tobytes()


def test_it_asks_for_the_model_where_the_steps_do_not_lead_there() -> None:
    one, taken1 = step(1, 1)
    two, taken2 = step(2, 2)
    x3 = X1 - taken1 - taken2
    cases = {
        "begin at round 2": (plan(x3, 3, steps=(two,)), fresh()),
        "lead to 2": (plan(x3, 3, steps=(one,)), fresh()),
        "holds round 1, and the steps lead to 1": (plan(x3, 3), fresh()),
        "holds round 5": (plan(x3, 3, steps=(one, two)), replace(fresh(), round=5)),
        "differ": (plan(x3 + np.float32(1), 3, steps=(one, two)), fresh()),
        "does not match its digest": (RoundPlan(1, 3, b"8 bytes.", model=x3), fresh()),
    }
    for reason, (asked, state) in cases.items():
        training = Training()
        answer, after = client_round(asked, state, training, LAYOUT, LOSSY)
        assert isinstance(answer, NeedsModel)
        assert answer.round == 3
        assert reason in answer.reason
        assert after is state
        assert training.updates == []


def test_a_refused_plan_loses_neither_residual_nor_last_answer() -> None:
    training = Training()
    _, state = client_round(plan(X1, 1), fresh(), training, LAYOUT, LOSSY)
    answer, after = client_round(plan(X1 + np.float32(1), 4), state, training, LAYOUT, LOSSY)
    assert isinstance(answer, NeedsModel)
    assert after is state
    assert state.sent is not None
    final, end = client_round(plan(X1, 4, model=X1), after, training, LAYOUT, LOSSY)
    assert isinstance(final, ClientUpdate)
    assert end.residual is not None
    recovered = decode(final.payload, LAYOUT).astype(np.float64) + end.residual
    np.testing.assert_allclose(recovered, sum(training.updates), atol=1e-5)


def test_training_that_diverges_is_an_error_and_not_an_update() -> None:
    def diverging(start: NDArray[np.float32]) -> LocalResult:
        return LocalResult(np.full_like(start, np.inf), 1, 1.0)

    with pytest.raises(RoundError, match=r"round 1.*not finite; lower client\.lr"):
        client_round(plan(X1, 1), fresh(), diverging, LAYOUT, LOSSY)


def test_a_model_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="this layout needs"):
        advance(RoundPlan(1, 2, b"8 bytes.", model=np.zeros(3, np.float32)), fresh(), LAYOUT)
