"""A node tells which client it is; where it is another device's number, it does not take part."""

from __future__ import annotations

from flwr.app import Message

from amgt_fed.config import from_flat
from amgt_fed.flower import compat
from amgt_fed.flower.mailbox import MailboxGrid
from amgt_fed.flower.records import pack
from amgt_fed.layout import Layout
from amgt_fed.wire import Hello, encode_hello
from server.roster import Roster

LAYOUT = Layout.from_shapes({"weight": (3, 4)})


class Grid(MailboxGrid):
    """Nodes 100 and 101; both say that they are client 0, and node 101 was enrolled as client 1."""

    def __init__(self) -> None:
        super().__init__(1, {})

    def get_node_ids(self) -> list[int]:
        return [100, 101]

    def refuses_client(self, node_id: int, client: int) -> str | None:
        return "device b says it is client 0, and it was enrolled as 1" if (node_id, client) == (101, 0) else None

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            answer = encode_hello(Hello(0, 2, 5, 1, LAYOUT.digest))
            self.mailbox.deliver(message.metadata.message_id, Message(pack(answer), reply_to=message))


def test_a_device_cannot_take_the_place_of_another() -> None:
    compat.set_task_identity(1)
    config = from_flat({"partition.num_clients": 2, "federation.clients_per_round": 1})
    roster = Roster(Grid(), config, LAYOUT, run=1)
    hellos = roster.refresh(5.0)
    assert roster.nodes == {0: 100}
    assert list(hellos) == [0]
    assert roster.failed == {101: "device b says it is client 0, and it was enrolled as 1"}
