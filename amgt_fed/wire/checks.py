"""What every message from a peer must pass; each check names what it found and what is possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from amgt_fed.errors import WireError
from amgt_fed.federated.gather import MAX_EXAMPLES, MAX_NUMBER
from amgt_fed.layout import Float32Vector, Layout
from amgt_fed.wire import limits

_M = TypeVar("_M", bound=Message)


def parse(kind: type[_M], data: bytes, layout: Layout) -> _M:
    """The message in `data`, of this version and no larger than the model allows."""
    limit = limits.max_message_bytes(layout)
    if len(data) > limit:
        raise WireError(f"a message of {len(data)} bytes; at most {limit} are accepted for this model")
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise WireError(f"{len(data)} bytes are not a {kind.__name__} message: {error}") from error
    version = getattr(message, "version", 0)
    if version != limits.WIRE_VERSION:
        raise WireError(
            f"the peer speaks wire version {version}, this side {limits.WIRE_VERSION}; install one amgt-fed on both"
        )
    return message


def vector_of(name: str, data: bytes, layout: Layout) -> Float32Vector | None:
    """A finite float32 vector of the layout's size; None for no bytes."""
    if not data:
        return None
    if len(data) != 4 * layout.size:
        raise WireError(f"{name} of {len(data)} bytes; this task's has {4 * layout.size}")
    vector = np.frombuffer(data, "<f4").astype(np.float32)
    if not np.isfinite(vector).all():
        raise WireError(f"the {name} received holds values that are not finite")
    return vector


def round_of(value: int) -> int:
    """A round's number."""
    if not 1 <= value <= limits.MAX_ROUND:
        raise WireError(f"round {value} is outside 1 to {limits.MAX_ROUND}")
    return value


def examples_of(value: int) -> int:
    """A count of examples."""
    if not 1 <= value <= MAX_EXAMPLES:
        raise WireError(f"num_examples is {value}; 1 to {MAX_EXAMPLES} are possible")
    return value


def finite(name: str, value: float) -> float:
    """A number that sums over all clients can hold."""
    if not abs(value) <= MAX_NUMBER:  # NaN fails every comparison
        raise WireError(f"{name} is {value!r}; a number within +-{MAX_NUMBER:g} is needed")
    return value


def norm_of(name: str, value: float) -> float:
    """A norm: finite and at least 0."""
    if finite(name, value) < 0:
        raise WireError(f"{name} is {value!r}; a norm is at least 0")
    return value


def metrics_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics by name, sorted."""
    if len(metrics) > limits.MAX_METRICS:
        raise WireError(f"{len(metrics)} metrics; at most {limits.MAX_METRICS} are accepted")
    for name, value in metrics.items():
        if len(name) > limits.MAX_NAME:
            raise WireError(f"metric name of {len(name)} characters; at most {limits.MAX_NAME} are accepted")
        finite(f"metric {name!r}", value)
    return dict(sorted(metrics.items()))
