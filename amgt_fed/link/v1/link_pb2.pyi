from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Up(_message.Message):
    __slots__ = ("hello", "chunk")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    chunk: Chunk
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class Down(_message.Message):
    __slots__ = ("welcome", "chunk", "settled", "goodbye")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    chunk: Chunk
    settled: Settled
    goodbye: Goodbye
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., settled: _Optional[_Union[Settled, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "name", "max_message_bytes", "session", "held")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    name: str
    max_message_bytes: int
    session: int
    held: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, protocol: _Optional[int] = ..., name: _Optional[str] = ..., max_message_bytes: _Optional[int] = ..., session: _Optional[int] = ..., held: _Optional[_Iterable[int]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "session", "run_id", "node_id", "max_message_bytes", "run_config", "settled", "chunk_bytes")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RUN_CONFIG_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    session: int
    run_id: int
    node_id: int
    max_message_bytes: int
    run_config: _containers.RepeatedCompositeFieldContainer[Setting]
    settled: _containers.RepeatedScalarFieldContainer[int]
    chunk_bytes: int
    def __init__(self, protocol: _Optional[int] = ..., session: _Optional[int] = ..., run_id: _Optional[int] = ..., node_id: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., run_config: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., settled: _Optional[_Iterable[int]] = ..., chunk_bytes: _Optional[int] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("key", "flag", "integer", "number", "text")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    key: str
    flag: bool
    integer: int
    number: float
    text: str
    def __init__(self, key: _Optional[str] = ..., flag: bool = ..., integer: _Optional[int] = ..., number: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("message_id", "total_bytes", "expires_in_s", "data")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_S_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    message_id: int
    total_bytes: int
    expires_in_s: float
    data: bytes
    def __init__(self, message_id: _Optional[int] = ..., total_bytes: _Optional[int] = ..., expires_in_s: _Optional[float] = ..., data: _Optional[bytes] = ...) -> None: ...

class Settled(_message.Message):
    __slots__ = ("message_id",)
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    message_id: int
    def __init__(self, message_id: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason", "text")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Goodbye.Reason]
        RUN_OVER: _ClassVar[Goodbye.Reason]
        RESTARTING: _ClassVar[Goodbye.Reason]
        TAKEN_OVER: _ClassVar[Goodbye.Reason]
        SHUT_OUT: _ClassVar[Goodbye.Reason]
    REASON_UNSPECIFIED: Goodbye.Reason
    RUN_OVER: Goodbye.Reason
    RESTARTING: Goodbye.Reason
    TAKEN_OVER: Goodbye.Reason
    SHUT_OUT: Goodbye.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    reason: Goodbye.Reason
    text: str
    def __init__(self, reason: _Optional[_Union[Goodbye.Reason, str]] = ..., text: _Optional[str] = ...) -> None: ...
