"""Bytes on the sockets are those that were sent, of open and of ended connections."""

from __future__ import annotations

import socket
import time

import pytest

from amgt_fed.link import SocketCounter


def eventually(counter: SocketCounter, wanted: tuple[int, int]) -> None:
    """The peer's acknowledgement, which counts, takes a moment."""
    deadline = time.monotonic() + 10
    while (found := counter.totals()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def test_every_connection_counts_and_goes_on_counting_after_its_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as other:
        counter = SocketCounter(listening.getsockname()[1])
        if counter.totals() is None:
            pytest.skip("this system does not tell what its sockets carry")
        assert counter.totals() == (0, 0)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(2)]
        served = [listening.accept()[0] for _ in range(2)]
        elsewhere = socket.create_connection(other.getsockname())
        elsewhere.sendall(b"x" * 5000)
        clients[0].sendall(b"x" * 1000)
        by_port = {one.getpeername()[1]: one for one in served}
        by_port[clients[1].getsockname()[1]].sendall(b"x" * 300)
        eventually(counter, (300, 1000))
        by_port[clients[0].getsockname()[1]].close()
        clients[0].close()
        clients[1].sendall(b"x" * 7)
        eventually(counter, (300, 1007))
        for one in (*clients, *served, elsewhere):
            one.close()
