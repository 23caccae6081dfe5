"""The server's step against float64 references, its residual, and what it keeps for clients that were away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from amgt_fed.codec import decode, get_codec
from amgt_fed.errors import RoundError
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.federated.catchup import plan_for, window
from amgt_fed.federated.messages import Aggregate, StepRecord
from amgt_fed.federated.server import Downlink, server_round
from amgt_fed.federated.server_optimizer import OptimizerSettings
from amgt_fed.federated.state import ClientRecord, ServerState, with_synced
from amgt_fed.layout import Layout, vector_digest
from tests.reference import server_step

LAYOUT = Layout.from_shapes({"weight": (20, 10), "bias": (11,)})
WHOLE = Downlink(None, BudgetRule.parse("none"), error_feedback=False)
LOSSY = Downlink(get_codec("deadzone"), BudgetRule.parse("nmse=0.3"), error_feedback=True)


def aggregate(mean: NDArray[np.float32], participants: tuple[int, ...] = (0, 2)) -> Aggregate:
    return Aggregate(mean, 10, participants, 1.0, 0.1, 0.1, 0.5, 1.0, {})


def means(rounds: int, seed: int = 0) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [(0.3 * rng.standard_normal(LAYOUT.size)).astype(np.float32) for _ in range(rounds)]


def start() -> ServerState:
    return ServerState(run=1, round=1, model=np.linspace(-1, 1, LAYOUT.size).astype(np.float32))


REFERENCES: dict[str, Callable[[list[NDArray[np.float64]], list[float]], list[NDArray[np.float64]]]] = {
    "average": server_step.average,
    "momentum": lambda m, lr: server_step.momentum(m, lr, 0.8),
    "adam": lambda m, lr: server_step.adam(m, lr, 0.8, 0.95, 1e-3),
    "amgt": lambda m, lr: server_step.amgt(m, lr, 0.8, 0.95, 1e-6, gamma=0.1),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_model_follows_the_optimizers_float64_reference(name: str, decay: float) -> None:
    settings = OptimizerSettings(name, lr=0.5, lr_decay=decay, momentum=0.8, beta2=0.95)  # type: ignore[arg-type]
    sequence = means(12)
    state, expected = start(), start().model.astype(np.float64)
    rates = [0.5 / (1 + decay * (k - 1)) for k in range(1, 13)]  # (10)
    steps = REFERENCES[name]([mean.astype(np.float64) for mean in sequence], rates)
    for mean, step in zip(sequence, steps, strict=True):
        state, report = server_round(aggregate(mean), state, LAYOUT, settings, WHOLE)
        expected = expected - step
        np.testing.assert_allclose(state.model, expected, rtol=0, atol=3e-6)
        assert report.step_norm == pytest.approx(np.linalg.norm(step), rel=1e-4)
    assert state.round == 13


@pytest.mark.parametrize("name", REFERENCES)
def test_the_optimizers_state_survives_as_plain_arrays_bit_for_bit(name: str) -> None:
    settings = OptimizerSettings(name)  # type: ignore[arg-type]
    through = cut = start()
    for mean in means(6):
        through, _ = server_round(aggregate(mean), through, LAYOUT, settings, WHOLE)
        frozen = {key: np.array(value, copy=True) for key, value in cut.optimizer.items()}
        cut, _ = server_round(aggregate(mean), replace(cut, optimizer=frozen), LAYOUT, settings, WHOLE)
    assert through.model.tobytes() == cut.model.tobytes()


def test_nothing_that_goes_in_is_modified() -> None:
    mean = means(1)[0]
    state, kept = start(), mean.copy()
    before = state.model.copy()
    for name in ("average", "momentum", "adam", "amgt"):
        server_round(aggregate(mean), state, LAYOUT, OptimizerSettings(name), LOSSY)
    assert state.model.tobytes() == before.tobytes()
    assert mean.tobytes() == kept.tobytes()


def test_the_step_taken_is_the_one_that_clients_decode() -> None:
    state = start()
    for mean in means(5):
        after, report = server_round(aggregate(mean), state, LAYOUT, OptimizerSettings(), LOSSY)
        taken = decode(after.steps[-1].payload, LAYOUT)
        assert after.model.tobytes() == (state.model - taken).tobytes()
        assert report.payload_bytes == len(after.steps[-1].payload)
        assert report.step_norm == pytest.approx(np.linalg.norm(taken.astype(np.float64)))
        state = after


def test_what_compression_leaves_out_is_sent_later_and_never_lost() -> None:
    """Telescoping: sum of steps taken + residual = sum of the steps wanted."""
    state = start()
    wanted = np.zeros(LAYOUT.size)
    for mean in means(40):
        state, _ = server_round(aggregate(mean), state, LAYOUT, OptimizerSettings(lr=0.7), LOSSY)
        wanted += np.float32(0.7) * mean
    assert state.residual is not None
    moved = start().model.astype(np.float64) - state.model
    np.testing.assert_allclose(moved + state.residual, wanted, atol=2e-5)


def test_without_error_feedback_there_is_no_residual() -> None:
    state, _ = server_round(
        aggregate(means(1)[0]), start(), LAYOUT, OptimizerSettings(), replace(LOSSY, error_feedback=False)
    )
    assert state.residual is None


def test_participants_are_recorded_and_others_left_alone() -> None:
    state = replace(start(), clients={1: ClientRecord(0, 0)})
    after, _ = server_round(aggregate(means(1)[0], (0, 2)), state, LAYOUT, OptimizerSettings(), LOSSY)
    assert after.clients == {0: ClientRecord(1, 1), 1: ClientRecord(0, 0), 2: ClientRecord(1, 1)}


def test_an_aggregate_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RoundError, match=r"round 1 is not finite; lower client\.lr or server\.lr"):
        server_round(aggregate(np.full(LAYOUT.size, np.nan, np.float32)), start(), LAYOUT, OptimizerSettings(), LOSSY)


# ---- catch-up


def steps(*sizes: int, first: int = 1) -> tuple[StepRecord, ...]:
    return tuple(StepRecord(first + index, bytes(size)) for index, size in enumerate(sizes))


MODEL_BYTES = 4 * LAYOUT.size


def test_the_window_holds_the_latest_steps_that_are_together_smaller_than_the_model() -> None:
    half = MODEL_BYTES // 2
    assert window(steps(10, 20, 30), LAYOUT) == steps(10, 20, 30)
    assert [step.round for step in window(steps(half, half, half - 1), LAYOUT)] == [2, 3]
    assert [step.round for step in window(steps(5, half, half), LAYOUT)] == [3]
    assert window(steps(5, MODEL_BYTES), LAYOUT) == ()
    assert window(steps(5, MODEL_BYTES - 1), LAYOUT) == steps(MODEL_BYTES - 1, first=2)
    assert window((), LAYOUT) == ()


@pytest.mark.parametrize(
    ("synced", "rounds"),
    [(6, []), (5, [5]), (3, [3, 4, 5]), (2, None), (1, None), (0, None), (9, None)],
)
def test_a_client_gets_the_steps_it_lacks_or_else_the_model(synced: int, rounds: list[int] | None) -> None:
    state = replace(start(), round=6, steps=steps(7, 7, 7, first=3))
    state = with_synced(state, 4, synced)
    digest = vector_digest(state.model)
    plan = plan_for(state, 4, digest)
    assert (plan.round, plan.run, plan.base_digest) == (6, 1, digest)
    if rounds is None:
        assert plan.model is state.model
        assert plan.steps == ()
    else:
        assert plan.model is None
        assert [step.round for step in plan.steps] == rounds


def test_a_client_never_seen_starts_from_the_seeded_model() -> None:
    assert plan_for(start(), 7, b"").model is None
    later = replace(start(), round=3, steps=steps(7, 7))
    assert [step.round for step in plan_for(later, 7, b"").steps] == [1, 2]
    assert plan_for(replace(later, steps=steps(7, first=2)), 7, b"").model is later.model


def test_dense_sends_the_model_and_the_plan_tells_which_update_was_used() -> None:
    state = replace(start(), round=6, clients={4: ClientRecord(6, 5)})
    assert plan_for(state, 4, b"", dense=True).model is state.model
    assert plan_for(state, 4, b"").accepted_round == 5
    assert plan_for(with_synced(state, 4, 0), 4, b"").accepted_round == 5
