"""What a `LinkServer` reports, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Listener(Protocol):
    """Who is told what happens; called in the link's thread, so it must not block."""

    def replied(self, node_id: int, message_id: int, payload: bytes, release: Callable[[], None]) -> bool:
        """Take a whole reply; False if nobody waited for it. `release` is called once it no longer takes memory."""

    def failed(self, message_id: int, reason: str) -> None:
        """Take note that no reply will come: the message could not be sent, or its node is gone."""

    def settled(self, message_id: int) -> None:
        """Take note that the link holds nothing of this message any more, whatever became of it."""

    def nodes_changed(self) -> None:
        """Take note that a node joined or left."""
