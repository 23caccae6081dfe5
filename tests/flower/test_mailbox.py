from __future__ import annotations

import threading
import time

import pytest
from flwr.app import Message, MetricRecord, RecordDict

from amgt_fed.flower import compat
from amgt_fed.flower.mailbox import Mailbox, MailboxGrid, wait_messages


def request(message_id: str, ttl: float = 60.0) -> Message:
    compat.set_task_identity(run_id=7)
    message = Message(RecordDict(), 1000, "train", ttl=ttl)
    compat.stamp(message, message_id, 7, compat.SERVER_NODE_ID)
    return message


def reply(message: Message, value: int) -> Message:
    return Message(RecordDict({"m": MetricRecord({"v": value})}), reply_to=message)


def test_each_reply_is_pulled_once_and_in_the_order_asked_for() -> None:
    box = Mailbox()
    for name in "abc":
        box.expect(request(name))
    for name, value in (("c", 3), ("a", 1)):
        assert box.deliver(name, reply(request(name), value))
    pulled = box.pull(["a", "b", "c", "never sent"])
    assert [message.content["m"]["v"] for message in pulled] == [1, 3]
    assert [message.metadata.reply_to_message_id for message in pulled] == ["a", "c"]
    assert box.pull(["a", "b", "c"]) == []


def test_second_unknown_and_cancelled_replies_are_dropped_and_counted() -> None:
    box = Mailbox()
    box.expect(request("a"))
    box.expect(request("b"))
    assert box.deliver("a", reply(request("a"), 1))
    assert not box.deliver("a", reply(request("a"), 2))
    box.cancel(["b"])
    assert not box.deliver("b", reply(request("b"), 1))
    assert not box.deliver("nobody asked", reply(request("x"), 1))
    assert box.dropped == {"duplicate": 1, "unexpected": 2}
    assert [message.content["m"]["v"] for message in box.pull(["a", "b"])] == [1]


def test_a_request_whose_time_ran_out_gets_an_error_and_its_late_reply_is_dropped() -> None:
    box = Mailbox()
    box.expect(request("a", ttl=0.05))
    started = time.monotonic()
    assert box.wait(["a"], timeout=10)
    assert 0.04 < time.monotonic() - started < 5
    assert not box.deliver("a", reply(request("a"), 1))
    (error,) = box.pull(["a"])
    assert error.error.code == compat.NO_REPLY_IN_TIME
    assert "0.05 s" in (error.error.reason or "")


def test_waiting_ends_at_the_timeout_at_an_arrival_or_when_nothing_is_to_come() -> None:
    box = Mailbox()
    box.expect(request("a"))
    assert not box.wait(["a"], timeout=0.02)
    timer = threading.Timer(0.05, box.deliver, ["a", reply(request("a"), 1)])
    timer.start()
    assert box.wait(["a"], timeout=10)
    timer.join()
    assert len(box.pull(["a"])) == 1
    assert box.wait(["a"], timeout=10)  # pulled already: nothing will come


def test_a_very_long_time_to_live_can_be_waited_for() -> None:
    box = Mailbox()
    box.expect(request("a", ttl=1e300))
    timer = threading.Timer(0.05, box.fail, ["a", compat.NODE_UNAVAILABLE, "gone"])
    timer.start()
    assert box.wait(["a"], timeout=None)
    timer.join()


class Echo(MailboxGrid):
    """Answers node 1 at once and never any other."""

    def get_node_ids(self) -> list[int]:
        return [1000, 1001]

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            if message.metadata.dst_node_id == 1000:
                self.mailbox.deliver(message.metadata.message_id, reply(message, 1))


def test_send_and_receive_returns_what_came_in_time_and_forgets_the_rest() -> None:
    grid = Echo(7, {"a": 1})
    messages = [grid.create_message(RecordDict(), "train", node, "1") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages, timeout=0.05)
    assert [message.metadata.src_node_id for message in replies] == [1000]
    late = messages[1]
    assert late.metadata.message_id
    assert not grid.mailbox.deliver(late.metadata.message_id, reply(late, 2))
    assert grid.run.override_config == {"a": 1}
    assert grid.send_and_receive([]) == []


def test_waiting_on_a_foreign_grid_sleeps_for_a_polling_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    wait_messages(object(), ["a"], timeout=5)  # type: ignore[arg-type]
    wait_messages(object(), ["a"], timeout=0.001)  # type: ignore[arg-type]
    assert slept == [0.02, 0.001]
