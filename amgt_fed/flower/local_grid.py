"""A Flower Grid that calls the ClientApp in this process: no Ray, no sockets, no copies of arrays."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from types import TracebackType

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from amgt_fed.errors import ConfigError
from amgt_fed.flower import compat
from amgt_fed.flower.answer import answer
from amgt_fed.flower.cores import available_cores
from amgt_fed.flower.generators import GeneratorWatch
from amgt_fed.flower.mailbox import MailboxGrid

log = logging.getLogger("amgt_fed.local")

FIRST_NODE_ID = 1000
"""The node with partition-id 0; node i is FIRST_NODE_ID + i."""

PARALLEL_ATTRIBUTE = "amgt_parallel"
"""Set on a ClientApp object (True or False) to say whether calls may run in parallel threads, and skip the look."""

CLOSE_GRACE_S = 5.0

JUDGE_EVERY_S = 0.01
"""While calls overlap the generators are looked at no more often: it takes .1 ms, as long as a trivial call."""


class LocalGrid(MailboxGrid):
    """Client nodes 0 to n-1 in a pool of threads; results are the same bits as one call after the other.

    Torch's, numpy's and Python's global random generators belong to the whole process, so calls that draw from them
    must not overlap. Unless told, the grid finds out: of each message type the first call runs alone, and if it drew
    (seeding without drawing does not count), so does the next, until one does not. It says so in the log when calls
    run one at a time. Code that must draw can do so inside `generators.seeded_generators` and stay parallel.

    Each call computes with one torch thread: sums come out the same whatever the number of workers.

    Args:
        client_app: called in several threads at once, though never twice at once for one node.
        num_nodes: how many nodes; node i has the id `FIRST_NODE_ID + i` and the configuration
            {"partition-id": i, "num-partitions": num_nodes}.
        run_config: what every Context carries as its `run_config`.
        run_id: any positive integer.
        workers: parallel calls; 0: one per core this process may use.
        parallel: whether calls may overlap; None: `client_app.amgt_parallel` if there is one, else find out.

    Raises:
        ConfigError: `num_nodes` < 1 or `workers` < 0.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: compat.Config,
        *,
        run_id: int = 1,
        workers: int = 0,
        parallel: bool | None = None,
    ) -> None:
        if num_nodes < 1:
            raise ConfigError(f"number of nodes is {num_nodes}; give at least 1")
        if workers < 0:
            raise ConfigError(f"number of workers is {workers}; give 1 or more, or 0 for one per core")
        super().__init__(run_id, run_config)
        self._client_app = client_app
        self._num_nodes = num_nodes
        self._run_config = dict(run_config)
        self._workers = workers or available_cores()
        self._contexts: dict[int, Context] = {}
        self._turns = _Turns(getattr(client_app, PARALLEL_ATTRIBUTE, None) if parallel is None else parallel)
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> LocalGrid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get_node_ids(self) -> list[int]:
        """All nodes, in the order of their partition ids."""
        return list(range(FIRST_NODE_ID, FIRST_NODE_ID + self._num_nodes))

    def close(self) -> None:
        """Drop what has not begun and wait, for a few seconds at most, for calls that have; may be called twice.

        A call cannot be broken off: one that takes longer is left to end with the process.
        """
        self._turns.close()
        deadline = time.monotonic() + CLOSE_GRACE_S
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        if any(thread.is_alive() for thread in self._threads):
            log.warning("a ClientApp call is still running; it is abandoned and ends with this process")
        self._threads = []

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            node_id = message.metadata.dst_node_id
            if not FIRST_NODE_ID <= node_id < FIRST_NODE_ID + self._num_nodes:
                last = FIRST_NODE_ID + self._num_nodes - 1
                reason = f"there is no node {node_id}; the nodes are {FIRST_NODE_ID} to {last}"
                self.mailbox.fail(message.metadata.message_id, compat.NODE_UNAVAILABLE, reason)
                continue
            # Copied here and not when its turn comes: by then the ServerApp may have changed its own.
            self._turns.add(compat.isolated_copy(message))
        while len(self._threads) < min(self._workers, len(messages)):
            # Daemon threads: a call that does not end must not keep the interpreter from ending.
            thread = threading.Thread(target=self._work, name=f"client-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (message := self._turns.take()) is not None:
            message_id = message.metadata.message_id
            try:
                # A round that gave this message up, or let it expire, needs no training.
                if self.mailbox.is_expected(message_id):
                    _compute_with_one_thread()
                    reply = answer(self._client_app, message, self._context(message.metadata.dst_node_id))
                    self.mailbox.deliver(message_id, compat.isolated_copy(reply))
            except Exception as error:  # a reply that cannot be copied; whoever waits for it must not wait for ever
                log.exception("the reply of node %d is unusable", message.metadata.dst_node_id)
                reason = f"unusable reply: {type(error).__name__}: {error}"
                self.mailbox.fail(message_id, compat.CLIENT_APP_CRASHED, reason)
            finally:
                self._turns.done(message)

    def _context(self, node_id: int) -> Context:
        if (context := self._contexts.get(node_id)) is None:
            node_config = {"partition-id": node_id - FIRST_NODE_ID, "num-partitions": self._num_nodes}
            context = compat.new_context(self._run.run_id, node_id, node_config, self._run_config)
            self._contexts[node_id] = context
        return context


class _Turns:
    """Which message may be handled now: one per node at a time, one altogether while calls draw from the generators."""

    def __init__(self, parallel: bool | None) -> None:
        self._changed = threading.Condition()
        self._pending: deque[Message] = deque()
        self._busy: set[int] = set()  # nodes
        self._is_alone = False  # the running call must stay the only one
        self._is_closed = False
        self._parallel = parallel
        self._clean: dict[str, bool] = {}  # message type: whether its latest call that ran alone drew nothing
        self._shared = False  # calls that overlapped were seen to draw: no more of that
        self._watch: GeneratorWatch | None = None
        self._judged = 0.0  # time.monotonic()

    def add(self, message: Message) -> None:
        with self._changed:
            self._pending.append(message)
            self._changed.notify()

    def take(self) -> Message | None:
        """Block until a message may be handled; None when the grid closes."""
        with self._changed:
            while not self._is_closed:
                if (message := self._next()) is not None:
                    self._busy.add(message.metadata.dst_node_id)
                    if self._parallel is None and (self._is_alone or self._watch is None):
                        self._watch = GeneratorWatch()
                        self._judged = time.monotonic()
                    return message
                self._changed.wait()
            return None

    def done(self, message: Message) -> None:
        """Take note that the call for `message` has ended."""
        with self._changed:
            self._busy.discard(message.metadata.dst_node_id)
            is_idle = not self._busy and not self._pending
            now = time.monotonic()
            if self._watch is not None and (self._is_alone or is_idle or now - self._judged > JUDGE_EVERY_S):
                self._judge(message.metadata.message_type, self._watch.drawn_from())
                self._judged = now
            if is_idle or self._is_alone:
                self._watch = None  # between calls the ServerApp may draw
            self._is_alone = False
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._pending.clear()
            self._changed.notify_all()

    def _next(self) -> Message | None:
        if self._is_alone:
            return None
        skipped: set[int] = set()
        for index, message in enumerate(self._pending):
            node_id = message.metadata.dst_node_id
            overlaps = self._may_overlap(message.metadata.message_type)
            if not overlaps and self._busy:
                return None  # nor may a later one overtake it: one at a time also means in order
            if node_id not in self._busy and node_id not in skipped:
                self._is_alone = not overlaps
                del self._pending[index]
                return message
            skipped.add(node_id)
        return None

    def _may_overlap(self, message_type: str) -> bool:
        if self._parallel is not None:
            return self._parallel
        return not self._shared and self._clean.get(message_type, False)

    def _judge(self, message_type: str, drawn: list[str]) -> None:
        if not self._is_alone:
            if drawn:
                self._shared = True
                log.warning(
                    "ClientApp calls that ran in parallel drew from the global generator of %s, so this round may not "
                    "be repeatable; from here on one client runs at a time. Draw inside "
                    "amgt_fed.flower.generators.seeded_generators to keep clients parallel",
                    " and ".join(drawn),
                )
            return
        was_clean = self._clean.get(message_type)
        self._clean[message_type] = not drawn
        if drawn and was_clean is None:
            log.info(
                "%s calls draw from the global generator of %s: one client runs at a time, so that results are "
                "repeatable, until a call no longer does",
                message_type,
                " and ".join(drawn),
            )
        elif was_clean is False and not drawn:
            log.info("%s calls no longer draw from global generators: clients run in parallel again", message_type)


def _compute_with_one_thread() -> None:
    # Torch keeps the number of threads per calling thread and may be imported at any time, also by the app itself.
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads") and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
