"""The canary: what we use of Flower's private modules still exists and behaves as we rely on."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from hypothesis import given
from hypothesis import strategies as st

from amgt_fed.errors import WireError
from amgt_fed.flower import compat


@pytest.fixture
def request_message() -> Message:
    compat.set_task_identity(run_id=77)
    content = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.arange(6, dtype=np.float32))}),
            "metrics": MetricRecord({"loss": 0.5, "sizes": [1, 2]}),
            "config": ConfigRecord({"name": "a", "blob": b"\x00\xff", "flags": [True, False]}),
        }
    )
    message = Message(content, 12, "train", group_id="3", ttl=60.0)
    compat.stamp(message, "00ff00ff00ff00ff", 77, compat.SERVER_NODE_ID)
    return message


def test_a_message_survives_the_trip_through_bytes(request_message: Message) -> None:
    back = compat.message_from_bytes(compat.message_to_bytes(request_message))
    assert back.metadata == request_message.metadata
    assert back.content == request_message.content
    assert back.content["arrays"]["w"].numpy().tolist() == [0, 1, 2, 3, 4, 5]


def test_the_pieces_are_flowers_own_encoding_and_arrays_are_not_copied(request_message: Message) -> None:
    request_message.content["empty"] = ArrayRecord()
    request_message.content["none"] = ArrayRecord({"": Array("uint8", (0,), "x", b"")})
    request_message.content["long"] = ArrayRecord({"u": Array("uint8", (70_000,), "amgt.v1", bytes(70_000))})
    pieces = compat.message_to_parts(request_message, {})
    assert b"".join(pieces) == message_to_proto(request_message).SerializeToString()
    assert any(piece is request_message.content["long"]["u"].data for piece in pieces)
    error = compat.error_reply(request_message, 5, "gone")
    assert compat.message_to_bytes(error) == message_to_proto(error).SerializeToString()


def test_content_that_goes_to_many_nodes_is_serialized_once(request_message: Message) -> None:
    contents: dict[int, list[bytes]] = {}
    first = compat.message_to_parts(request_message, contents)
    second = compat.message_to_parts(Message(request_message.content, 13, "train"), contents)
    assert all(one is two for one, two in zip(first[1:], second[1:], strict=True))
    assert compat.message_from_bytes(b"".join(second)).metadata.dst_node_id == 13


def test_an_error_reply_survives_the_trip_and_answers_its_request(request_message: Message) -> None:
    reply = compat.error_reply(request_message, compat.NODE_UNAVAILABLE, "gone")
    back = compat.message_from_bytes(compat.message_to_bytes(reply))
    assert back.has_error()
    assert (back.error.code, back.error.reason) == (5, "gone")
    assert back.metadata.reply_to_message_id == request_message.metadata.message_id
    assert (back.metadata.src_node_id, back.metadata.dst_node_id) == (12, compat.SERVER_NODE_ID)


def test_stamping_a_reply_overrules_what_the_sender_claims(request_message: Message) -> None:
    reply = Message(RecordDict(), reply_to=request_message)
    reply.metadata.__dict__.update(_src_node_id=999, _run_id=1, _reply_to_message_id="another", _created_at=0.0)
    compat.stamp_reply(reply, request_message)
    assert reply.metadata.src_node_id == 12
    assert reply.metadata.run_id == 77
    assert reply.metadata.reply_to_message_id == "00ff00ff00ff00ff"
    assert reply.metadata.created_at == request_message.metadata.created_at


def test_a_receiver_cannot_change_the_senders_message_and_arrays_are_not_copied(request_message: Message) -> None:
    copy = compat.isolated_copy(request_message)
    assert copy.content == request_message.content
    assert copy.content["arrays"]["w"].data is request_message.content["arrays"]["w"].data
    copy.content["arrays"]["w"].data = b""
    copy.content["config"]["flags"].append(True)
    copy.content["metrics"]["sizes"].append(3)
    copy.content["new"] = MetricRecord()
    copy.metadata.group_id = "4"
    assert len(request_message.content["arrays"]["w"].data) > 0
    assert request_message.content["config"]["flags"] == [True, False]
    assert request_message.content["metrics"]["sizes"] == [1, 2]
    assert "new" not in request_message.content
    assert request_message.metadata.group_id == "3"


def test_the_run_carries_id_and_configuration() -> None:
    run = compat.new_run(5, {"a.b": 1})
    assert run.run_id == 5
    assert run.override_config == {"a.b": 1}


def test_the_error_codes_are_flowers() -> None:
    codes = [
        compat.LOAD_CLIENT_APP_FAILED,
        compat.CLIENT_APP_RAISED,
        compat.MESSAGE_UNAVAILABLE,
        compat.NO_REPLY_IN_TIME,
        compat.NODE_UNAVAILABLE,
        compat.CLIENT_APP_CRASHED,
    ]
    assert codes == [1, 2, 3, 4, 5, 8]
    assert compat.SERVER_NODE_ID == 1


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        compat.message_from_bytes(data)


def test_a_message_cut_anywhere_is_a_message_or_a_wire_error(request_message: Message) -> None:
    whole = compat.message_to_bytes(request_message)
    refused = 0
    for stop in range(len(whole)):
        try:
            compat.message_from_bytes(whole[:stop])
        except WireError:
            refused += 1
    assert refused > 0.9 * len(whole)


def test_no_other_module_imports_flowers_private_ones() -> None:
    root = Path(__file__).parents[2]
    public = {"flwr.app", "flwr.clientapp", "flwr.clientapp.mod", "flwr.serverapp", "flwr.serverapp.strategy"}
    culprits = []
    for path in [*root.glob("amgt_fed/**/*.py"), *root.glob("server/**/*.py"), *root.glob("clients/**/*.py")]:
        if path == root / "amgt_fed" / "flower" / "compat.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            culprits += [f"{path}: {name}" for name in modules if name.startswith("flwr.") and name not in public]
    assert culprits == []
