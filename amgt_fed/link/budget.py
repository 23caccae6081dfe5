"""Bytes that may be held at once; who wants more waits."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from amgt_fed.errors import LinkError


class ReceiveBudget:
    """Room for replies in transit or not yet pulled, granted in the order it was asked for.

    A reservation is for a whole message, before its first byte is kept, so that every message that has begun can be
    completed. Belongs to one event loop.

    Args:
        total: bytes; at least the largest message, or that one would wait for ever.
    """

    def __init__(self, total: int) -> None:
        self.free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, size: int) -> None:
        """Wait until `size` bytes are free, and take them."""
        if not self._waiting and size <= self.free:
            self.free -= size
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(size)
            raise

    def release(self, size: int) -> None:
        """Give `size` bytes back and let those who wait have them."""
        self.free += size
        while self._waiting:
            wanted, granted = self._waiting[0]
            if granted.cancelled():
                self._waiting.popleft()
                continue
            if wanted > self.free:
                return
            self._waiting.popleft()
            self.free -= wanted
            granted.set_result(None)


class SendBudget:
    """Room for messages that are not yet answered; threads wait for it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._changed = threading.Condition()

    def reserve(self, size: int, timeout: float) -> None:
        """Wait until `size` bytes fit; what is larger than everything goes when nothing else is there.

        Raises:
            LinkError: they did not within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._used == 0 or self._used + size <= self._total, timeout):
                raise LinkError(
                    f"{self._used} bytes of messages have had no answer for {timeout:g} s, so {size} more cannot be "
                    "sent; cancel messages that are no longer wanted, or raise send_budget_bytes"
                )
            self._used += size

    def release(self, size: int) -> None:
        """Give `size` bytes back."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()
