"""Replies that arrive in other threads, kept until the ServerApp pulls them; and the Grid built on them."""

from __future__ import annotations

import heapq
import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from amgt_fed.flower import compat

POLL_S = 0.02
"""How often `wait_messages` asks a Grid that cannot tell when a reply arrives."""


class Mailbox:
    """Match replies with the requests they answer; safe to use from any thread.

    Every expected request gets exactly one reply: the first that is delivered, or an error when it failed or its time
    to live ran out. Anything else is dropped and counted in `dropped`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Metadata alone: a request's arrays must not live until its reply comes.
        self._requests: dict[str, Message] = {}
        self._expiries: list[tuple[float, str]] = []  # heap of time.monotonic() and message id
        self._replies: dict[str, Message] = {}
        self.dropped: Counter[str] = Counter()

    def expect(self, request: Message) -> None:
        """Accept one reply to `request`, which carries its message id, for its time to live."""
        with self._changed:
            message_id = request.metadata.message_id
            self._requests[message_id] = compat.header_of(request)
            heapq.heappush(self._expiries, (time.monotonic() + request.metadata.ttl, message_id))

    def deliver(self, message_id: str, reply: Message) -> bool:
        """Keep `reply` as the answer to request `message_id`, stamped as such.

        Returns:
            Whether it was taken; a second reply, or one that nobody waits for (any more), is dropped and counted.
        """
        with self._changed:
            if (request := self._requests.pop(message_id, None)) is None:
                self.dropped["duplicate" if message_id in self._replies else "unexpected"] += 1
                return False
            compat.stamp_reply(reply, request)
            self._replies[message_id] = reply
            self._changed.notify_all()
            return True

    def fail(self, message_id: str, code: int, reason: str) -> bool:
        """Answer request `message_id` with an error instead; False if it has its answer or was cancelled."""
        with self._changed:
            if (request := self._requests.pop(message_id, None)) is None:
                return False
            self._replies[message_id] = compat.error_reply(request, code, reason)
            self._changed.notify_all()
            return True

    def is_expected(self, message_id: str) -> bool:
        """Whether request `message_id` still waits for its reply."""
        with self._changed:
            return message_id in self._requests

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Give these requests up: replies already here are dropped, later ones will be."""
        with self._changed:
            for message_id in message_ids:
                self._requests.pop(message_id, None)
                self._replies.pop(message_id, None)

    def pull(self, message_ids: Iterable[str]) -> list[Message]:
        """Take the replies that are here, in the order of `message_ids`; each is given out once."""
        with self._changed:
            self._expire()
            if not self._replies:
                return []
            return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def wait(self, message_ids: Iterable[str], timeout: float | None) -> bool:
        """Block until at least one of these replies can be pulled, or none will come any more.

        Returns:
            False when `timeout` seconds went by first.
        """
        wanted = set(message_ids)
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                self._expire()
                if not self._replies.keys().isdisjoint(wanted) or self._requests.keys().isdisjoint(wanted):
                    return True
                wake = self._expiries[0][0]  # there is one: some request is still waited for
                if deadline is not None:
                    if time.monotonic() >= deadline:
                        return False
                    wake = min(wake, deadline)
                # A time to live may be longer than a lock can wait.
                self._changed.wait(min(max(wake - time.monotonic(), 0.0), threading.TIMEOUT_MAX))

    def _expire(self) -> None:
        now = time.monotonic()
        while self._expiries and (self._expiries[0][0] <= now or self._expiries[0][1] not in self._requests):
            _, message_id = heapq.heappop(self._expiries)
            if (request := self._requests.get(message_id)) is not None:
                ttl = request.metadata.ttl
                self.fail(message_id, compat.NO_REPLY_IN_TIME, f"no reply within the message's {ttl:g} s to live")


class MailboxGrid(Grid):
    """A Flower Grid whose replies come from a `Mailbox`; a subclass says which nodes there are and how to send.

    Beyond Flower's interface it offers `wait_messages`, so that a round loop need not poll, and `cancel_messages`, so
    that a round that is over frees what it still waited for.
    """

    def __init__(self, run_id: int, run_config: compat.Config) -> None:
        self._run = compat.new_run(run_id, run_config)
        self.mailbox = Mailbox()
        compat.set_task_identity(run_id)

    def set_run(self, run: compat.Run) -> None:
        """Replace the run information; the id must stay, for messages under way carry it."""
        self._run = run

    @property
    def run(self) -> compat.Run:
        """The run's id and configuration."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message as `Message(...)` does."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def refuses_client(self, node_id: int, client: int) -> str | None:
        """Why a node may not be this client of the federation; None where it may, as everywhere without a fleet."""
        return None

    @abstractmethod
    def get_node_ids(self) -> list[int]:
        """The nodes that messages can be sent to, in ascending order."""

    @abstractmethod
    def _send(self, messages: list[Message]) -> None:
        """Send messages that carry their ids and are expected by the mailbox."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages without waiting; each gets a message id, written into its metadata and returned."""
        batch = list(messages)
        for message in batch:
            compat.stamp(message, compat.new_message_id(), self._run.run_id, compat.SERVER_NODE_ID)
            self.mailbox.expect(message)
        self._send(batch)
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Take the replies to these messages that have arrived; each is given out once, unknown ids are ignored."""
        return self.mailbox.pull(message_ids)

    def wait_messages(self, message_ids: Iterable[str], timeout: float | None = None) -> bool:
        """Block until one of these replies can be pulled, or none of them is to come; False after `timeout` seconds."""
        return self.mailbox.wait(message_ids, timeout)

    def cancel_messages(self, message_ids: Iterable[str]) -> None:
        """Give messages up: those not yet sent will not be, and their replies are dropped."""
        self.mailbox.cancel(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and collect the replies that arrive within `timeout` seconds (None: all), as they arrive."""
        deadline = None if timeout is None else time.monotonic() + timeout
        missing = dict.fromkeys(self.push_messages(messages))
        replies: list[Message] = []
        while missing:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            in_time = self.wait_messages(missing, left)
            arrived = self.pull_messages(missing)
            for reply in arrived:
                del missing[reply.metadata.reply_to_message_id]
            replies += arrived
            if not in_time or not arrived:
                break
        # Nobody was told these ids, so nobody can ask for the rest.
        self.cancel_messages(missing)
        return replies


def wait_messages(grid: Grid, message_ids: Iterable[str], timeout: float) -> None:
    """Sleep until a reply may be there: exactly where the Grid can tell, else for one short polling interval.

    Args:
        grid: any Flower Grid.
        message_ids: the replies waited for.
        timeout: seconds; the call takes no longer.
    """
    if isinstance(grid, MailboxGrid):
        grid.wait_messages(message_ids, timeout)
    else:
        time.sleep(min(POLL_S, max(timeout, 0.0)))
