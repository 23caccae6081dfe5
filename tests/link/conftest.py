from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait as wait_futures
from dataclasses import dataclass, field
from typing import Any

import pytest

from amgt_fed.link import Address, LinkClient, LinkLimits, LinkServer, Outgoing, Request, Tls

QUICK = LinkLimits(grace_s=0.5, hello_s=2.0, stall_s=1.0, backoff_s=0.02, max_backoff_s=0.1, unpulled_s=5.0)


def eventually(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class RecordingListener:
    """Keeps what the link reports."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, int, bytes]] = []
        self.failures: dict[int, str] = {}
        self.settlements: list[int] = []
        self.unreleased: list[Callable[[], None]] = []
        self.keeps = False  # hold on to the budget of replies

    def replied(self, node_id: int, message_id: int, payload: bytes, release: Callable[[], None]) -> bool:
        self.replies.append((node_id, message_id, payload))
        if self.keeps:
            self.unreleased.append(release)
        else:
            release()
        return True

    def failed(self, message_id: int, reason: str) -> None:
        self.failures[message_id] = reason

    def settled(self, message_id: int) -> None:
        self.settlements.append(message_id)

    def nodes_changed(self) -> None:
        pass


class Loop:
    """One event loop in a thread, for all clients of a test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Running:
    """A client that takes part until its run is over, an error, or `stop`, which is like the end of its process."""

    def __init__(self, loop: Loop, make: Callable[[Running], LinkClient]) -> None:
        self.requests: list[Request] = []
        self._loop = loop.loop

        async def create() -> LinkClient:
            return make(self)

        self.client = asyncio.run_coroutine_threadsafe(create(), self._loop).result(10)
        self._run = asyncio.run_coroutine_threadsafe(self.client.run(), self._loop)

    @property
    def is_over(self) -> bool:
        return self._run.done()

    @property
    def error(self) -> BaseException | None:
        return self._run.exception()

    def call_soon(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(function)

    def join(self, timeout: float = 10.0) -> None:
        wait_futures([self._run], timeout)
        assert self.is_over

    def stop(self) -> None:
        self._run.cancel()
        # Cancelling the outer future says nothing about when the streams are closed; a round trip does.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), self._loop).result(10)


@dataclass
class Federation:
    """Makes servers and clients and stops them all at the end of the test."""

    listener: RecordingListener = field(default_factory=RecordingListener)
    _servers: list[LinkServer] = field(default_factory=list)
    _clients: list[Running] = field(default_factory=list)
    _loop: Loop = field(default_factory=Loop)

    def server(
        self, limits: LinkLimits = QUICK, tls: Tls | None = None, address: Address | None = None, **options: Any
    ) -> LinkServer:
        options = {"run_id": 42, "run_config": {"lr": 0.5, "task": "toy"}, "listener": self.listener, **options}
        server = LinkServer(address or Address("127.0.0.1", 0), tls, limits=limits, **options)
        self._servers.append(server)
        server.start()
        return server

    def client(
        self,
        server: LinkServer | Address,
        name: str = "a",
        *,
        tls: Tls | None = None,
        limits: LinkLimits = QUICK,
        answers: Callable[[Request], list[bytes] | None] = lambda request: [b"re:", request.payload],
        stay: bool = False,
        certificates: Callable[[], Tls | None] | None = None,
    ) -> Running:
        """A client that answers at once what `answers` returns; None: not at all."""
        address = server if isinstance(server, Address) else server.address

        def make(running: Running) -> LinkClient:
            def take(request: Request) -> None:
                running.requests.append(request)
                if (parts := answers(request)) is not None:
                    client.reply(request, parts)

            client = LinkClient(address, tls, name, take, limits=limits, stay=stay, certificates=certificates)
            return client

        running = Running(self._loop, make)
        self._clients.append(running)
        return running

    def send(self, server: LinkServer, message_id: int, *parts: bytes, node: int = 0, ttl: float = 30.0) -> None:
        """Send to the only node, or to the given one."""
        (node_id,) = [node] if node else server.node_ids()
        size = sum(map(len, parts))
        server.send([(node_id, Outgoing(message_id, parts, size, time.monotonic() + ttl))])

    def close(self) -> None:
        for client in self._clients:
            client.stop()
        for server in self._servers:
            server.stop()
        self._loop.close()


@pytest.fixture
def federation() -> Iterator[Federation]:
    made = Federation()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def wait() -> Callable[..., None]:
    return eventually


@pytest.fixture
def quick() -> LinkLimits:
    return QUICK
