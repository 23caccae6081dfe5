"""A Flower Grid over the AMGT link: any ServerApp reaches long-lived client nodes through it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from flwr.app import Message

from amgt_fed.errors import WireError
from amgt_fed.flower import compat
from amgt_fed.flower.mailbox import MailboxGrid
from amgt_fed.flower.tally import Tally
from amgt_fed.link import Address, LinkLimits, LinkServer, Outgoing, Peer, SocketCounter, Tls, TrafficReport
from amgt_fed.link.budget import SendBudget

log = logging.getLogger("amgt_fed.link.grid")

INLINE_BYTES = 1 << 20
"""Replies above this size are decoded in a thread of their own, so that the link goes on meanwhile."""


@dataclass(slots=True)
class _Batch:
    """Messages that were pushed together and may share their content's bytes."""

    size: int
    unsettled: int


class Doorkeeper(Protocol):
    """Who may come in, and as whom; asked in the link's thread but for `refuses_client`, so it must not block."""

    def refuses(self, peer: Peer) -> str | None:
        """Why a peer that says Hello is refused, or None."""

    def has_news(self) -> bool:
        """Whether `refuses` may now answer otherwise about somebody who was let in."""

    def refuses_client(self, name: str, client: int) -> str | None:
        """Why the node of this name may not be this client of the federation, or None; from any thread."""


class LinkGrid(MailboxGrid):
    """Serve the link while the `with` block lasts, and be the Grid of its ServerApp.

    A node stays in `get_node_ids` while it is connected and for `limits.grace_s` after; then its unanswered messages
    get error replies (`has_error`, code 5). At the end of the block the nodes are told that the run is over, or, when
    the block ends with an exception, to come again.

    Args:
        address: where to listen; port 0 takes a free one.
        tls: see `amgt_fed.link.choose_security`.
        run_id: any positive integer; the same one after a restart, so that clients know the run again.
        run_config: sent to every node on joining, and the ClientApp's `Context.run_config` there.
        limits: sizes and times of the link.
        doorkeeper: who may come in and as which client; None lets everybody in whom `tls` does.

    Raises:
        AddressError: entering the block, when the address cannot be listened at.
    """

    def __init__(
        self,
        address: Address,
        tls: Tls | None,
        *,
        run_id: int,
        run_config: compat.Config,
        limits: LinkLimits | None = None,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        super().__init__(run_id, run_config)
        self._limits = limits or LinkLimits()
        self._server = LinkServer(
            address,
            tls,
            run_id=run_id,
            run_config=run_config,
            listener=_Listener(self),
            limits=self._limits,
            authorize=doorkeeper.refuses if doorkeeper is not None else None,
            recheck=doorkeeper.has_news if doorkeeper is not None else None,
        )
        self._doorkeeper = doorkeeper
        self.tally = Tally()
        self._lock = threading.Lock()
        self._releases: dict[str, Callable[[], None]] = {}  # of replies that nobody has pulled yet
        self._batches: dict[int, _Batch] = {}
        self._budget = SendBudget(self._limits.send_budget_bytes)
        self._nodes_changed = threading.Condition()
        self._sockets: SocketCounter | None = None  # the port is known when it has been opened
        self._decoder = ThreadPoolExecutor(1, "amgt-link-decoder")

    @property
    def address(self) -> Address:
        """Where the server listens."""
        return self._server.address

    def __enter__(self) -> LinkGrid:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(run_over=error is None)
        self._decoder.shutdown(wait=True, cancel_futures=True)

    def get_node_ids(self) -> list[int]:
        """Nodes that are connected, or were until less than the grace period ago, in ascending order."""
        return self._server.node_ids()

    def node_names(self) -> dict[int, str]:
        """The names of the nodes in `get_node_ids`."""
        return self._server.node_names()

    def refuses_client(self, node_id: int, client: int) -> str | None:
        """Why a node may not be this client of the federation: its certificate is another's."""
        name = self._server.node_names().get(node_id)
        if self._doorkeeper is None or name is None:
            return None
        return self._doorkeeper.refuses_client(name, client)

    def traffic(self) -> TrafficReport:
        """Bytes on the socket and payload bytes, both ways, for each node name and in total; see `link.Traffic`."""
        return self._server.traffic()

    def socket_bytes(self) -> tuple[int, int] | None:
        """Bytes sent and received on all TCP connections so far; None where the system does not tell."""
        if self._sockets is None:
            self._sockets = SocketCounter(self.address.port)
        return self._sockets.totals()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the link's thread.

        Raises:
            LinkError: the link's server has stopped.
        """
        self._server.call_soon(callback)

    def wait_nodes(self, count: int, timeout: float | None = None) -> bool:
        """Block until at least `count` nodes are there; False after `timeout` seconds."""
        with self._nodes_changed:
            return self._nodes_changed.wait_for(lambda: len(self._server.node_ids()) >= count, timeout)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Take the replies to these messages that have arrived; each is given out once, unknown ids are ignored."""
        replies = super().pull_messages(message_ids)
        for reply in replies:
            self.tally.answered(reply.metadata.reply_to_message_id, well=not reply.has_error())
            self.release(reply.metadata.reply_to_message_id)
        return replies

    def cancel_messages(self, message_ids: Iterable[str]) -> None:
        """Give messages up: unsent ones stay here, nodes that have not begun skip them, and replies are dropped."""
        given_up = list(message_ids)
        self.tally.given_up(given_up)
        super().cancel_messages(given_up)
        self._server.cancel(int(message_id, 16) for message_id in given_up)
        for message_id in given_up:
            self.release(message_id)

    def release(self, message_id: str) -> None:
        """Stop counting a reply against the receive budget; may be called again."""
        with self._lock:
            release = self._releases.pop(message_id, None)
        if release is not None:
            self._server.call_soon(release)

    def _send(self, messages: list[Message]) -> None:
        contents: dict[int, list[bytes]] = {}
        outgoing = []
        now = time.monotonic()
        for message in messages:
            parts = compat.message_to_parts(message, contents)
            message_id = int(message.metadata.message_id, 16)
            expires = now + message.metadata.ttl
            outgoing.append((message.metadata.dst_node_id, Outgoing(message_id, parts, sum(map(len, parts)), expires)))
        if not outgoing:
            return
        self.tally.sent(messages)
        size = sum(len(piece) for content in contents.values() for piece in content)
        batch = _Batch(size, len(outgoing))
        self._budget.reserve(batch.size, self._limits.send_wait_s)
        with self._lock:
            self._batches.update((message.message_id, batch) for _, message in outgoing)
        self._server.send(outgoing)


class _Listener:
    """What the link reports, turned into the mailbox's terms; runs in the link's thread."""

    def __init__(self, grid: LinkGrid) -> None:
        self._grid = grid

    def replied(self, node_id: int, message_id: int, payload: bytes, release: Callable[[], None]) -> bool:
        grid, name = self._grid, f"{message_id:016x}"
        if not grid.mailbox.is_expected(name):
            grid.mailbox.dropped["unexpected"] += 1
            release()
            return False
        with grid._lock:
            grid._releases[name] = release
        # A reply that nobody pulls must not keep others out for ever.
        grid._server.call_later(grid._limits.unpulled_s, lambda: grid.release(name))
        if len(payload) > INLINE_BYTES:
            grid._decoder.submit(self._decode, node_id, name, payload)
        else:
            self._decode(node_id, name, payload)
        return True

    def _decode(self, node_id: int, name: str, payload: bytes) -> None:
        try:
            self._grid.mailbox.deliver(name, compat.message_from_bytes(payload))
        except WireError as error:
            log.warning("node %d answered with something else than a message: %s", node_id, error)
            self._grid.mailbox.fail(name, compat.CLIENT_APP_CRASHED, f"malformed reply: {error}")

    def failed(self, message_id: int, reason: str) -> None:
        self._grid.mailbox.fail(f"{message_id:016x}", compat.NODE_UNAVAILABLE, reason)

    def settled(self, message_id: int) -> None:
        grid = self._grid
        with grid._lock:
            batch = grid._batches.pop(message_id)
            batch.unsettled -= 1
        if batch.unsettled == 0:
            grid._budget.release(batch.size)

    def nodes_changed(self) -> None:
        with self._grid._nodes_changed:
            self._grid._nodes_changed.notify_all()
