"""A node that is not wanted any more is told so, cut off, and its messages fail at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from amgt_fed.link import Peer, ShutOut, node_id_of
from amgt_fed.link.v1 import link_pb2

Wait = Callable[..., None]
Federation = Any  # of conftest.py


class Door:
    """Refuses the names in `closed`, from the next housekeeping on."""

    def __init__(self) -> None:
        self.closed: dict[str, str] = {}
        self.news = False

    def refuses(self, peer: Peer) -> str | None:
        return self.closed.get(peer.name)

    def has_news(self) -> bool:
        news, self.news = self.news, False
        return news

    def close(self, name: str, reason: str) -> None:
        self.closed[name] = reason
        self.news = True


@pytest.fixture
def door() -> Door:
    return Door()


def test_a_connected_node_is_shut_out_within_a_second_and_the_others_stay(
    federation: Federation, wait: Wait, door: Door
) -> None:
    server = federation.server(authorize=door.refuses, recheck=door.has_news)
    stolen = federation.client(server, "stolen", answers=lambda request: None, stay=True)
    honest = federation.client(server, "honest")
    wait(lambda: len(server.node_ids()) == 2)
    federation.send(server, 1, b"x", node=node_id_of("stolen"))
    wait(lambda: stolen.requests)
    door.close("stolen", "it was revoked")
    started = time.monotonic()
    stolen.join(5)
    assert time.monotonic() - started < 2
    assert isinstance(stolen.error, ShutOut)
    assert stolen.error.exit_code == 77
    assert str(stolen.error).endswith("shut node 'stolen' out: it was revoked")
    assert server.node_ids() == [node_id_of("honest")]
    assert federation.listener.failures == {1: "node stolen was shut out: it was revoked"}
    federation.send(server, 2, b"y", node=node_id_of("honest"))
    wait(lambda: federation.listener.replies)
    assert not honest.is_over
    again = federation.client(server, "stolen")
    again.join()
    assert isinstance(again.error, ShutOut)


def test_the_reply_of_a_node_that_is_shut_out_is_not_taken(federation: Federation, wait: Wait, door: Door) -> None:
    server = federation.server(authorize=door.refuses, recheck=door.has_news)
    client = federation.client(server, "a", answers=lambda request: None)
    wait(server.node_ids)
    federation.send(server, 1, b"x")
    wait(lambda: client.requests)
    door.close("a", "enough")
    wait(lambda: federation.listener.failures)
    assert federation.listener.replies == []
    assert federation.listener.settlements == [1]


def test_a_node_that_does_not_listen_is_cut_off_all_the_same(
    federation: Federation, wait: Wait, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amgt_fed.link.members.FAREWELL_S", 0.2)
    server = federation.server(authorize=door.refuses, recheck=door.has_news)
    took: list[float] = []

    async def deaf() -> None:
        async def send() -> AsyncIterator[bytes]:
            hello = link_pb2.Hello(protocol=1, name="deaf", max_message_bytes=1 << 30)
            yield link_pb2.Up(hello=hello).SerializeToString()
            await asyncio.sleep(30)

        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            call = channel.stream_stream("/amgt_fed.link.v1.Link/Connect")(send())
            await call.read()  # the Welcome, and nothing after it: the server's writes come to a halt
            while not server.node_ids():
                await asyncio.sleep(0.01)
            federation.send(server, 1, bytes(50_000_000), node=node_id_of("deaf"))
            await asyncio.sleep(0.3)
            door.close("deaf", "enough")
            while server.node_ids():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.4)
            # The server waits for streams that are still open, for two seconds; here there is none.
            started = time.monotonic()
            await asyncio.to_thread(server.stop)
            took.append(time.monotonic() - started)

    asyncio.run(asyncio.wait_for(deaf(), 20))
    assert took[0] < 1.5
