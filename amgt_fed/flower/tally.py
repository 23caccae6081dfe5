"""What became of the messages to each node: rounds it took part in, and messages it failed to answer."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import Message

TRAIN = "train"


@dataclass(frozen=True, slots=True)
class NodeTally:
    """Counts of one node, by name, since its server started."""

    rounds: int = 0  # answered messages of the type "train"; a round asked twice and answered twice counts twice
    failures: int = 0  # messages that got an error instead of an answer, or none before they were given up


class Tally:
    """Counts answers and failures as they happen; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, tuple[int, bool]] = {}  # message id -> node id, whether it is for training
        self._nodes: dict[int, NodeTally] = {}

    def sent(self, messages: Iterable[Message]) -> None:
        """Take note of messages that are to be answered."""
        with self._lock:
            for message in messages:
                facts = message.metadata
                self._open[facts.message_id] = (facts.dst_node_id, facts.message_type.partition(".")[0] == TRAIN)

    def answered(self, message_id: str, *, well: bool) -> None:
        """Take note that a message's answer was pulled; `well`: it is no error."""
        with self._lock:
            self._close(message_id, well)

    def given_up(self, message_ids: Iterable[str]) -> None:
        """Take note of messages nobody waits for any more; those already answered stay so."""
        with self._lock:
            for message_id in message_ids:
                self._close(message_id, False)

    def of(self, node_id: int) -> NodeTally:
        """The counts of a node; zeros for one that was never asked."""
        with self._lock:
            return self._nodes.get(node_id, NodeTally())

    def _close(self, message_id: str, well: bool) -> None:
        if (facts := self._open.pop(message_id, None)) is None:
            return
        node_id, trains = facts
        before = self._nodes.get(node_id, NodeTally())
        self._nodes[node_id] = NodeTally(before.rounds + (well and trains), before.failures + (not well))
