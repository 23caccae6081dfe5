"""What a node is told on joining, and what it is asked."""

from __future__ import annotations

from dataclasses import dataclass


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
