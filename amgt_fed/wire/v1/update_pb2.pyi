from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class RoundPlan(_message.Message):
    __slots__ = ("version", "round", "layout_digest", "base_digest", "first_step", "steps", "model", "accepted_round", "run", "error_budget", "control_epoch", "keep", "gain", "control", "probe")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_ROUND_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ERROR_BUDGET_FIELD_NUMBER: _ClassVar[int]
    CONTROL_EPOCH_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    version: int
    round: int
    layout_digest: bytes
    base_digest: bytes
    first_step: int
    steps: _containers.RepeatedScalarFieldContainer[bytes]
    model: bytes
    accepted_round: int
    run: int
    error_budget: float
    control_epoch: int
    keep: _containers.RepeatedScalarFieldContainer[float]
    gain: _containers.RepeatedScalarFieldContainer[float]
    control: bytes
    probe: bytes
    def __init__(self, version: _Optional[int] = ..., round: _Optional[int] = ..., layout_digest: _Optional[bytes] = ..., base_digest: _Optional[bytes] = ..., first_step: _Optional[int] = ..., steps: _Optional[_Iterable[bytes]] = ..., model: _Optional[bytes] = ..., accepted_round: _Optional[int] = ..., run: _Optional[int] = ..., error_budget: _Optional[float] = ..., control_epoch: _Optional[int] = ..., keep: _Optional[_Iterable[float]] = ..., gain: _Optional[_Iterable[float]] = ..., control: _Optional[bytes] = ..., probe: _Optional[bytes] = ...) -> None: ...

class ClientUpdate(_message.Message):
    __slots__ = ("version", "round", "payload", "num_examples", "error_l2", "update_l2", "deviation_l2", "loss", "metrics", "needs_model", "gradient_scale", "control_round", "fine")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    ERROR_L2_FIELD_NUMBER: _ClassVar[int]
    UPDATE_L2_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_L2_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_MODEL_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_SCALE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ROUND_FIELD_NUMBER: _ClassVar[int]
    FINE_FIELD_NUMBER: _ClassVar[int]
    version: int
    round: int
    payload: bytes
    num_examples: int
    error_l2: float
    update_l2: float
    deviation_l2: float
    loss: float
    metrics: _containers.ScalarMap[str, float]
    needs_model: str
    gradient_scale: float
    control_round: int
    fine: bytes
    def __init__(self, version: _Optional[int] = ..., round: _Optional[int] = ..., payload: _Optional[bytes] = ..., num_examples: _Optional[int] = ..., error_l2: _Optional[float] = ..., update_l2: _Optional[float] = ..., deviation_l2: _Optional[float] = ..., loss: _Optional[float] = ..., metrics: _Optional[_Mapping[str, float]] = ..., needs_model: _Optional[str] = ..., gradient_scale: _Optional[float] = ..., control_round: _Optional[int] = ..., fine: _Optional[bytes] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("version", "run")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    version: int
    run: int
    def __init__(self, version: _Optional[int] = ..., run: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "client", "num_clients", "num_examples", "synced_round", "layout_digest")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    NUM_CLIENTS_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    SYNCED_ROUND_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    version: int
    client: int
    num_clients: int
    num_examples: int
    synced_round: int
    layout_digest: bytes
    def __init__(self, version: _Optional[int] = ..., client: _Optional[int] = ..., num_clients: _Optional[int] = ..., num_examples: _Optional[int] = ..., synced_round: _Optional[int] = ..., layout_digest: _Optional[bytes] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("version", "round", "num_examples", "loss", "metrics", "needs_model")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_MODEL_FIELD_NUMBER: _ClassVar[int]
    version: int
    round: int
    num_examples: int
    loss: float
    metrics: _containers.ScalarMap[str, float]
    needs_model: str
    def __init__(self, version: _Optional[int] = ..., round: _Optional[int] = ..., num_examples: _Optional[int] = ..., loss: _Optional[float] = ..., metrics: _Optional[_Mapping[str, float]] = ..., needs_model: _Optional[str] = ...) -> None: ...
