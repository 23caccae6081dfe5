"""Bytes <-> the protocol's messages; every size is checked before memory is taken for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from google.protobuf.message import DecodeError

from amgt_fed.link.errors import MessageTooLarge, ProtocolViolation
from amgt_fed.link.limits import MAX_NAME_CHARACTERS
from amgt_fed.link.v1 import link_pb2

METHOD = f"/{link_pb2.DESCRIPTOR.services_by_name['Link'].full_name}/Connect"

RunConfig = Mapping[str, bool | int | float | str]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)?")
_SINT64 = range(-(2**63), 2**63)


def parse_up(raw: bytes) -> link_pb2.Up:
    """Read what a node sent.

    Raises:
        ProtocolViolation: the bytes are no `Up`, or one without content.
    """
    try:
        up: link_pb2.Up = link_pb2.Up.FromString(raw)
    except DecodeError as error:
        raise ProtocolViolation(f"{len(raw)} bytes from a node are not a message of the link") from error
    if up.WhichOneof("kind") is None:
        raise ProtocolViolation("a node sent an empty message")
    return up


def parse_down(raw: bytes) -> link_pb2.Down:
    """Read what the server sent.

    Raises:
        ProtocolViolation: the bytes are no `Down`, or one without content.
    """
    try:
        down: link_pb2.Down = link_pb2.Down.FromString(raw)
    except DecodeError as error:
        raise ProtocolViolation(f"{len(raw)} bytes from the server are not a message of the link") from error
    if down.WhichOneof("kind") is None:
        raise ProtocolViolation("the server sent an empty message")
    return down


def check_name(name: str) -> None:
    """Refuse a node name that is empty, long, or could be mistaken for something else in a log or a path.

    Raises:
        ProtocolViolation: `name` is not letters, digits, dots, dashes and underscores, with at most one slash inside.
    """
    if len(name) > MAX_NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise ProtocolViolation(
            f"node name {name[:MAX_NAME_CHARACTERS]!r} is not valid; use up to {MAX_NAME_CHARACTERS} letters, digits, "
            "dots, dashes and underscores"
        )


def settings_of(run_config: RunConfig) -> list[link_pb2.Setting]:
    """Write a run configuration as protobuf.

    Raises:
        TypeError: a value is not bool, int, float or str.
        ValueError: an integer does not fit 64 bits.
    """
    settings = []
    for key, value in run_config.items():
        match value:
            case bool():
                settings.append(link_pb2.Setting(key=key, flag=value))
            case int():
                if value not in _SINT64:
                    raise ValueError(f"run configuration {key} = {value} does not fit 64 bits")
                settings.append(link_pb2.Setting(key=key, integer=value))
            case float():
                settings.append(link_pb2.Setting(key=key, number=value))
            case str():
                settings.append(link_pb2.Setting(key=key, text=value))
            case _:
                raise TypeError(f"run configuration {key} is a {type(value).__name__}; use bool, int, float or str")
    return settings


def config_of(settings: Sequence[link_pb2.Setting]) -> dict[str, bool | int | float | str]:
    """Read a run configuration from protobuf.

    Raises:
        ProtocolViolation: a setting has no value, or a key appears twice.
    """
    config: dict[str, bool | int | float | str] = {}
    for setting in settings:
        field = setting.WhichOneof("value")
        if field is None or setting.key in config:
            raise ProtocolViolation(f"the server's run configuration gives {setting.key!r} twice or without a value")
        config[setting.key] = getattr(setting, field)
    return config


def chunks(
    message_id: int, parts: Sequence[bytes], chunk_bytes: int, expires_in_s: float = 0.0
) -> Iterator[link_pb2.Chunk]:
    """Cut a message, given in parts that follow one another, into chunks; an empty one is a single empty chunk."""
    total = sum(map(len, parts))
    chunk = link_pb2.Chunk(message_id=message_id, total_bytes=total, expires_in_s=expires_in_s)
    room = chunk_bytes
    pieces: list[memoryview] = []
    for part in parts:
        view = memoryview(part)
        while len(view) > 0:
            pieces.append(view[:room])
            view = view[room:]
            room -= len(pieces[-1])
            if room == 0:
                chunk.data = b"".join(pieces)
                yield chunk
                chunk, room, pieces = link_pb2.Chunk(message_id=message_id), chunk_bytes, []
    if pieces or total == 0:
        chunk.data = b"".join(pieces)
        yield chunk


class Incoming:
    """A message being put together from its chunks; memory grows with what has arrived, not with what was announced.

    Raises:
        ProtocolViolation: `first` is not a first chunk.
        MessageTooLarge: it announces more than `limit` bytes.
    """

    def __init__(self, first: link_pb2.Chunk, limit: int, receiver: str) -> None:
        if not first.HasField("total_bytes"):
            raise ProtocolViolation(f"message {first.message_id:016x} begins without its first chunk")
        if first.total_bytes > limit:
            raise MessageTooLarge(first.total_bytes, limit, receiver)
        self.message_id: int = first.message_id
        self.total_bytes: int = first.total_bytes
        self.expires_in_s: float = first.expires_in_s
        self._received = 0
        self._pieces: list[bytes] = []

    def feed(self, chunk: link_pb2.Chunk) -> bool:
        """Take one chunk, the first included.

        Returns:
            Whether the message is complete.

        Raises:
            ProtocolViolation: the chunk is another message's, empty, or more than was announced.
        """
        if chunk.message_id != self.message_id:
            raise ProtocolViolation(f"chunk of message {chunk.message_id:016x} inside message {self.message_id:016x}")
        size = len(chunk.data)
        if self._received + size > self.total_bytes:
            raise ProtocolViolation(f"message {self.message_id:016x} goes on after its {self.total_bytes} bytes")
        # Empty chunks would keep a message alive for ever without bringing it nearer to its end.
        if size == 0 and self.total_bytes > 0:
            raise ProtocolViolation(f"message {self.message_id:016x} has an empty chunk")
        self._pieces.append(chunk.data)
        self._received += size
        return self._received == self.total_bytes

    def payload(self) -> bytes:
        """Join the pieces; the message must be complete."""
        assert self._received == self.total_bytes
        return b"".join(self._pieces)
