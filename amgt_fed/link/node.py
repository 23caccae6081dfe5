"""The server's side of one node: what it has been asked, what it still owes, and the stream it is reached by."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from amgt_fed.link.limits import WINDOW
from amgt_fed.link.traffic import Traffic
from amgt_fed.link.v1 import link_pb2

_FIRST_NODE_ID = 1 << 32  # far from the small numbers that Flower reserves
_NODE_IDS = 1 << 62  # fits every signed 64-bit field


def node_id_of(name: str) -> int:
    """Derive a node's id from its name: the same after every reconnect and every restart of the server."""
    digest = blake2b(name.encode(), digest_size=8, person=b"amgt-node").digest()
    return _FIRST_NODE_ID + int.from_bytes(digest, "big") % (_NODE_IDS - _FIRST_NODE_ID)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who said Hello."""

    name: str
    certificate: bytes | None  # PEM; None in plaintext
    address: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to a node, in serialized parts that may be shared with messages to other nodes."""

    message_id: int
    parts: Sequence[bytes]
    size: int
    expires: float  # time.monotonic()


@dataclass(eq=False, slots=True)
class Stream:
    """One open stream; a node has at most one, and a new one for every reconnect."""

    peer: Peer
    max_message_bytes: int
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    control: deque[link_pb2.Down] = field(default_factory=deque)
    sent: set[int] = field(default_factory=set)  # messages the node has whole, or is being sent
    is_closing: bool = False  # nothing more is sent but what is in `control`, and nothing taken
    cut: Callable[[], object] = lambda: None  # ends it at once, whether or not the node listens

    def push(self, down: link_pb2.Down) -> None:
        """Send a small message ahead of chunks."""
        self.control.append(down)
        self.wake.set()

    def close(self, reason: link_pb2.Goodbye.Reason, text: str = "") -> None:
        """Say Goodbye and end the stream."""
        self.is_closing = True
        self.push(link_pb2.Down(goodbye=link_pb2.Goodbye(reason=reason, text=text)))


@dataclass(eq=False, slots=True)
class Node:
    """A node of the federation, connected or gone for less than the grace period."""

    name: str
    node_id: int
    traffic: Traffic
    stream: Stream | None = None
    outbox: dict[int, Outgoing] = field(default_factory=dict)  # not yet answered, oldest first
    removal: asyncio.TimerHandle | None = None

    def next_to_send(self) -> Outgoing | None:
        """The oldest message its stream has not carried yet, unless the node has enough to do."""
        stream = self.stream
        if stream is None or len(stream.sent & self.outbox.keys()) >= WINDOW:
            return None
        for message_id, outgoing in self.outbox.items():
            if message_id not in stream.sent:
                return outgoing
        return None

    def settle(self, message_id: int) -> Outgoing | None:
        """Take a message off the list and tell the node to forget it; None if it was not on it."""
        outgoing = self.outbox.pop(message_id, None)
        if outgoing is not None and self.stream is not None:
            if message_id in self.stream.sent:
                self.stream.push(link_pb2.Down(settled=link_pb2.Settled(message_id=message_id)))
            self.stream.wake.set()  # the window has moved
        return outgoing

    def expired(self) -> list[int]:
        """Messages whose time to live is over."""
        now = time.monotonic()
        return [message_id for message_id, outgoing in self.outbox.items() if outgoing.expires <= now]
