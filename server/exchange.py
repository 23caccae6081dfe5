"""Messages out, replies in as they arrive, until all are in or the deadline has passed; over any Flower Grid."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from amgt_fed.errors import WireError
from amgt_fed.flower.mailbox import MailboxGrid, wait_messages
from amgt_fed.flower.records import pack, unpack

log = logging.getLogger("amgt_fed.server")

_TTL_MARGIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What one client answered: bytes, or why there are none."""

    client: int
    data: bytes
    error: str = ""


class Exchange:
    """One question to many clients. More may be sent while replies are being read.

    Args:
        grid: any Flower Grid.
        message_type: e.g. "train".
        group: the round, for those who watch the traffic.
        deadline_s: seconds from now after which missing replies are no longer waited for; may be infinite.
        ttl_s: seconds a message may take to be answered at all; None: until the deadline, and a little.
    """

    def __init__(
        self, grid: Grid, message_type: str, *, group: str, deadline_s: float, ttl_s: float | None = None
    ) -> None:
        self._grid = grid
        self._type = message_type
        self._group = group
        self._deadline = time.monotonic() + deadline_s
        self._ttl_s = ttl_s
        self._arrived: deque[Message] = deque()  # pulled and not yet read: a reader may stop in between
        self._waiting: dict[str, int] = {}
        self._unsent: list[int] = []
        self._sent: Counter[int] = Counter()
        self._received: Counter[int] = Counter()

    @property
    def missing(self) -> list[int]:
        """Clients that have not answered yet."""
        return sorted(self._waiting.values())

    def send(self, contents: Mapping[int, bytes], nodes: Mapping[int, int], *, group: str | None = None) -> None:
        """Send each client its bytes; `nodes` says which node a client is, `group` stands for the exchange's own."""
        left = max(self._deadline - time.monotonic(), 0.0) if self._ttl_s is None else self._ttl_s
        messages = [
            Message(pack(data), nodes[client], self._type, ttl=left + _TTL_MARGIN_S, group_id=group or self._group)
            for client, data in contents.items()
        ]
        ids = list(self._grid.push_messages(messages))
        for client, message_id in zip(contents, ids, strict=False):
            if message_id:
                self._waiting[message_id] = client
            else:
                self._unsent.append(client)
        self._sent.update({client: len(data) for client, data in contents.items()})

    @property
    def is_over(self) -> bool:
        """Nothing is missing, or the deadline has passed."""
        return not (self._waiting or self._unsent) or time.monotonic() >= self._deadline

    def replies(self, patience_s: float = math.inf) -> Iterator[Reply]:
        """Yield replies as they arrive; ends when none is missing, or after the deadline or `patience_s` seconds.

        It may be called again for those that were still missing.
        """
        until = min(self._deadline, time.monotonic() + patience_s)
        while self._waiting or self._unsent:
            while self._unsent:
                yield Reply(self._unsent.pop(0), b"", "the message could not be sent; is the node still connected?")
            self._arrived.extend(self._grid.pull_messages(list(self._waiting)))
            found_none = not self._arrived
            while self._arrived:
                message = self._arrived.popleft()
                # An error reply may name the SuperLink as its source, so only this tells whose it is.
                client = self._waiting.pop(message.metadata.reply_to_message_id, None)
                if client is not None:
                    yield self._read(client, message)
            left = until - time.monotonic()
            if left <= 0:
                return
            if found_none and self._waiting:
                wait_messages(self._grid, list(self._waiting), left)

    def close(self) -> None:
        """Give up what is still missing; a late reply is dropped."""
        self.give_up(self._waiting.values())

    def give_up(self, clients: Collection[int]) -> None:
        """Wait for these clients no longer; a late reply is dropped."""
        dropped = [message_id for message_id, client in self._waiting.items() if client in set(clients)]
        if isinstance(self._grid, MailboxGrid):
            self._grid.cancel_messages(dropped)
        for message_id in dropped:
            del self._waiting[message_id]

    def take_counts(self) -> tuple[Counter[int], Counter[int]]:
        """Payload bytes (sent, received) by client since the last call."""
        counts = self._sent, self._received
        self._sent, self._received = Counter(), Counter()
        return counts

    def _read(self, client: int, message: Message) -> Reply:
        if message.has_error():
            reason = (message.error.reason or "").strip() or f"error {message.error.code}"
            log.debug("client %d: %s", client, reason)
            return Reply(client, b"", reason.splitlines()[0])
        try:
            data = unpack(message.content)
        except WireError as error:
            return Reply(client, b"", str(error))
        self._received[client] += len(data)
        return Reply(client, data)


def first_reasons(reasons: Mapping[int, str], limit: int = 3) -> str:
    """The first few failures in one line."""
    shown = "; ".join(f"client {client}: {reason}" for client, reason in list(reasons.items())[:limit])
    more = len(reasons) - limit
    return f"{shown}; and {more} more" if more > 0 else shown


def node_ids(grid: Grid) -> Iterable[int]:
    """The grid's nodes, in ascending order."""
    return sorted(grid.get_node_ids())
