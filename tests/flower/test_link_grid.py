"""LinkGrid and ClientHost together, over real gRPC on loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from amgt_fed.errors import LinkError
from amgt_fed.flower import compat
from amgt_fed.flower.client_host import ClientHost, HostedNode
from amgt_fed.flower.link_grid import LinkGrid
from amgt_fed.link import Address, LinkClient, LinkLimits, Peer, Request, node_id_of

LIMITS = LinkLimits(grace_s=0.5, backoff_s=0.02, max_backoff_s=0.1)


class Hosts:
    """Client hosts in threads, waited for at the end."""

    def __init__(self, grid: LinkGrid) -> None:
        self._grid = grid
        self.threads: list[threading.Thread] = []

    def start(self, app: ClientApp, names: list[str], limits: LinkLimits = LIMITS) -> None:
        nodes = [HostedNode(name, {"partition-id": index}) for index, name in enumerate(names)]
        host = ClientHost(app, self._grid.address, None, nodes, limits=limits)
        thread = threading.Thread(target=host.run, daemon=True)
        thread.start()
        self.threads.append(thread)
        assert self._grid.wait_nodes(len(names), 20)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[LinkGrid, Hosts]]]:
    with ExitStack() as stack:

        def make(limits: LinkLimits = LIMITS, **options: object) -> tuple[LinkGrid, Hosts]:
            grid = LinkGrid(Address("127.0.0.1", 0), None, run_id=9, run_config={"lr": 0.5, "n": 2}, limits=limits)
            hosts = Hosts(grid)
            stack.callback(lambda: [thread.join(20) for thread in hosts.threads])
            stack.enter_context(grid)
            return grid, hosts

        yield make


def ask(grid: LinkGrid, content: RecordDict | None = None, timeout: float = 30, **options: object) -> list[Message]:
    nodes = grid.get_node_ids()
    messages = [Message(content or RecordDict(), node, "train", **options) for node in nodes]  # type: ignore[call-overload]
    return grid.send_and_receive(messages, timeout=timeout)


def test_flowers_own_fedavg_runs_unchanged_with_dense_arrays(serve: Callable[..., tuple[LinkGrid, Hosts]]) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content["arrays"].to_numpy_ndarrays()
        step = 1 + int(context.node_config["partition-id"])
        content = {
            "arrays": ArrayRecord([array + np.float32(step * context.run_config["lr"]) for array in arrays]),
            "metrics": MetricRecord({"train_loss": float(step), "num-examples": step}),
        }
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        value = float(message.content["arrays"].to_numpy_ndarrays()[0].sum())
        return Message(RecordDict({"m": MetricRecord({"eval_loss": value, "num-examples": 1})}), reply_to=message)

    grid, hosts = serve()
    hosts.start(app, ["a", "b", "c"])
    initial = [np.zeros((300, 400), np.float32), np.ones(3, np.float32)]
    result = FedAvg(min_available_nodes=3).start(grid, ArrayRecord(initial), num_rounds=2, timeout=30)
    # Weights 1, 2, 3 and steps .5, 1, 1.5: every round adds (.5 + 2 + 4.5) / 6.
    final = result.arrays.to_numpy_ndarrays()
    for before, after in zip(initial, final, strict=True):
        np.testing.assert_allclose(after, before + 2 * 7 / 6, rtol=1e-6)
    assert set(result.evaluate_metrics_clientapp) == {1, 2}
    dense = 2 * sum(array.nbytes for array in initial)
    sent = grid.traffic().total
    # 3 nodes, 2 rounds, train and evaluate downwards, train upwards; Flower's framing and ours are the rest.
    assert 6 * dense < sent.sent_payload_bytes < 6 * dense * 1.01
    assert sent.sent_payload_bytes < sent.sent_bytes < sent.sent_payload_bytes * 1.01
    assert 3 * dense < sent.received_bytes < 3 * dense * 1.02


def test_context_and_configurations_are_flowers_and_the_state_lives_on(
    serve: Callable[..., tuple[LinkGrid, Hosts]],
) -> None:
    seen: list[tuple[object, ...]] = []
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        count = int(context.state["c"]["n"]) + 1 if "c" in context.state else 1
        context.state["c"] = MetricRecord({"n": count})
        seen.append((context.run_id, context.node_id, dict(context.node_config), dict(context.run_config), count))
        assert abs(message.metadata.created_at - time.time()) < 60
        assert 0 < message.metadata.ttl <= 5
        return Message(RecordDict({"c": ConfigRecord({"group": message.metadata.group_id})}), reply_to=message)

    grid, hosts = serve()
    hosts.start(app, ["x"])
    for group in ("1", "2"):
        (reply,) = ask(grid, ttl=5.0, group_id=group)
        assert reply.content["c"]["group"] == group
        assert reply.metadata.src_node_id == node_id_of("x")
    common = (9, node_id_of("x"), {"partition-id": 0}, {"lr": 0.5, "n": 2})
    assert seen == [(*common, 1), (*common, 2)]
    assert grid.node_names() == {node_id_of("x"): "x"}


def test_a_client_app_that_raises_is_an_error_reply_with_its_traceback(
    serve: Callable[..., tuple[LinkGrid, Hosts]],
) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 0:
            raise ZeroDivisionError("no data")
        return Message(RecordDict(), reply_to=message)

    grid, hosts = serve()
    hosts.start(app, ["a", "b"])
    replies = {reply.metadata.src_node_id: reply for reply in ask(grid)}
    failed = replies[node_id_of("a")]
    assert failed.error.code == compat.CLIENT_APP_RAISED
    assert (failed.error.reason or "").splitlines()[0] == "ZeroDivisionError: no data"
    assert "Traceback" in (failed.error.reason or "")
    assert replies[node_id_of("b")].has_content()


def test_large_messages_pass_both_ways_and_the_receive_budget_is_given_back(
    serve: Callable[..., tuple[LinkGrid, Hosts]],
) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(message.content, reply_to=message)

    size = 3_000_000
    limits = dataclasses.replace(LIMITS, max_message_bytes=4_000_000, receive_budget_bytes=4_000_000)
    grid, hosts = serve(limits)
    hosts.start(app, ["a", "b", "c"])
    data = np.random.default_rng(1).bytes(size)
    content = RecordDict({"a": ArrayRecord({"u": Array("uint8", (size,), "amgt.v1", data)})})
    replies = ask(grid, content)
    assert [reply.content["a"]["u"].data == data for reply in replies] == [True] * 3
    deadline = time.monotonic() + 10
    while grid._server.budget.free != 4_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reply_the_server_does_not_take_becomes_an_error_reply(serve: Callable[..., tuple[LinkGrid, Hosts]]) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"c": ConfigRecord({"b": bytes(20_000)})}), reply_to=message)

    grid, hosts = serve(dataclasses.replace(LIMITS, max_message_bytes=10_000))
    hosts.start(app, ["a"])
    (reply,) = ask(grid)
    assert "MessageTooLarge" in (reply.error.reason or "")
    assert "the server takes at most 10000" in (reply.error.reason or "")


def test_a_reply_that_is_no_message_becomes_an_error_reply(serve: Callable[..., tuple[LinkGrid, Hosts]]) -> None:
    grid, _ = serve()

    async def garbage() -> None:
        def take(request: Request) -> None:
            client.reply(request, [b"\xff\xfe not protobuf"])

        client = LinkClient(grid.address, None, "evil", take, limits=LIMITS)
        await client.run()

    thread = threading.Thread(target=lambda: asyncio.run(garbage()), daemon=True)
    thread.start()
    assert grid.wait_nodes(1, 10)
    (reply,) = ask(grid)
    assert reply.error.code == compat.CLIENT_APP_CRASHED
    assert "malformed reply" in (reply.error.reason or "")
    grid.__exit__(None, None, None)
    thread.join(10)


def test_a_node_that_goes_away_is_an_error_reply_after_the_grace_period(
    serve: Callable[..., tuple[LinkGrid, Hosts]],
) -> None:
    grid, _ = serve()
    loop = asyncio.new_event_loop()
    client = LinkClient(grid.address, None, "mortal", lambda request: None, limits=LIMITS)
    task = loop.create_task(client.run())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait({task})), daemon=True)
    thread.start()
    assert grid.wait_nodes(1, 10)
    (message_id,) = grid.push_messages([Message(RecordDict(), grid.get_node_ids()[0], "train")])
    assert not grid.wait_messages([message_id], 0.2)
    loop.call_soon_threadsafe(task.cancel)
    thread.join(10)
    loop.close()
    started = time.monotonic()
    assert grid.wait_messages([message_id], 20)
    assert time.monotonic() - started < 10
    (reply,) = grid.pull_messages([message_id])
    assert reply.error.code == compat.NODE_UNAVAILABLE
    assert "node mortal is gone" in (reply.error.reason or "")
    assert grid.get_node_ids() == []
    (nobody,) = grid.send_and_receive([Message(RecordDict(), 12345, "train")], timeout=10)
    assert nobody.error.code == compat.NODE_UNAVAILABLE


def test_stragglers_past_the_timeout_are_dropped_and_the_next_round_is_clean(
    serve: Callable[..., tuple[LinkGrid, Hosts]],
) -> None:
    release = threading.Event()
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if message.metadata.group_id == "slow":
            release.wait(20)
        return Message(RecordDict({"c": ConfigRecord({"g": message.metadata.group_id})}), reply_to=message)

    grid, hosts = serve()
    hosts.start(app, ["a"])
    assert ask(grid, timeout=0.2, group_id="slow") == []
    release.set()
    (reply,) = ask(grid, group_id="next")
    assert reply.content["c"]["g"] == "next"
    assert grid._batches == {}


def test_two_nodes_of_one_name_in_one_process_are_refused() -> None:
    with pytest.raises(LinkError, match="'a' is given twice"):
        ClientHost(ClientApp(), Address("127.0.0.1", 1), None, [HostedNode("a"), HostedNode("a")])


def test_a_refused_host_raises_the_refusal() -> None:
    class Closed:
        def refuses(self, peer: Peer) -> str | None:
            return "not today"

        def has_news(self) -> bool:
            return False

        def refuses_client(self, name: str, client: int) -> str | None:
            return None

    grid = LinkGrid(Address("127.0.0.1", 0), None, run_id=1, run_config={}, limits=LIMITS, doorkeeper=Closed())
    with grid:
        host = ClientHost(ClientApp(), grid.address, None, [HostedNode("a"), HostedNode("b")], limits=LIMITS)
        with pytest.raises(LinkError, match="not today"):
            host.run()
