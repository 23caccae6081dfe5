"""What a node is told on joining, and what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amgt_fed.link.errors import ProtocolViolation
from amgt_fed.link.frames import config_of
from amgt_fed.link.limits import MAX_CHUNK_BYTES, PROTOCOL
from amgt_fed.link.v1 import link_pb2


@dataclass(frozen=True, slots=True)
class Joined:
    """What the server said on letting the node in."""

    session: int
    run_id: int
    node_id: int
    run_config: dict[str, bool | int | float | str]
    max_reply_bytes: int
    chunk_bytes: int


@dataclass(frozen=True, slots=True)
class Request:
    """A message to answer with `LinkClient.reply`."""

    joined: Joined
    message_id: int
    payload: bytes
    expires: float  # time.monotonic()


def welcomed(down: link_pb2.Down) -> tuple[Joined, Sequence[int]]:
    """Read a Welcome: what it says, and the held messages that need no reply any more.

    Raises:
        ProtocolViolation: it is something else, or says what the protocol does not allow.
    """
    if down.WhichOneof("kind") != "welcome":
        raise ProtocolViolation("the stream does not begin with a Welcome")
    welcome = down.welcome
    if welcome.protocol != PROTOCOL:
        raise ProtocolViolation(f"the server speaks protocol {welcome.protocol} and this client {PROTOCOL}")
    if not 1 <= welcome.chunk_bytes <= MAX_CHUNK_BYTES:
        raise ProtocolViolation(f"the server wants chunks of {welcome.chunk_bytes} bytes")
    joined = Joined(
        welcome.session,
        welcome.run_id,
        welcome.node_id,
        config_of(welcome.run_config),
        welcome.max_message_bytes,
        welcome.chunk_bytes,
    )
    return joined, welcome.settled
