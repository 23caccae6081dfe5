"""Between the round's messages and protobuf bytes; what comes from the network is checked here, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from amgt_fed.errors import WireError
from amgt_fed.federated.aggregate import MAX_EXAMPLES, MAX_NUMBER
from amgt_fed.federated.messages import ClientUpdate, NeedsModel, RoundPlan, StepRecord
from amgt_fed.layout import DIGEST_BYTES, Layout
from amgt_fed.wire import limits
from amgt_fed.wire.v1 import update_pb2 as pb


@dataclass(frozen=True, slots=True)
class Hello:
    """A client's introduction: who it is, and which round's model it holds (0: none)."""

    client: int
    num_clients: int
    num_examples: int
    synced_round: int
    layout_digest: bytes


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The global model's score on one client's data."""

    round: int
    num_examples: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


_M = TypeVar("_M", bound=Message)


def encode_plan(plan: RoundPlan, layout: Layout) -> bytes:
    """The bytes of a RoundPlan message."""
    return pb.RoundPlan(
        version=limits.WIRE_VERSION,
        round=plan.round,
        layout_digest=layout.digest,
        base_digest=plan.base_digest,
        first_step=plan.steps[0].round if plan.steps else 0,
        steps=[step.payload for step in plan.steps],
        model=b"" if plan.model is None else plan.model.astype("<f4", copy=False).tobytes(),
        accepted_round=plan.accepted_round,
        run=plan.run,
    ).SerializeToString(deterministic=True)


def decode_plan(data: bytes, layout: Layout) -> RoundPlan:
    """Read a RoundPlan message.

    Raises:
        WireError: malformed, of another version or model, or beyond the limits.
    """
    message = _parse(pb.RoundPlan, data, layout)
    round = _round(message.round)
    if message.layout_digest != layout.digest:
        raise WireError(
            f"the server's model has layout {message.layout_digest.hex()}, this client's {layout.digest.hex()}; "
            "both must run the same task and version"
        )
    model = None
    if message.model:
        if len(message.model) != 4 * layout.size:
            raise WireError(f"model of {len(message.model)} bytes; this task's has {4 * layout.size}")
        model = np.frombuffer(message.model, "<f4").astype(np.float32)
        if not np.isfinite(model).all():
            raise WireError("the model received holds values that are not finite")
    count = len(message.steps)
    if count > limits.MAX_STEPS or (count and (message.first_step < 1 or message.first_step + count != round)):
        raise WireError(f"{count} steps from round {message.first_step} do not lead to round {round}")
    if len(message.base_digest) != DIGEST_BYTES:
        raise WireError(f"the model's digest has {len(message.base_digest)} bytes; {DIGEST_BYTES} are needed")
    if message.accepted_round >= round:
        raise WireError(f"an update of round {message.accepted_round} cannot have been used before round {round}")
    steps = tuple(StepRecord(message.first_step + index, payload) for index, payload in enumerate(message.steps))
    return RoundPlan(message.run, round, message.base_digest, steps, model, message.accepted_round)


def encode_update(update: ClientUpdate) -> bytes:
    """The bytes of a ClientUpdate message."""
    return pb.ClientUpdate(
        version=limits.WIRE_VERSION,
        round=update.round,
        payload=update.payload,
        num_examples=update.num_examples,
        error_l2=update.error_l2,
        update_l2=update.update_l2,
        deviation_l2=update.deviation_l2,
        loss=update.loss,
        metrics=dict(update.metrics),
    ).SerializeToString(deterministic=True)


def encode_needs_model(answer: NeedsModel) -> bytes:
    """The bytes of a ClientUpdate message that asks for the model instead."""
    return pb.ClientUpdate(
        version=limits.WIRE_VERSION, round=answer.round, needs_model=answer.reason[: limits.MAX_REASON]
    ).SerializeToString(deterministic=True)


def decode_update(data: bytes, layout: Layout) -> ClientUpdate | NeedsModel:
    """Read a ClientUpdate message. Its payload is checked by the codec, when it is decoded.

    Raises:
        WireError: malformed, of another version, or with impossible numbers.
    """
    message = _parse(pb.ClientUpdate, data, layout)
    round = _round(message.round)
    if message.needs_model:
        return NeedsModel(round, message.needs_model[: limits.MAX_REASON])
    return ClientUpdate(
        round=round,
        payload=message.payload,
        num_examples=_examples(message.num_examples),
        error_l2=_norm("error_l2", message.error_l2),
        update_l2=_norm("update_l2", message.update_l2),
        deviation_l2=_norm("deviation_l2", message.deviation_l2),
        loss=_finite("loss", message.loss),
        metrics=_metrics(message.metrics),
    )


def encode_question(run: int) -> bytes:
    """The bytes of a Question message."""
    return pb.Question(version=limits.WIRE_VERSION, run=run).SerializeToString(deterministic=True)


def decode_question(data: bytes, layout: Layout) -> int:
    """Read a Question message: the run asked for.

    Raises:
        WireError: malformed, or of another version.
    """
    return int(_parse(pb.Question, data, layout).run)


def encode_hello(hello: Hello) -> bytes:
    """The bytes of a Hello message."""
    return pb.Hello(
        version=limits.WIRE_VERSION,
        client=hello.client,
        num_clients=hello.num_clients,
        num_examples=hello.num_examples,
        synced_round=hello.synced_round,
        layout_digest=hello.layout_digest,
    ).SerializeToString(deterministic=True)


def decode_hello(data: bytes, layout: Layout) -> Hello:
    """Read a Hello message.

    Raises:
        WireError: malformed, of another version or model, or with impossible numbers.
    """
    message = _parse(pb.Hello, data, layout)
    if message.layout_digest != layout.digest:
        raise WireError(
            f"client {message.client} holds a model of layout {message.layout_digest.hex()}, the server's is "
            f"{layout.digest.hex()}; both must run the same task and version"
        )
    if message.client >= max(message.num_clients, 1):
        raise WireError(f"client number {message.client} of {message.num_clients}; numbers run from 0")
    if message.synced_round > limits.MAX_ROUND:
        raise WireError(f"client {message.client} claims round {message.synced_round}; at most {limits.MAX_ROUND}")
    return Hello(
        message.client,
        message.num_clients,
        _examples(message.num_examples),
        message.synced_round,
        message.layout_digest,
    )


def encode_evaluation(evaluation: Evaluation | NeedsModel) -> bytes:
    """The bytes of an Evaluation message."""
    if isinstance(evaluation, NeedsModel):
        message = pb.Evaluation(
            version=limits.WIRE_VERSION,
            round=evaluation.round,
            needs_model=evaluation.reason[: limits.MAX_REASON],
        )
    else:
        message = pb.Evaluation(
            version=limits.WIRE_VERSION,
            round=evaluation.round,
            num_examples=evaluation.num_examples,
            loss=evaluation.loss,
            metrics=dict(evaluation.metrics),
        )
    return message.SerializeToString(deterministic=True)


def decode_evaluation(data: bytes, layout: Layout) -> Evaluation | NeedsModel:
    """Read an Evaluation message.

    Raises:
        WireError: malformed, of another version, or with impossible numbers.
    """
    message = _parse(pb.Evaluation, data, layout)
    round = _round(message.round)
    if message.needs_model:
        return NeedsModel(round, message.needs_model[: limits.MAX_REASON])
    return Evaluation(round, _examples(message.num_examples), _finite("loss", message.loss), _metrics(message.metrics))


def _parse(kind: type[_M], data: bytes, layout: Layout) -> _M:
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


def _round(value: int) -> int:
    if not 1 <= value <= limits.MAX_ROUND:
        raise WireError(f"round {value} is outside 1 to {limits.MAX_ROUND}")
    return value


def _examples(value: int) -> int:
    if not 1 <= value <= MAX_EXAMPLES:
        raise WireError(f"num_examples is {value}; 1 to {MAX_EXAMPLES} are possible")
    return value


def _finite(name: str, value: float) -> float:
    if not abs(value) <= MAX_NUMBER:  # NaN fails every comparison
        raise WireError(f"{name} is {value!r}; a number within +-{MAX_NUMBER:g} is needed")
    return value


def _norm(name: str, value: float) -> float:
    if _finite(name, value) < 0:
        raise WireError(f"{name} is {value!r}; a norm is at least 0")
    return value


def _metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    if len(metrics) > limits.MAX_METRICS:
        raise WireError(f"{len(metrics)} metrics; at most {limits.MAX_METRICS} are accepted")
    for name, value in metrics.items():
        if len(name) > limits.MAX_NAME:
            raise WireError(f"metric name of {len(name)} characters; at most {limits.MAX_NAME} are accepted")
        _finite(f"metric {name!r}", value)
    return dict(sorted(metrics.items()))
