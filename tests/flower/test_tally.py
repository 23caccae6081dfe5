from __future__ import annotations

from flwr.app import Message, RecordDict

from amgt_fed.flower import compat
from amgt_fed.flower.tally import NodeTally, Tally


def message(kind: str, node: int, name: str) -> Message:
    made = Message(RecordDict(), node, kind)
    compat.stamp(made, name, 1, compat.SERVER_NODE_ID)
    return made


def test_every_message_ends_once_well_or_not() -> None:
    compat.set_task_identity(1)
    tally = Tally()
    tally.sent([message("train", 7, "1"), message("train.gradient", 7, "2"), message("evaluate", 7, "3")])
    tally.sent([message("train", 8, "4"), message("train", 7, "5")])
    tally.answered("1", well=True)
    tally.answered("1", well=True)
    tally.answered("3", well=True)
    tally.answered("4", well=False)
    tally.given_up(["1", "2", "99"])
    assert tally.of(7) == NodeTally(rounds=1, failures=1)
    assert tally.of(8) == NodeTally(rounds=0, failures=1)
    assert tally.of(9) == NodeTally()
    tally.answered("5", well=True)
    assert tally.of(7) == NodeTally(rounds=2, failures=1)
