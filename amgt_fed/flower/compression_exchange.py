"""Messages out with the model compressed, replies in with ordinary arrays; what the clients are known to have."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from amgt_fed.errors import WireError
from amgt_fed.flower import compat
from amgt_fed.flower.compression_arrays import apply
from amgt_fed.flower.compression_broadcast import Broadcast
from amgt_fed.flower.compression_messages import RECORD, RUN_BYTES, Answer, Order, answer_in, attach
from amgt_fed.flower.compression_traffic import Traffic, content_bytes

log = logging.getLogger("flwr.amgt_fed")


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message as the inner strategy made it, and what the client makes of it."""

    node: int
    message: Message
    content: RecordDict
    order: Order
    model: ArrayRecord

    def received(self, key: str) -> ArrayRecord | None:
        """The record `key` as the client has it."""
        return self.model if key == self.order.key else self.content.array_records.get(key)


class Exchange:
    """The messages of one run of a strategy.

    Args:
        broadcast: the model as the clients have it.
        weight: a reply's weight in the mean of what was measured.
    """

    def __init__(self, broadcast: Broadcast, weight: Callable[[RecordDict], float]) -> None:
        self._run = secrets.token_bytes(RUN_BYTES)
        self._broadcast = broadcast
        self._weight = weight
        self._held: dict[int, int] = {}  # node: version
        self._plain: set[int] = set()  # nodes that seem to have no mod: they are sent whole models
        self._accepted: dict[tuple[int, str], int] = {}  # node and message type: ticket
        self._tickets = 0
        self._sent: dict[int, _Sent] = {}
        self._grid: Grid | None = None
        self._timeout = 0.0
        self.traffic: list[Traffic] = []

    @property
    def is_waiting(self) -> bool:
        """Whether the last call of `send` had messages."""
        return bool(self._sent)

    def send(
        self, messages: Iterable[Message], arrays: ArrayRecord, round: int, grid: Grid, timeout: float
    ) -> list[Message]:
        """Compress the model in a strategy's messages, which are changed; the strategy's contents are not.

        Args:
            arrays: the model; the record of a message that equals it is replaced.
            grid, timeout: to send the model again to clients that ask for it.
        """
        if not self.traffic or self.traffic[-1].round != round:
            self.traffic.append(Traffic(round))
        self._grid, self._timeout = grid, timeout
        self._sent = {}
        out = list(messages)
        if not out:
            return out
        self._broadcast.follow(arrays, round)
        self.traffic[-1].model_error_l2 = self._broadcast.error_l2
        keys: dict[int, str] = {}  # strategies put one RecordDict into all messages of a round
        for message in out:
            if id(message.content) not in keys:
                keys[id(message.content)] = _key_of(arrays, message.content)
            if key := keys[id(message.content)]:
                node = message.metadata.dst_node_id
                held = None if node in self._plain else self._held.get(node, 0)
                self._pack(message, message.content, key, round, held)
            else:
                log.warning("a message holds no record that is the model; it is sent as it is")
                size = content_bytes(message.content)
                self.traffic[-1].add_downlink(size, size)
        return out

    def _pack(
        self, message: Message, content: RecordDict, key: str, round: int, held: int | None, *, again: bool = False
    ) -> None:
        """Put the model into a message: as steps from version `held`, or whole where that is None or smaller."""
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        self._tickets += 1
        broadcast = self._broadcast
        delivery = None if held is None else broadcast.delivery(held)
        patches = None if delivery is None else delivery.patches
        order = Order(
            run=self._run,
            ticket=self._tickets,
            accepted=self._accepted.get((node, kind), 0),
            round=round,
            key=key,
            version=broadcast.version,
            digest=broadcast.digest,
            first=0 if delivery is None else delivery.first,
            patches=patches,
        )
        packed = RecordDict(dict(content.items()))
        if patches is None:
            packed[key] = broadcast.model
            self.traffic[-1].models_sent += 1
        else:
            del packed[key]
        attach(packed, order)
        message.content = packed
        self._sent[order.ticket] = _Sent(node, message, content, order, broadcast.model)
        self.traffic[-1].add_downlink(content_bytes(packed), 0 if again else content_bytes(content))

    def receive(self, replies: Iterable[Message]) -> list[Message]:
        """Ordinary replies; clients that lack the model are sent it, and their second reply counts.

        Each decoded record is the strategy's own minus the client's update, whatever the clients had. A reply that
        cannot be read becomes an error reply.
        """
        ordinary, lacking = self._read(replies)
        if not lacking or self._grid is None:
            return ordinary
        again = []
        for sent in lacking:
            metadata = sent.message.metadata
            message = Message(
                RecordDict(), sent.node, metadata.message_type, ttl=metadata.ttl, group_id=metadata.group_id
            )
            self._pack(message, sent.content, sent.order.key, sent.order.round, None, again=True)
            again.append(message)
        second, still = self._read(self._grid.send_and_receive(again, timeout=self._timeout))
        reason = "it was sent the whole model and still cannot use it"
        return [*ordinary, *second, *(self._failed(sent, reason) for sent in still)]

    def _read(self, replies: Iterable[Message]) -> tuple[list[Message], list[_Sent]]:
        ordinary: list[Message] = []
        lacking: list[_Sent] = []
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                self.traffic[-1].failures += 1
                if node not in self._held and any(sent.node == node for sent in self._sent.values()):
                    self._plain.add(node)  # without the mod an app does not find its arrays
                    log.warning("node %d fails at its first message: has its ClientApp mods=[compression_mod]?", node)
                ordinary.append(reply)
                continue
            size = content_bytes(reply.content)
            try:
                answer = answer_in(reply.content)
            except WireError as error:
                ordinary.append(self._unreadable(reply, str(error)))
                continue
            if answer is None:
                if node not in self._plain:
                    log.warning("node %d replies uncompressed: its ClientApp has no compression_mod", node)
                    self._plain.add(node)
                self.traffic[-1].add_uplink(size, size)
                ordinary.append(reply)
                continue
            self._plain.discard(node)
            sent = self._sent.get(answer.ticket)
            if answer.run != self._run or sent is None or sent.node != node:
                ordinary.append(self._unreadable(reply, f"it answers message {answer.ticket} of another round"))
            elif answer.missing:
                self._held.pop(sent.node, None)
                self.traffic[-1].add_uplink(size, 0)
                log.info("node %d is sent the whole model: %s", sent.node, answer.missing)
                lacking.append(sent)
            else:
                ordinary.append(self._unpacked(reply, answer, sent, size))
        return ordinary, lacking

    def _unpacked(self, reply: Message, answer: Answer, sent: _Sent, size: int) -> Message:
        self._held[sent.node] = sent.order.version
        content = RecordDict()
        try:
            for section in answer.sections:
                base, onto = sent.received(section.base), sent.content.array_records.get(section.base)
                if base is None or onto is None:
                    raise WireError(f"its record {section.key!r} is a difference to {section.base!r}, which it has not")
                content[section.key] = apply(base, section.patch, onto=onto)
        except WireError as error:
            self.traffic[-1].add_uplink(size, size)
            return self._failed(sent, str(error))
        for key, record in reply.content.items():
            if key != RECORD and key not in content:
                content[key] = record
        reply.content = content
        self._accepted[sent.node, sent.message.metadata.message_type] = answer.ticket
        self.traffic[-1].add_uplink(size, content_bytes(content))
        if answer.sections:
            self.traffic[-1].add_norms(self._weight(content), answer)
        return reply

    def _unreadable(self, reply: Message, reason: str) -> Message:
        node = reply.metadata.src_node_id
        for sent in self._sent.values():
            if sent.node == node:
                return self._failed(sent, reason)
        self.traffic[-1].failures += 1
        return Message(Error(compat.CLIENT_APP_RAISED, reason), reply_to=reply)

    def _failed(self, sent: _Sent, reason: str) -> Message:
        log.warning("node %d gives nothing usable: %s", sent.node, reason)
        self.traffic[-1].failures += 1
        self._held.pop(sent.node, None)
        return Message(Error(compat.CLIENT_APP_RAISED, f"reply cannot be used: {reason}"), reply_to=sent.message)


def _key_of(arrays: ArrayRecord, content: RecordDict) -> str:
    """The key under which a message holds the model; empty where it does not."""
    for key, record in content.array_records.items():
        if record is arrays or (
            record.keys() == arrays.keys() and all(record[name] == arrays[name] for name in arrays)
        ):
            return key
    return ""
