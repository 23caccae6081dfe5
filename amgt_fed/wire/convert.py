"""Between the round's messages and protobuf bytes; what comes from the network is checked here, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from amgt_fed.errors import WireError
from amgt_fed.federated.messages import ClientUpdate, NeedsModel, RoundPlan, StepRecord
from amgt_fed.layout import DIGEST_BYTES, Layout
from amgt_fed.wire import limits
from amgt_fed.wire.checks import examples_of, finite, metrics_of, norm_of, parse, round_of, vector_of
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
        error_budget=plan.error_budget,
        control_epoch=plan.control_epoch,
        **_control_of(plan.steps),
        control=b"" if plan.control is None else plan.control.astype("<f4", copy=False).tobytes(),
        probe=plan.probe,
    ).SerializeToString(deterministic=True)


def decode_plan(data: bytes, layout: Layout) -> RoundPlan:
    """Read a RoundPlan message.

    Raises:
        WireError: malformed, of another version or model, or beyond the limits.
    """
    message = parse(pb.RoundPlan, data, layout)
    round = round_of(message.round)
    if message.layout_digest != layout.digest:
        raise WireError(
            f"the server's model has layout {message.layout_digest.hex()}, this client's {layout.digest.hex()}; "
            "both must run the same task and version"
        )
    model = vector_of("model", message.model, layout)
    control = vector_of("control variate", message.control, layout)
    count = len(message.steps)
    if count > limits.MAX_STEPS or (count and (message.first_step < 1 or message.first_step + count != round)):
        raise WireError(f"{count} steps from round {message.first_step} do not lead to round {round}")
    if len(message.base_digest) != DIGEST_BYTES:
        raise WireError(f"the model's digest has {len(message.base_digest)} bytes; {DIGEST_BYTES} are needed")
    if message.accepted_round >= round:
        raise WireError(f"an update of round {message.accepted_round} cannot have been used before round {round}")
    keep, gain = list(message.keep), list(message.gain)
    if len(keep) != len(gain) or len(keep) not in (0, count):
        raise WireError(f"{len(keep)} and {len(gain)} control coefficients for {count} steps")
    for value in (*keep, *gain):
        finite("a control coefficient", value)
    steps = tuple(
        StepRecord(message.first_step + index, payload, *((keep[index], gain[index]) if keep else ()))
        for index, payload in enumerate(message.steps)
    )
    return RoundPlan(
        message.run,
        round,
        message.base_digest,
        steps,
        model,
        message.accepted_round,
        norm_of("error_budget", message.error_budget),
        message.control_epoch,
        control,
        message.probe,
    )


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
        gradient_scale=update.gradient_scale,
        control_round=update.control_round,
        fine=update.fine,
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
    message = parse(pb.ClientUpdate, data, layout)
    round = round_of(message.round)
    if message.needs_model:
        return NeedsModel(round, message.needs_model[: limits.MAX_REASON])
    return ClientUpdate(
        round=round,
        payload=message.payload,
        num_examples=examples_of(message.num_examples),
        error_l2=norm_of("error_l2", message.error_l2),
        update_l2=norm_of("update_l2", message.update_l2),
        deviation_l2=norm_of("deviation_l2", message.deviation_l2),
        loss=finite("loss", message.loss),
        metrics=metrics_of(message.metrics),
        gradient_scale=norm_of("gradient_scale", message.gradient_scale),
        control_round=message.control_round,
        fine=message.fine,
    )


def encode_question(run: int) -> bytes:
    """The bytes of a Question message."""
    return pb.Question(version=limits.WIRE_VERSION, run=run).SerializeToString(deterministic=True)


def decode_question(data: bytes, layout: Layout) -> int:
    """Read a Question message: the run asked for.

    Raises:
        WireError: malformed, or of another version.
    """
    return int(parse(pb.Question, data, layout).run)


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
    message = parse(pb.Hello, data, layout)
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
        examples_of(message.num_examples),
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
    message = parse(pb.Evaluation, data, layout)
    round = round_of(message.round)
    if message.needs_model:
        return NeedsModel(round, message.needs_model[: limits.MAX_REASON])
    return Evaluation(
        round, examples_of(message.num_examples), finite("loss", message.loss), metrics_of(message.metrics)
    )


def _control_of(steps: tuple[StepRecord, ...]) -> dict[str, list[float]]:
    """The steps' control coefficients; nothing where no step touches the control variate, as in most runs."""
    if all((step.keep, step.gain) == (1.0, 0.0) for step in steps):
        return {}
    return {"keep": [step.keep for step in steps], "gain": [step.gain for step in steps]}
