"""Control variates: SCAFFOLD where nothing is compressed; no drift and no lost sum, whatever codec and losses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from amgt_fed.codec import decode, get_codec
from amgt_fed.errors import RoundError
from amgt_fed.federated.aggregate import Accumulator
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.federated.catchup import plan_for
from amgt_fed.federated.client import ClientState, Compression, LocalResult, client_round
from amgt_fed.federated.control import control_mean, restarted, zero_control
from amgt_fed.federated.messages import ClientUpdate, NeedsModel
from amgt_fed.federated.scaffold import scaffold_round
from amgt_fed.federated.server import Downlink, server_round
from amgt_fed.federated.server_optimizer import OptimizerSettings
from amgt_fed.federated.state import ServerState, with_synced
from amgt_fed.layout import Layout, vector_digest
from amgt_fed.wire import decode_plan, decode_update, encode_plan, encode_update
from tests.reference.scaffold import scaffold

LAYOUT = Layout.from_shapes({"weight": (9, 10), "bias": (10,)})
N, SIZE = 5, LAYOUT.size
RNG = np.random.default_rng(3)
CURVES = RNG.uniform(
    0.3, 3.0, (N, SIZE)
)  # each client's own diagonal Hessian and minimum: that is what makes them drift
CENTRES = RNG.normal(size=(N, SIZE))
EXAMPLES = np.array([10, 25, 5, 40, 20])
LR, STEPS = 0.05, 8
START = np.zeros(SIZE, np.float32)


def optimum(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = weights[:, None] * CURVES
    return np.asarray((scaled * CENTRES).sum(0) / scaled.sum(0))


@dataclass
class Federation:
    """Clients and a server on the pure functions, over the wire's own bytes."""

    codec: str = "dense"
    budget: str = "none"
    dense: bool = True
    examples: NDArray[np.int64] = field(default_factory=lambda: np.full(N, 10))
    with_control: bool = True
    steps: NDArray[np.int64] = field(default_factory=lambda: np.full(N, STEPS))

    def __post_init__(self) -> None:
        rule = BudgetRule.parse(self.budget)
        codec = get_codec(self.codec)
        self.compression = Compression(codec, rule, error_feedback=not self.with_control)
        self.downlink = Downlink(None if self.dense else codec, rule, error_feedback=True)
        self.server = ServerState(1, 1, START, control=zero_control(LAYOUT) if self.with_control else None)
        for client in range(N):
            self.server = with_synced(self.server, client, 1, num_examples=int(self.examples[client]))
        self.clients = [ClientState(1, 1, START) for _ in range(N)]
        self.path = [START]

    def train(self, client: int, start: NDArray[np.float32], correction: NDArray[np.float32]) -> LocalResult:
        x = start.astype(np.float64)
        for _ in range(self.steps[client]):
            x = x - LR * (CURVES[client] * (x - CENTRES[client]) + correction)
        scale = LR * float(self.steps[client])
        return LocalResult(x.astype(np.float32), int(self.examples[client]), 1.0, gradient_scale=scale)

    def ask(self, client: int, *, dense: bool = False) -> ClientUpdate:
        digest = vector_digest(self.server.model)
        plan = decode_plan(
            encode_plan(plan_for(self.server, client, digest, dense=dense or self.dense), LAYOUT), LAYOUT
        )
        state = self.clients[client]
        if self.with_control:
            answer, after = scaffold_round(plan, state, lambda x, c: self.train(client, x, c), LAYOUT, self.compression)
        else:
            zero = np.zeros(SIZE, np.float32)
            answer, after = client_round(plan, state, lambda x: self.train(client, x, zero), LAYOUT, self.compression)
        if isinstance(answer, NeedsModel):
            assert not dense
            self.server = with_synced(self.server, client, 0)
            return self.ask(client, dense=True)
        self.clients[client] = after
        found = decode_update(encode_update(answer), LAYOUT)
        assert isinstance(found, ClientUpdate)
        return found

    def round(self, sample: list[int], lost: tuple[int, ...] = ()) -> None:
        accumulator = Accumulator(LAYOUT, sample, control=control_mean(self.server))
        for client in sample:
            answer = self.ask(client)
            if client not in lost:
                accumulator.add(client, answer)
        optimizer = OptimizerSettings("average", 1.0)
        self.server, _ = server_round(accumulator.aggregate(), self.server, LAYOUT, optimizer, self.downlink)
        self.path.append(self.server.model)

    def settled_total(self) -> NDArray[np.float64]:
        """sum n_i c_i as the clients hold it, with what the server has used and they have not been told of yet."""
        total = np.zeros(SIZE)
        for client, state in enumerate(self.clients):
            if state.control is None:
                continue
            own = state.control.own.astype(np.float64)
            record, sent = self.server.record(client), state.sent
            if sent is not None and record.accepted_round == sent.round > state.control.round:
                own = own + decode(sent.payload, LAYOUT) / sent.gradient_scale
            total += own * self.examples[client]
        return total


@pytest.mark.parametrize("sampled", [N, 3])
def test_without_compression_it_is_scaffold_by_the_book(sampled: int) -> None:
    rng = np.random.default_rng(0)
    samples = [sorted(int(c) for c in rng.choice(N, sampled, replace=False)) for _ in range(25)]
    federation = Federation()
    for sample in samples:
        federation.round(sample)
    gradients = [lambda x, i=i: CURVES[i] * (x - CENTRES[i]) for i in range(N)]
    expected = scaffold(gradients, START.astype(np.float64), samples, lr=LR, steps=STEPS)
    for ours, theirs in zip(federation.path, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(("codec", "budget"), [("dense", "none"), ("deadzone", "nmse=0.4"), ("int8", "none")])
@pytest.mark.parametrize("sampled", [N, 2])
def test_the_fixed_point_is_the_global_minimum_where_fedavg_drifts(codec: str, budget: str, sampled: int) -> None:
    steps = np.array([8, 3, 12, 5, 8])  # clients with more steps must not pull harder
    target = optimum(EXAMPLES / EXAMPLES.sum())
    found = {}
    for with_control in (True, False):
        federation = Federation(codec, budget, codec == "dense", EXAMPLES, with_control, steps)
        rng = np.random.default_rng(1)
        for _ in range(200 if sampled == N else 350):
            federation.round(sorted(int(c) for c in rng.choice(N, sampled, replace=False)))
        found[with_control] = float(np.linalg.norm(federation.server.model - target) / np.linalg.norm(target))
    assert found[True] < 2e-3
    assert found[False] > 30 * found[True]


@given(st.lists(st.tuples(st.lists(st.integers(0, N - 1), min_size=1, unique=True), st.booleans()), max_size=12))
@settings(max_examples=25, deadline=None)
def test_the_servers_sum_is_what_the_clients_hold_and_all_derive_one_common(
    history: list[tuple[list[int], bool]],
) -> None:
    federation = Federation("deadzone", "nmse=0.6", False, EXAMPLES)
    for sample, loses in history:
        lost = (sample[0],) if loses and len(sample) > 1 else ()
        federation.round(sorted(sample), lost)
        control = federation.server.control
        assert control is not None
        scale = np.abs(control.total).max() + 1
        np.testing.assert_allclose(federation.settled_total(), control.total, atol=1e-5 * scale)
    for client in range(N):
        federation.ask(client)
        state = federation.clients[client]
        assert state.control is not None
        assert federation.server.control is not None
        assert state.control.common.tobytes() == federation.server.control.common.tobytes()


def test_asked_twice_it_answers_alike_and_after_a_restart_anew() -> None:
    federation = Federation("deadzone", "nmse=0.6", False)
    federation.round(list(range(N)))
    first = federation.ask(2)
    assert federation.ask(2) == first
    assert first.control_round == 1
    federation.server = restarted(federation.server, LAYOUT)
    second = federation.ask(2)
    assert second.control_round == 0
    assert second.payload != first.payload
    state = federation.clients[2]
    assert state.control is not None
    assert not state.control.own.any()
    assert not state.control.common.any()


def test_steps_that_are_no_gradients_are_refused() -> None:
    federation = Federation()
    plan = plan_for(federation.server, 0, vector_digest(START), dense=True)
    with pytest.raises(RoundError, match=r"client\.optimizer = sgd"):
        scaffold_round(
            plan, federation.clients[0], lambda x, _: LocalResult(x + 1, 3, 0.0), LAYOUT, federation.compression
        )
    plain = replace(plan, control_epoch=0)
    with pytest.raises(RoundError, match="without control variates"):
        scaffold_round(
            plain, federation.clients[0], lambda x, _: LocalResult(x, 3, 0.0), LAYOUT, federation.compression
        )
