"""A whole federation on the two pure functions, with absences, lost replies, resets and resumed servers.

After any history: every client that reaches x_k holds the server's bits, and no local update is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from amgt_fed.codec import decode, get_codec
from amgt_fed.federated.aggregate import Accumulator
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.federated.catchup import plan_for
from amgt_fed.federated.client import ClientState, Compression, LocalResult, client_round
from amgt_fed.federated.messages import ClientUpdate, NeedsModel
from amgt_fed.federated.server import Downlink, server_round
from amgt_fed.federated.server_optimizer import OptimizerSettings
from amgt_fed.federated.state import ServerState, with_synced
from amgt_fed.layout import Layout, vector_digest
from amgt_fed.wire import decode_plan, decode_update, encode_needs_model, encode_plan, encode_update

LAYOUT = Layout.from_shapes({"weight": (30, 20), "bias": (7,)})
X1 = np.linspace(-1, 1, LAYOUT.size).astype(np.float32)
CODEC = get_codec("deadzone")
CLIENTS = range(4)


@dataclass
class Device:
    """A client's disk, and what has become of its updates."""

    state: ClientState | None = None
    local: NDArray[np.float64] = field(default_factory=lambda: np.zeros(LAYOUT.size))
    used: NDArray[np.float64] = field(default_factory=lambda: np.zeros(LAYOUT.size))
    forgotten: NDArray[np.float64] = field(default_factory=lambda: np.zeros(LAYOUT.size))
    accepted: int = 0

    def kept(self) -> NDArray[np.float64]:
        """What the device still holds back: its residual, and its last answer where the server has not used it."""
        if self.state is None or self.state.residual is None or self.state.sent is None:
            return np.zeros(LAYOUT.size)
        lost = self.accepted < self.state.sent.round
        sent = decode(self.state.sent.payload, LAYOUT) if lost else np.zeros(LAYOUT.size)
        return self.state.residual + sent.astype(np.float64)


class Federation(RuleBasedStateMachine):
    @initialize(
        budget=st.sampled_from(["nmse=0.3", "nmse=0.8", "bits=2"]),
        feedback=st.booleans(),
        name=st.sampled_from(["average", "adam"]),
    )
    def begin(self, budget: str, feedback: bool, name: str) -> None:
        rule = BudgetRule.parse(budget)
        self.compression = Compression(CODEC, rule, error_feedback=True)
        self.downlink = Downlink(CODEC, rule, error_feedback=feedback)
        self.optimizer = OptimizerSettings(name, lr=0.9 if name == "average" else 0.01)  # type: ignore[arg-type]
        self.server = ServerState(run=7, round=1, model=X1)
        self.devices = {client: Device() for client in CLIENTS}
        self.calls = 0
        self.belated: dict[int, ClientUpdate] = {}  # trained and under way; until they arrive nobody is asked anew

    def _ask(self, client: int, *, dense: bool = False) -> ClientUpdate | NeedsModel:
        """One message each way, over the wire's own bytes; the device writes its state before it answers."""
        digest = vector_digest(self.server.model)
        plan = decode_plan(encode_plan(plan_for(self.server, client, digest, dense=dense), LAYOUT), LAYOUT)
        device = self.devices[client]
        state = device.state or ClientState(run=7, round=1, model=X1)

        def train(start: NDArray[np.float32]) -> LocalResult:
            assert start.tobytes() == self.server.model.tobytes()  # every client trains from the server's x_k
            self.calls += 1
            noise = np.random.default_rng([client, plan.round, self.calls]).standard_normal(LAYOUT.size)
            after = start - (0.05 * start + 0.02 * noise).astype(np.float32)
            device.local += (start - after).astype(np.float64)
            return LocalResult(after, 10 + client, 1.0)

        answer, after = client_round(plan, state, train, LAYOUT, self.compression)
        if isinstance(answer, NeedsModel):
            found = decode_update(encode_needs_model(answer), LAYOUT)
        else:
            device.state = after
            found = decode_update(encode_update(answer), LAYOUT)
        return found

    @rule(
        fates=st.lists(st.sampled_from(["used", "absent", "lost", "late", "belated"]), min_size=4, max_size=4),
        order=st.permutations(list(CLIENTS)),
    )
    def one_round(self, fates: list[str], order: list[int]) -> None:
        free = [client for client in CLIENTS if client not in self.belated]
        sampled = [client for client in free if fates[client] != "absent"]
        fates = [fate if client in free else "absent" for client, fate in zip(CLIENTS, fates, strict=True)]
        arriving = {client: update for client, update in self.belated.items() if order[client] % 2}
        if "used" not in fates:
            for client in sampled:  # a round below its quorum: trained for nothing
                self._ask(client)
            return
        accumulator = Accumulator(LAYOUT, sampled)
        for client in order:
            if client not in sampled:
                continue
            answer = self._ask(client)
            if isinstance(answer, NeedsModel):
                self.server = with_synced(self.server, client, 0)
                answer = self._ask(client, dense=True)
            assert isinstance(answer, ClientUpdate)
            if fates[client] == "used":
                accumulator.add(client, answer)
                self.devices[client].used += decode(answer.payload, LAYOUT)
                self.devices[client].accepted = answer.round
            elif fates[client] == "lost":
                accumulator.give_up(client)  # "late" ones are given up by `aggregate`
            elif fates[client] == "belated":
                self.belated[client] = answer
        for client, update in arriving.items():
            accumulator.add_late(client, update, 0.5)
            self.devices[client].used += decode(update.payload, LAYOUT)
            self.devices[client].accepted = update.round
            del self.belated[client]
        self.server, _ = server_round(accumulator.aggregate(), self.server, LAYOUT, self.optimizer, self.downlink)

    @rule(client=st.sampled_from(CLIENTS))
    def the_same_plan_twice(self, client: int) -> None:
        if client in self.belated:
            return
        first = self._ask(client)
        calls = self.calls
        assert self._ask(client) == first
        assert self.calls == calls

    @rule(client=st.sampled_from(CLIENTS))
    def a_device_is_wiped(self, client: int) -> None:
        device = self.devices[client]
        if client in self.belated:
            return  # what is under way is not on the device
        device.forgotten += device.kept()
        device.state = None

    @rule(client=st.sampled_from(CLIENTS))
    def a_device_holds_a_damaged_model(self, client: int) -> None:
        device = self.devices[client]
        if device.state is not None:
            device.state = replace(device.state, model=device.state.model + np.float32(0.5))

    @rule(client=st.sampled_from(CLIENTS))
    def the_server_is_restarted_and_hears_what_a_client_holds(self, client: int) -> None:
        state = self.devices[client].state
        held = 1 if state is None else state.round
        self.server = with_synced(self.server, client, held if held <= self.server.round else 0)

    @invariant()
    def no_update_is_lost(self) -> None:
        for device in self.devices.values():
            total = device.used + device.kept() + device.forgotten
            np.testing.assert_allclose(total, device.local, atol=2e-4)

    @invariant()
    def the_window_is_smaller_than_the_model_and_without_gaps(self) -> None:
        steps = self.server.steps
        assert sum(len(step.payload) for step in steps) < 4 * LAYOUT.size
        assert [step.round for step in steps] == list(range(self.server.round - len(steps), self.server.round))


TestFederation = Federation.TestCase
TestFederation.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)


def test_thirty_rounds_with_drop_outs_end_with_one_model_everywhere() -> None:
    machine = Federation()
    machine.begin("nmse=0.5", True, "average")
    rng = np.random.default_rng(5)
    for _ in range(30):
        fates = [str(fate) for fate in rng.choice(["used", "absent", "lost", "late"], 4, p=[0.4, 0.4, 0.1, 0.1])]
        machine.one_round(fates, [int(client) for client in rng.permutation(4)])
        if rng.random() < 0.2:
            machine.a_device_is_wiped(int(rng.integers(4)))
        machine.no_update_is_lost()
    machine.one_round(["used"] * 4, [3, 1, 0, 2])
    digest = vector_digest(machine.server.model)
    for client in CLIENTS:  # one more plan each: all stand where the server does
        machine._ask(client)
        state = machine.devices[client].state
        assert state is not None
        assert vector_digest(state.model) == digest
