"""CompressedStrategy and compression_mod around ordinary apps and strategies, in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import arrays_size_mod
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray

from amgt_fed.errors import CodecError, ConfigError, RoundError
from amgt_fed.flower import CompressedStrategy, compression_mod
from amgt_fed.flower.compression_messages import RECORD, Order, attach
from amgt_fed.flower.compression_traffic import content_bytes
from amgt_fed.flower.compression_values import digest_of
from amgt_fed.flower.local_grid import FIRST_NODE_ID, LocalGrid

Arrays = dict[str, NDArray[Any]]
DENSE = {"codec": "dense", "budget": "none"}
NODES = 4


def record_of(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def arrays_of(record: ArrayRecord) -> Arrays:
    return {name: array.numpy() for name, array in record.items()}


def model(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "fc.weight": rng.standard_normal((24, 40)).astype(np.float32),
        "fc.bias": rng.standard_normal(24).astype(np.float32),
        "bn.running_var": np.ones(24, np.float32),
        "bn.num_batches_tracked": np.array(0, np.int64),
    }


def goal(node: int) -> Arrays:
    """What a client's training leads to: a rank-one matrix of its own near a common one."""
    rng = np.random.default_rng(99)
    weight = np.outer(rng.standard_normal(24), rng.standard_normal(40)) + 0.1 * np.outer(
        np.random.default_rng(node).standard_normal(24), rng.standard_normal(40)
    )
    return {"fc.weight": weight.astype(np.float32), "fc.bias": np.full(24, node, np.float32)}


class App:
    """Trains by going an eighth of the way to `goal`; remembers what it saw."""

    def __init__(self, *mods: Any, change: Callable[[int, int, Arrays], Arrays] | None = None) -> None:
        self.seen: list[tuple[str, int, Arrays]] = []
        self.contexts: dict[int, Context] = {}
        self.sent: list[tuple[int, Arrays]] = []
        self.client_app = ClientApp(mods=list(mods))
        self.has_mods = bool(mods)
        self.client_app.amgt_parallel = False  # type: ignore[attr-defined]

        @self.client_app.train()
        def train(message: Message, context: Context) -> Message:
            node, arrays = self._read(message, context)
            trained = {
                name: (array + (goal(node)[name] - array) / 8).astype(array.dtype) if name in goal(node) else array
                for name, array in arrays.items()
            }
            if "bn.num_batches_tracked" in arrays:
                trained["bn.num_batches_tracked"] = np.asarray(arrays["bn.num_batches_tracked"] + 3, np.int64)
                trained["bn.running_var"] = arrays["bn.running_var"] / 2
            if change is not None:
                trained = change(int(message.content["config"]["server-round"]), node, trained)  # type: ignore[arg-type,index]
            self.sent.append((node, trained))
            metrics = MetricRecord({"num-examples": 10 + node, "train_loss": 1.0})
            return Message(RecordDict({"arrays": record_of(trained), "metrics": metrics}), reply_to=message)

        @self.client_app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            _, arrays = self._read(message, context)
            metrics = MetricRecord({"num-examples": 5, "size": float(sum(np.sum(a) for a in arrays.values()))})
            return Message(RecordDict({"metrics": metrics}), reply_to=message)

    def _read(self, message: Message, context: Context) -> tuple[int, Arrays]:
        node = int(context.node_config["partition-id"])
        self.contexts[node] = context
        if self.has_mods:
            assert list(message.content) == ["arrays", "config"]  # ordinary records, in the strategy's order
        # As Flower's own apps may: take the arrays out while reading them.
        arrays = dict(zip(model(), message.content["arrays"].to_numpy_ndarrays(keep_input=False), strict=False))  # type: ignore[union-attr]
        self.seen.append((message.metadata.message_type, node, arrays))
        return node, arrays


def run(app: App, strategy: flower.Strategy, rounds: int = 3, start: Arrays | None = None, **more: Any) -> Any:
    with LocalGrid(app.client_app, NODES, {}, workers=1) as grid:
        return strategy.start(grid, record_of(model() if start is None else start), num_rounds=rounds, **more)


def exactly() -> dict[str, Any]:
    return {**DENSE, "initial": "none"}


STRATEGIES: list[Callable[[], flower.Strategy]] = [
    flower.FedAvg,
    lambda: flower.FedAvgM(server_learning_rate=0.9, server_momentum=0.5),
    lambda: flower.FedAdam(eta=0.05),
    lambda: flower.FedYogi(eta=0.05),
    lambda: flower.FedAdagrad(eta=0.05),
    flower.FedMedian,
    lambda: flower.FedTrimmedAvg(beta=0.25),
    lambda: flower.Krum(num_malicious_nodes=0),
    lambda: flower.QFedAvg(client_learning_rate=0.1, train_loss_key="train_loss"),
    lambda: flower.FedProx(proximal_mu=0.1),
]


@pytest.mark.parametrize("make", STRATEGIES)
def test_without_loss_every_strategy_ends_where_it_does_alone(make: Callable[[], flower.Strategy]) -> None:
    start = {name: array for name, array in model().items() if "num" not in name}  # FedAdam turns integers to floats
    alone = run(App(), make(), start=start)
    wrapped = run(App(compression_mod(**DENSE)), CompressedStrategy(make(), **exactly()), start=start)
    for name, array in arrays_of(alone.arrays).items():
        np.testing.assert_allclose(arrays_of(wrapped.arrays)[name], array, rtol=2e-5, atol=2e-5)
    own = {k: v for k, v in wrapped.train_metrics_clientapp[3].items() if not k.startswith("amgt-")}
    assert own == pytest.approx(dict(alone.train_metrics_clientapp[3]))


def test_the_two_lines_shrink_the_traffic_and_every_client_holds_the_servers_bits() -> None:
    app = App(compression_mod)
    strategy = CompressedStrategy(flower.FedAvg(fraction_evaluate=0.5))
    result = run(app, strategy, rounds=20)
    found, plain = arrays_of(result.arrays), arrays_of(run(App(), flower.FedAvg(), rounds=20).arrays)
    apart = np.linalg.norm(found["fc.weight"] - plain["fc.weight"])
    assert apart < 0.25 * np.linalg.norm(model()["fc.weight"] - plain["fc.weight"])
    assert {name: array.dtype for name, array in found.items()} == {n: a.dtype for n, a in model().items()}
    assert found["bn.num_batches_tracked"] == 60  # integers are exact, and stay integers
    np.testing.assert_allclose(found["bn.running_var"], np.full(24, 0.5**20), rtol=1e-4)  # a variance is not negative
    last = [arrays for kind, _, arrays in app.seen if kind == "evaluate"][-2:]
    assert digest_of(record_of(last[0])) == digest_of(record_of(last[1]))
    up, down = (sum(getattr(t, f"{way}link_bytes") for t in strategy.traffic) for way in ("up", "down"))
    dense_up, dense_down = (
        sum(getattr(t, f"dense_{way}link_bytes") for t in strategy.traffic) for way in ("up", "down")
    )
    assert up < dense_up / 8  # a model of 1,000 parameters: names and framing weigh
    assert down < dense_down / 5
    metrics = result.train_metrics_clientapp[1]
    assert metrics["amgt-update-error"] ** 2 <= metrics["amgt-update-norm"] ** 2  # nmse 0.5, before any feedback
    assert metrics["amgt-models-sent"] == metrics["amgt-failures"] == 0


def test_bytes_are_those_of_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"up": 0, "down": 0}
    send = LocalGrid.send_and_receive

    def counting(self: LocalGrid, messages: Any, **more: Any) -> Any:
        out = list(messages)
        counted["down"] += sum(content_bytes(m.content) for m in out)
        replies = list(send(self, out, **more))
        counted["up"] += sum(content_bytes(m.content) for m in replies if m.has_content())
        return replies

    monkeypatch.setattr(LocalGrid, "send_and_receive", counting)
    strategy = CompressedStrategy(flower.FedAvg())
    result = run(App(compression_mod), strategy)
    assert sum(t.uplink_bytes for t in strategy.traffic) == counted["up"]
    assert sum(t.downlink_bytes for t in strategy.traffic) == counted["down"]
    reported = [*result.train_metrics_clientapp.values(), *result.evaluate_metrics_clientapp.values()]
    assert sum(m["amgt-uplink-bytes"] + m["amgt-downlink-bytes"] for m in reported) == counted["up"] + counted["down"]
    counted.update(up=0, down=0)
    run(App(), flower.FedAvg())
    assert sum(t.dense_uplink_bytes for t in strategy.traffic) == counted["up"]
    assert sum(t.dense_downlink_bytes for t in strategy.traffic) == counted["down"]


def residual_of(context: Context) -> NDArray[np.float32]:
    (array,) = context.state["amgt-residual"].values()  # type: ignore[union-attr]
    return array.numpy()  # type: ignore[no-any-return,union-attr]


class Watched(flower.FedAvg):
    """Remembers the models it was given and the replies it saw; picks no node but the first."""

    def __init__(self, **more: Any) -> None:
        super().__init__(fraction_evaluate=0.0, **more)
        self.given: list[Arrays] = []
        self.replies: list[list[Message]] = []

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any) -> Any:
        self.given.append(arrays_of(arrays))
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        self.replies.append(list(replies))
        return super().aggregate_train(server_round, self.replies[-1])


def test_what_the_server_sees_and_what_is_left_add_up_to_what_was_trained() -> None:
    app = App(compression_mod(budget="nmse=0.8"))
    inner = Watched()
    run(app, CompressedStrategy(inner, budget="nmse=0.8"), rounds=5)
    for node in range(NODES):
        received = [arrays for _, at, arrays in app.seen if at == node]
        trained = [arrays for at, arrays in app.sent if at == node]
        total = sum(before["fc.weight"] - after["fc.weight"] for before, after in zip(received, trained, strict=True))
        seen = np.zeros((24, 40))
        for given, replies in zip(inner.given, inner.replies, strict=True):
            (reply,) = [r for r in replies if r.metadata.src_node_id == FIRST_NODE_ID + node]
            seen += given["fc.weight"] - arrays_of(reply.content["arrays"])["fc.weight"]  # type: ignore[arg-type]
        residual = residual_of(app.contexts[node])
        kept = residual[: 24 * 40].reshape(24, 40)
        assert np.linalg.norm(kept) > 0.1
        np.testing.assert_allclose(seen + kept, total, atol=1e-4)


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Have the grid lose the reply of a node in its n-th call."""
    lost: set[tuple[int, int]] = set()
    calls = [0]
    send = LocalGrid.send_and_receive

    def dropping(self: LocalGrid, messages: Any, **more: Any) -> Any:
        calls[0] += 1
        replies = send(self, messages, **more)
        return [r for r in replies if (calls[0], r.metadata.src_node_id - FIRST_NODE_ID) not in lost]

    monkeypatch.setattr(LocalGrid, "send_and_receive", dropping)
    return lambda call, node: lost.add((call, node))


def test_an_update_that_never_arrived_is_sent_again(losing: Callable[[int, int], None]) -> None:
    app = App(compression_mod(budget="nmse=0.3"))
    strategy = CompressedStrategy(Watched(), codec="dense", budget="none", initial="none")
    losing(1, 2)  # configure_evaluate sends nothing, but Flower calls the grid all the same: calls 1, 3, 5 are training
    run(app, strategy, rounds=1)
    before = residual_of(app.contexts[2])
    # The second round of the same run: the lost reply was the one thing the client had sent.
    app2 = App(compression_mod(budget="nmse=0.3"))
    losing(3, 2)
    inner = Watched()
    run(app2, CompressedStrategy(inner, codec="dense", budget="none", initial="none"), rounds=2)
    received = [arrays for _, at, arrays in app2.seen if at == 2]
    trained = [arrays for at, arrays in app2.sent if at == 2]
    total = sum(a["fc.weight"] - b["fc.weight"] for a, b in zip(received, trained, strict=True))
    (reply,) = [r for r in inner.replies[1] if r.metadata.src_node_id == FIRST_NODE_ID + 2]
    seen = inner.given[1]["fc.weight"] - arrays_of(reply.content["arrays"])["fc.weight"]  # type: ignore[arg-type]
    kept = residual_of(app2.contexts[2])[: 24 * 40].reshape(24, 40)
    np.testing.assert_allclose(seen + kept, total, atol=1e-4)
    assert len(inner.replies[0]) == NODES - 1
    assert before.size == 24 * 40 + 24


def test_a_client_that_lost_its_state_takes_part_in_the_same_round(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="flwr.amgt_fed")

    def wiping(message: Message, context: Context, call_next: Any) -> Message:
        if context.node_config["partition-id"] == 1 and message.metadata.message_type == "evaluate":
            for key in list(context.state):
                del context.state[key]
        return call_next(message, context)  # type: ignore[no-any-return]

    app = App(wiping, compression_mod)
    strategy = CompressedStrategy(flower.FedAvg())
    result = run(app, strategy, rounds=3)
    assert [t.failures for t in strategy.traffic] == [0, 0, 0]
    assert [t.models_sent for t in strategy.traffic] == [1, 1, 1]
    assert "node 1001 is sent the whole model" in caplog.text
    assert len([1 for kind, node, _ in app.seen if kind == "evaluate" and node == 1]) == 3
    assert set(result.evaluate_metrics_clientapp) == {1, 2, 3}


def test_a_client_with_other_bits_is_sent_the_model() -> None:
    def damage(message: Message, context: Context, call_next: Any) -> Message:
        held = context.state.get("amgt-model")
        if held and context.node_config["partition-id"] == 0:
            array = held["fc.weight"].numpy().copy()  # type: ignore[index,union-attr]
            array[0, 0] += 1
            held["fc.weight"] = Array(array)  # type: ignore[index,assignment]
        return call_next(message, context)  # type: ignore[no-any-return]

    app = App(damage, compression_mod)
    strategy = CompressedStrategy(flower.FedAvg(fraction_evaluate=0.0))
    run(app, strategy, rounds=3)
    assert [t.models_sent for t in strategy.traffic] == [0, 1, 1]
    last = [digest_of(record_of(arrays)) for _, _, arrays in app.seen[-NODES:]]
    assert len(set(last)) == 1


def test_a_fraction_of_clients_catches_up_by_the_steps_it_missed() -> None:
    app = App(compression_mod)
    strategy = CompressedStrategy(flower.FedAvg(fraction_train=0.5, fraction_evaluate=0.0))
    run(app, strategy, rounds=10)
    assert sum(t.models_sent + t.failures for t in strategy.traffic) == 0
    for round in range(10):
        one, two = (digest_of(record_of(arrays)) for _, _, arrays in app.seen[2 * round : 2 * round + 2])
        assert one == two


def test_training_that_diverges_is_a_failure_of_that_client_that_names_the_array() -> None:
    def diverge(round: int, node: int, trained: Arrays) -> Arrays:
        if round == 2 and node == 3:
            trained["fc.bias"] = trained["fc.bias"] * np.float32(np.nan)
        return trained

    inner = Watched()
    strategy = CompressedStrategy(inner)
    result = run(App(compression_mod, change=diverge), strategy, rounds=3)
    errors = [r.error.reason for r in inner.replies[1] if r.has_error()]
    assert len(errors) == 1
    assert "'fc.bias'" in errors[0]
    assert [t.failures for t in strategy.traffic] == [0, 1, 0]
    assert np.isfinite(arrays_of(result.arrays)["fc.bias"]).all()


def test_a_model_that_diverges_on_the_server_ends_the_run_with_its_name() -> None:
    class Diverging(Watched):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            arrays["fc.weight"] = Array(np.full_like(arrays["fc.weight"].numpy(), np.inf))
            return arrays, metrics

    with pytest.raises(RoundError, match=r"'fc.weight'"):
        run(App(compression_mod), CompressedStrategy(Diverging()))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_float_types_stay_what_they_are(dtype: str) -> None:
    start = {name: array.astype(dtype) for name, array in model().items() if "num" not in name}
    start["bn.running_var"] = model()["bn.running_var"]
    start |= {"mask": np.array([True, False]), "empty": np.zeros((0, 3), dtype), "scalar": np.asarray(2.5, dtype)}
    app = App(compression_mod(budget="nmse=0.1"))
    app.client_app = ClientApp(mods=[compression_mod(budget="nmse=0.1")])

    @app.client_app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = arrays_of(message.content["arrays"])  # type: ignore[arg-type]
        assert {n: a.dtype for n, a in arrays.items()} == {n: a.dtype for n, a in start.items()}
        arrays["fc.weight"] = (arrays["fc.weight"] + (goal(1)["fc.weight"] - arrays["fc.weight"]) / 8).astype(dtype)
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": record_of(arrays), "metrics": metrics}), reply_to=message)

    result = run(app, CompressedStrategy(flower.FedAvg(fraction_evaluate=0.0), budget="nmse=0.1"), 8, start)
    found = arrays_of(result.arrays)
    expected = start["fc.weight"] + (goal(1)["fc.weight"] - start["fc.weight"]) * (1 - 0.875**8)
    assert {n: a.dtype for n, a in found.items()} == {n: a.dtype for n, a in start.items()}
    error = np.linalg.norm(found["fc.weight"].astype(float) - expected)
    assert error < 0.1 * np.linalg.norm(start["fc.weight"].astype(float) - expected)
    assert found["mask"].tolist() == [True, False]


def test_a_strategys_own_start_is_the_one_that_runs_and_keeps_its_attributes() -> None:
    class Keeping(flower.FedAvg):
        best = 0

        def start(self, *positional: Any, patience: int, **keywords: Any) -> Any:
            self.patience = patience
            result = super().start(*positional, **keywords)
            self.best = len(result.train_metrics_clientapp)
            return result

    inner = Keeping()
    strategy = CompressedStrategy(inner)
    run(App(compression_mod), strategy, rounds=2, patience=7)
    assert (inner.best, inner.patience) == (2, 7)
    assert len(strategy.traffic) == 2
    run(App(compression_mod), strategy, rounds=3, patience=7)  # and again, from the beginning
    assert [t.round for t in strategy.traffic] == [1, 2, 3]


def test_a_loop_of_ones_own_over_the_four_methods_works_too() -> None:
    app = App(compression_mod(**DENSE))
    strategy = CompressedStrategy(flower.FedAvg(), **exactly())
    arrays = record_of(model())
    with LocalGrid(app.client_app, NODES, {}, workers=1) as grid:
        for round in range(1, 4):
            replies = grid.send_and_receive(strategy.configure_train(round, arrays, ConfigRecord(), grid))
            arrays, metrics = strategy.aggregate_train(round, replies)  # type: ignore[assignment]
    expected = run(App(), flower.FedAvg())
    np.testing.assert_allclose(arrays_of(arrays)["fc.weight"], arrays_of(expected.arrays)["fc.weight"], atol=1e-4)
    assert metrics is not None


def test_clients_without_the_mod_are_sent_whole_models_and_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    strategy = CompressedStrategy(flower.FedAvg())
    result = run(App(), strategy, rounds=3)
    assert "has its ClientApp mods=[compression_mod]?" in caplog.text
    assert [t.failures for t in strategy.traffic] == [NODES, 0, 0]
    assert np.isfinite(arrays_of(result.arrays)["fc.weight"]).all()
    assert strategy.traffic[2].uplink_bytes == strategy.traffic[2].dense_uplink_bytes


def test_a_server_that_does_not_compress_is_answered_as_it_asks(caplog: pytest.LogCaptureFixture) -> None:
    result = run(App(compression_mod), flower.FedAvg())
    assert "wrap its strategy in CompressedStrategy" in caplog.text
    expected = run(App(), flower.FedAvg())
    np.testing.assert_allclose(
        arrays_of(result.arrays)["fc.weight"], arrays_of(expected.arrays)["fc.weight"], rtol=1e-5, atol=1e-6
    )


def test_other_mods_see_ordinary_arrays() -> None:
    run(App(compression_mod, arrays_size_mod), CompressedStrategy(flower.FedAvg()))


def test_damaged_replies_are_failures_and_the_others_count() -> None:
    def damage(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == "train":
            array = reply.content[RECORD]["message"]
            match context.node_config["partition-id"]:
                case 0:
                    array.data = array.data[:-3]
                case 1:
                    array.data = array.data[:-1] + bytes([array.data[-1] ^ 255])
                case 2:
                    array.stype = "amgt.mod.v9"
        return reply  # type: ignore[no-any-return]

    inner = Watched()
    strategy = CompressedStrategy(inner)
    run(App(damage, compression_mod), strategy, rounds=2)
    assert [sum(r.has_error() for r in replies) for replies in inner.replies] == [3, 2] or [
        sum(r.has_error() for r in replies) for replies in inner.replies
    ] == [3, 3]
    reasons = " ".join(r.error.reason for r in inner.replies[0] if r.has_error())
    assert "install one version" in reasons
    assert strategy.traffic[0].failures == 3


def test_a_message_of_no_sense_to_the_client_asks_for_the_model() -> None:
    app = App(compression_mod)
    order = Order(b"12345678", 1, 0, 1, "arrays", 5, b"87654321", first=4, patches=())
    with LocalGrid(app.client_app, 1, {}, workers=1) as grid:
        content = RecordDict({"config": ConfigRecord()})
        attach(content, order)
        (reply,) = grid.send_and_receive([Message(content, FIRST_NODE_ID, "train")], timeout=10)
    assert reply.has_content()
    assert not app.seen


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: CompressedStrategy(flower.FedAvg), ConfigError, "give an instance"),  # type: ignore[arg-type]
        (lambda: CompressedStrategy(flower.FedAvg(), budget="fine"), ConfigError, "write one of"),
        (lambda: CompressedStrategy(flower.FedAvg(), codec="zip"), CodecError, "no codec is called 'zip'"),
        (lambda: CompressedStrategy(flower.FedAvg(), codec=7), ConfigError, "give a name"),  # type: ignore[arg-type]
        (lambda: CompressedStrategy(CompressedStrategy(flower.FedAvg())), ConfigError, "once is enough"),
        (lambda: compression_mod(budget="bytes=1.5"), ConfigError, "whole number"),
        (lambda: compression_mod(exact="*bias"), ConfigError, "list of patterns"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_is_written(
    make: Callable[[], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make()
