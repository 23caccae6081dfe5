"""The only module that imports Flower's private modules; `tests/flower/test_compat.py` is its canary.

Flower's public API has no way to stamp a message with its ids, to turn a message into bytes, or to set the identity
that `Message(...)` asks for. Everything we need of that kind is wrapped here, once, so that a Flower release that moves
something breaks one file and one test.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Mapping
from typing import TypeAlias

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, recorddict_to_proto
from flwr.common.serde_utils import error_to_proto, metadata_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.recorddict_pb2 import Array as ArrayProto
from flwr.proto.recorddict_pb2 import ArrayRecord as ArrayRecordProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from amgt_fed.errors import WireError

__all__ = [
    "CLIENT_APP_CRASHED",
    "CLIENT_APP_RAISED",
    "LOAD_CLIENT_APP_FAILED",
    "MESSAGE_UNAVAILABLE",
    "NODE_UNAVAILABLE",
    "NO_REPLY_IN_TIME",
    "SERVER_NODE_ID",
    "Config",
    "Run",
    "error_reply",
    "header_of",
    "isolated_copy",
    "message_from_bytes",
    "message_to_bytes",
    "message_to_parts",
    "new_context",
    "new_message_id",
    "new_run",
    "renew_clock",
    "set_task_identity",
    "stamp",
    "stamp_reply",
]

Config: TypeAlias = Mapping[str, bool | int | float | str]
"""A run's or a node's configuration as Flower allows it: flat, dotted keys."""

SERVER_NODE_ID: int = SUPERLINK_NODE_ID
"""The node id under which a ServerApp sends; no client node may have it."""

LOAD_CLIENT_APP_FAILED: int = ErrorCode.LOAD_CLIENT_APP_EXCEPTION
CLIENT_APP_RAISED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
CLIENT_APP_CRASHED: int = ErrorCode.CLIENT_APP_CRASHED
MESSAGE_UNAVAILABLE: int = ErrorCode.MESSAGE_UNAVAILABLE
NO_REPLY_IN_TIME: int = ErrorCode.REPLY_MESSAGE_UNAVAILABLE
NODE_UNAVAILABLE: int = ErrorCode.NODE_UNAVAILABLE


def set_task_identity(run_id: int, node_id: int = SERVER_NODE_ID, task_id: int = 1) -> None:
    """Tell Flower which run and node this process works for; `Message(content, dst_node_id, type)` needs it.

    The identity is global to the process: a process that hosts a ServerApp keeps the server's.
    """
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id
    TaskIdentity.task_id = task_id


def new_run(run_id: int, run_config: Config) -> Run:
    """Make the `Run` that `Grid.run` answers with; its `override_config` is a copy of `run_config`."""
    run = Run.create_empty(run_id)
    run.override_config = dict(run_config)
    return run


def new_context(
    run_id: int,
    node_id: int,
    node_config: Config,
    run_config: Config,
) -> Context:
    """Make an app's `Context` with an empty state; both configurations are copied."""
    return Context(run_id, node_id, dict(node_config), RecordDict(), dict(run_config))


def new_message_id() -> str:
    """Draw a message id: 16 hexadecimal digits, unique across restarts for all practical purposes."""
    return secrets.token_hex(8)


def stamp(message: Message, message_id: str, run_id: int, src_node_id: int) -> None:
    """Write the ids a Grid assigns into a message that is about to be sent."""
    # Flower's Metadata offers no setters for these three; its own Grid writes the dictionary in the same way.
    message.metadata.__dict__.update(_message_id=message_id, _run_id=run_id, _src_node_id=src_node_id)


def stamp_reply(reply: Message, request: Message) -> None:
    """Make `reply` the answer to `request`, whatever ids the sender wrote into it, and give it a message id.

    The creation time becomes ours: a device's clock may be wrong by years.
    """
    asked = request.metadata
    reply.metadata.__dict__.update(
        _message_id=new_message_id(),
        _run_id=asked.run_id,
        _src_node_id=asked.dst_node_id,
        _dst_node_id=asked.src_node_id,
        _reply_to_message_id=asked.message_id,
        _group_id=asked.group_id,
        _created_at=asked.created_at,
    )


def renew_clock(message: Message, now: float, ttl: float) -> None:
    """Set creation time (Unix seconds) and time to live (seconds) to this machine's clock."""
    message.metadata.__dict__.update(_created_at=now, _ttl=ttl)


def header_of(message: Message) -> Message:
    """Copy a message's metadata without its content, enough to build a reply to it later."""
    return make_message(metadata=_copy_metadata(message.metadata), content=RecordDict())


def isolated_copy(message: Message) -> Message:
    """Copy a message so that its receiver cannot change the sender's; the arrays' bytes, immutable, are shared.

    Strategies put one RecordDict into the messages to all nodes, so without this a ClientApp that edits its input
    would edit every other client's.
    """
    metadata = _copy_metadata(message.metadata)
    if message.has_error():
        return make_message(metadata=metadata, error=message.error)
    content = RecordDict()
    for key, record in message.content.items():
        if isinstance(record, ArrayRecord):
            content[key] = ArrayRecord(dict(record))
        elif isinstance(record, MetricRecord):
            content[key] = MetricRecord(copy.deepcopy(dict(record)))
        else:
            content[key] = ConfigRecord(copy.deepcopy(dict(record)))
    return make_message(metadata=metadata, content=content)


def error_reply(request: Message, code: int, reason: str) -> Message:
    """Answer `request` with an error; `reason` starts with one clear line, a traceback may follow it."""
    reply = make_message(metadata=_copy_metadata(request.metadata), error=Error(code, reason))
    stamp_reply(reply, request)
    return reply


def message_to_bytes(message: Message) -> bytes:
    """Serialize a message, content or error, to Flower's protobuf encoding."""
    return b"".join(message_to_parts(message, {}))


def message_to_parts(message: Message, contents: dict[int, list[bytes]]) -> list[bytes]:
    """Serialize a message to pieces that follow one another; an array's data is a piece of its own, not copied.

    Flower's own conversion copies the data at each of the five levels it is nested in: 64 MiB take .4 s instead of
    nothing. The bytes are the same.

    Args:
        message: content or error.
        contents: pieces by `id` of a RecordDict, filled and used here: strategies send one RecordDict to all nodes,
            and its pieces are then made once. Valid while the messages of one batch are alive.
    """
    metadata = MessageProto(metadata=metadata_to_proto(message.metadata)).SerializeToString()
    if message.has_error():
        return [metadata, MessageProto(error=error_to_proto(message.error)).SerializeToString()]
    if (content := contents.get(id(message.content))) is None:
        content = _field(MessageProto.CONTENT_FIELD_NUMBER, _record_dict(message.content))
        contents[id(message.content)] = content
    return [metadata, *content]


def _record_dict(content: RecordDict) -> list[bytes]:
    pieces = []
    for key, record in content.items():
        if isinstance(record, ArrayRecord):
            item = [RecordDictProto.Item(key=key).SerializeToString()]
            item += _field(RecordDictProto.Item.ARRAY_RECORD_FIELD_NUMBER, _array_record(record))
            pieces += _field(RecordDictProto.ITEMS_FIELD_NUMBER, item)
        else:
            pieces.append(recorddict_to_proto(RecordDict({key: record})).SerializeToString())
    return pieces


def _array_record(record: ArrayRecord) -> list[bytes]:
    pieces = []
    for key, array in record.items():
        value = [ArrayProto(dtype=array.dtype, shape=array.shape, stype=array.stype).SerializeToString()]
        if array.data:
            value += _field(ArrayProto.DATA_FIELD_NUMBER, [bytes(array.data)])  # bytes of bytes are no copy
        item = [ArrayRecordProto.Item(key=key).SerializeToString()]
        item += _field(ArrayRecordProto.Item.VALUE_FIELD_NUMBER, value)
        pieces += _field(ArrayRecordProto.ITEMS_FIELD_NUMBER, item)
    return pieces


def _field(number: int, pieces: list[bytes]) -> list[bytes]:
    """A length-delimited protobuf field (wire type 2) around pieces."""
    return [_varint(number << 3 | 2) + _varint(sum(map(len, pieces))), *pieces]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message_from_bytes(data: bytes) -> Message:
    """Read a message from Flower's protobuf encoding.

    Raises:
        WireError: `data` is not such a message, or carries a value that Flower's types refuse.
    """
    try:
        proto = MessageProto.FromString(data)
        if not proto.HasField("content") and not proto.HasField("error"):
            raise WireError("message has neither content nor error")
        return message_from_proto(proto)
    except WireError:
        raise
    except Exception as error:  # hostile bytes reach several of Flower's constructors; each has errors of its own
        raise WireError(f"{len(data)} bytes are not a Flower message: {type(error).__name__}: {error}") from error


def _copy_metadata(metadata: Metadata) -> Metadata:
    duplicate = Metadata.__new__(Metadata)
    duplicate.__dict__.update(metadata.__dict__)
    return duplicate
