"""What one round cost, and who gave nothing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from .exchange import Exchange

log = logging.getLogger("amgt_fed.server")


class SocketBytes:
    """What the grid's TCP connections have carried, round by round; nothing on a grid that has none of its own."""

    def __init__(self, grid: Grid) -> None:
        self._totals: Callable[[], tuple[int, int] | None] = getattr(grid, "socket_bytes", lambda: None)
        self._before = (0, 0)

    def take(self) -> dict[str, int]:
        """Bytes since the last call: HTTP/2 and TLS included, so more than the payload."""
        now = self._totals()
        if now is None:
            return {}
        sent, received = (new - old for new, old in zip(now, self._before, strict=True))
        self._before = now
        return {"socket_uplink_bytes": received, "socket_downlink_bytes": sent}


@dataclass(slots=True)
class Traffic:
    """Payload bytes of the messages of one round, and what became of the clients that were asked.

    Attributes:
        sent, received: those of a single client, but for introductions.
        failures: clients that gave nothing usable, with the reason.
        late: updates of earlier rounds that this one used.
        surplus: clients whose answer the round did not wait for, because enough others had answered.
    """

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    sent: Counter[int] = field(default_factory=Counter)
    received: Counter[int] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)
    late: int = 0
    surplus: int = 0

    def add(self, exchange: Exchange) -> None:
        """Count what an exchange has sent and received since it was last counted."""
        sent, received = exchange.take_counts()
        self.sent.update(sent)
        self.received.update(received)
        self.uplink_bytes += received.total()
        self.downlink_bytes += sent.total()

    def fail(self, client: int, reason: str) -> None:
        """Count a client's failure, and say it."""
        log.warning("client %d gives nothing in this round: %s", client, reason)
        self.failures[client] = reason
