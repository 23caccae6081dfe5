"""The client's half: a Flower mod that unpacks the model before the app sees it and packs the update after."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Final, TypeAlias, cast, overload

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from amgt_fed.codec import Codec, decode, get_codec
from amgt_fed.errors import CodecError, ConfigError, WireError
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.flower.compression_arrays import Made, apply, make
from amgt_fed.flower.compression_messages import RECORD, Answer, Order, Section, attach, order_in
from amgt_fed.flower.compression_values import digest_of
from amgt_fed.layout import Float32Vector, Layout

__all__ = ["EXACT", "compression_mod"]

ClientAppCallable: TypeAlias = Callable[[Message, Context], Message]  # as Flower names what a mod calls next

# Flower's own handlers stand at "flwr", so what is logged here appears in `flwr run --stream` too.
log = logging.getLogger("flwr.amgt_fed")

EXACT: Final = ("*running_mean", "*running_var")
"""Arrays that stay bit for bit unless told: an error in a variance can make it negative."""

_MODEL: Final = "amgt-model"  # records in the client's Context.state
_HELD: Final = "amgt-held"
_RESIDUAL: Final = "amgt-residual"
_SENT: Final = "amgt-sent"


@overload
def compression_mod(message: Message, context: Context, call_next: ClientAppCallable, /) -> Message: ...


@overload
def compression_mod(
    *,
    budget: str = ...,
    codec: str | Codec = ...,
    error_feedback: bool = ...,
    exact: Sequence[str] = ...,
) -> Callable[[Message, Context, ClientAppCallable], Message]: ...


def compression_mod(
    message: Message | None = None,
    context: Context | None = None,
    call_next: ClientAppCallable | None = None,
    /,
    *,
    budget: str = "nmse=0.5",
    codec: str | Codec = "amgt",
    error_feedback: bool = True,
    exact: Sequence[str] = EXACT,
) -> Message | Callable[[Message, Context, ClientAppCallable], Message]:
    """Compress what a ClientApp exchanges with a `CompressedStrategy`; `mods=[compression_mod]` is all it takes.

    `mods=[compression_mod(budget="bytes=2000")]` chooses another budget. Put it first: mods after it see ordinary
    arrays. Train replies are encoded as differences to the model received, with what earlier replies left out added
    (error feedback); it is kept in `Context.state`, with the model, and lives as long as Flower keeps that. Replies of
    other types, records the server did not send, integers and arrays of `exact` stay bit for bit.

    Args:
        message, context, call_next: given by Flower where the mod is used without arguments of its own.
        budget: of an encoded record: nmse=R (squared error over squared norm), bytes=N, bits=B (per parameter), error=E
            (l2), error=C/k (k is the server round), or none (the codec's parameters decide).
        codec: a name (`amgt_fed.codec.codec_names`), or a codec, e.g. `get_codec("topk", fraction=0.01)`.
        error_feedback: whether to carry what a reply left out into the next one.
        exact: patterns of array names, as in file names.

    Returns:
        The reply, or the mod where no message is given.

    Raises:
        ConfigError: a budget that cannot be read.
        CodecError: there is no such codec.
        RoundError: training gave values that are not finite.

    Source: ALGORITHM section 4, the client.
    """
    mod = _CompressionMod(budget, codec, error_feedback, exact)
    if message is None and context is None and call_next is None:
        return mod
    if message is None or context is None or call_next is None:
        raise ConfigError("compression_mod takes keywords, or is given to ClientApp(mods=[compression_mod]) as it is")
    return mod(message, context, call_next)


class _CompressionMod:
    """The mod with its settings; all state is in the Context."""

    def __init__(self, budget: str, codec: str | Codec, error_feedback: bool, exact: Sequence[str]) -> None:
        self._budget = BudgetRule.parse(budget)
        self._codec = codec_for(codec)
        self._error_feedback = error_feedback
        self._is_exact = matcher(exact)

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        order = order_in(message.content) if message.has_content() else None
        if order is None:
            if message.metadata.message_type.partition(".")[0] in ("train", "evaluate"):
                log.warning("compression_mod: the server does not compress; wrap its strategy in CompressedStrategy")
            return call_next(message, context)
        memory = _Memory(context.state, order, message.metadata.message_type)
        model, reason = _model_for(order, message.content, memory)
        if model is None:
            log.info("compression_mod: asks for the whole model: %s", reason)
            reply = Message(RecordDict(), reply_to=message)
            attach(reply.content, Answer(order.run, order.ticket, memory.version, missing=reason))
            return reply
        memory.hold(model)
        received = {order.key: model}  # the model first, where apps that take the first record look
        received |= {key: record for key, record in message.content.array_records.items() if key != RECORD}
        others = {key: r for key, r in message.content.items() if key != RECORD and key not in received}
        # Copies: an app may empty the record it is given, and the difference is taken to what was in it.
        message.content = RecordDict({**{key: ArrayRecord(dict(r)) for key, r in received.items()}, **others})
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        is_training = message.metadata.message_type.partition(".")[0] == "train"
        made = self._compress(reply.content, received, order, context, memory) if is_training else {}
        content = RecordDict({key: record for key, record in reply.content.items() if key not in made})
        norms = [
            float(np.sqrt(sum(getattr(one, name) ** 2 for _, one in made.values())))
            for name in ("update_l2", "error_l2", "deviation_l2")
        ]
        sections = tuple(Section(key, base, one.patch) for key, (base, one) in made.items())
        attach(content, Answer(order.run, order.ticket, memory.version, "", sections, *norms))
        reply.content = content
        return reply

    def _compress(
        self, content: RecordDict, received: dict[str, ArrayRecord], order: Order, context: Context, memory: _Memory
    ) -> dict[str, tuple[str, Made]]:
        sent = dict(content.array_records.items())
        made = {}
        for key, record in sent.items():
            base = key if key in received else ""
            if not base and len(sent) == len(received) == 1:
                base = order.key  # one record each way: the app calls its reply's otherwise
            if not base:
                continue
            made[key] = (
                base,
                make(
                    received[base],
                    record,
                    self._codec,
                    self._budget.at(order.round),
                    is_exact=self._is_exact,
                    residual=lambda layout, key=key: self._residual(memory, key, layout, order.accepted),  # type: ignore[misc]
                    rng=np.random.default_rng([order.ticket, abs(context.node_id)]),
                ),
            )
        if self._error_feedback:  # once all of them could be made
            for key, (_, one) in made.items():
                memory.keep(key, one, order.ticket)
        return made

    def _residual(self, memory: _Memory, key: str, layout: Layout, accepted: int) -> Float32Vector | None:
        return memory.residual(key, layout, accepted) if self._error_feedback else None


class _Memory:
    """What the mod keeps in `Context.state`: the model held, and what replies of this message type left out."""

    def __init__(self, state: RecordDict, order: Order, message_type: str) -> None:
        self._state = state
        self._order = order
        self._message_type = message_type
        self._held = state.config_records.get(_HELD, ConfigRecord())
        if bytes(cast(bytes, self._held.get("run", b""))) != order.run:
            self._held = ConfigRecord({"run": order.run, "version": 0})
            state[_HELD] = self._held
            for name in (_MODEL, _RESIDUAL, _SENT):
                state[name] = ArrayRecord()

    @property
    def version(self) -> int:
        """Of the model held; 0: none."""
        return int(cast(int, self._held["version"])) if _MODEL in self._state else 0

    @property
    def model(self) -> ArrayRecord:
        """The model held."""
        return self._state.array_records[_MODEL]

    def hold(self, model: ArrayRecord) -> None:
        """Keep the order's model."""
        self._state[_MODEL] = ArrayRecord(dict(model))
        self._held["version"] = self._order.version

    def residual(self, key: str, layout: Layout, accepted: int) -> Float32Vector | None:
        """What is still owed of record `key`; with the last reply in full, where the server never used it."""
        slot = self._slot(key)
        kept = self._record(_RESIDUAL).get(slot)
        if kept is None or self._held.get(f"layout {slot}") != layout.digest:
            return None
        vector: Float32Vector = kept.numpy()
        ticket = int(cast(int, self._held.get(f"ticket {slot}", 0)))
        sent = self._record(_SENT).get(slot)
        if ticket > accepted and sent is not None and sent.data:
            try:
                vector = vector + decode(sent.data, layout)
            except CodecError as error:
                log.warning("compression_mod: the last reply cannot be taken back: %s", error)
        return vector

    def keep(self, key: str, made: Made, ticket: int) -> None:
        """Remember what a reply leaves out, and the reply itself until the server says that it used it."""
        slot, payload = self._slot(key), made.patch.payload
        for name, array in (
            (_RESIDUAL, Array(made.residual)),
            (_SENT, Array(dtype="uint8", shape=(len(payload),), stype="amgt.payload", data=payload)),
        ):
            record = ArrayRecord(dict(self._record(name)))
            record[slot] = array
            self._state[name] = record
        self._held[f"layout {slot}"] = made.layout.digest
        self._held[f"ticket {slot}"] = ticket

    def _record(self, name: str) -> ArrayRecord:
        return self._state.array_records.get(name, ArrayRecord())

    def _slot(self, key: str) -> str:
        return f"{self._message_type} {key}"


def _model_for(order: Order, content: RecordDict, memory: _Memory) -> tuple[ArrayRecord | None, str]:
    """The order's model, or None and why it cannot be made."""
    try:
        if order.patches is None:
            model = content.array_records.get(order.key)
            if model is None:
                return None, f"the message holds no record {order.key!r}"
        else:
            held: ArrayRecord | None = None
            at = 0
            if order.first > 1 or memory.version >= order.first:
                at, held = memory.version, memory.model if memory.version else None
            if at + 1 < order.first or at > order.version or order.first + len(order.patches) != order.version + 1:
                last = order.first + len(order.patches) - 1
                return None, f"it has version {at}, and the steps lead from {order.first - 1} to {last}"
            for patch in order.patches[at + 1 - order.first :]:
                held = apply(held, patch)
            if held is None:
                return None, "it has no model"
            model = held
    except WireError as error:
        return None, str(error)
    if digest_of(model) != order.digest:
        return None, f"its version {order.version} differs from the server's"
    return model, ""


def codec_for(codec: str | Codec) -> Codec:
    """A codec by name, or the codec given.

    Raises:
        ConfigError: something else.
        UnknownCodec: no such name.
    """
    if isinstance(codec, str):
        return get_codec(codec)
    if not isinstance(codec, Codec):
        raise ConfigError(f"codec is {codec!r}; give a name, or what amgt_fed.codec.get_codec returns")
    return codec


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name fits one of the patterns.

    Raises:
        ConfigError: a bare string, whose letters would be the patterns.
    """
    if isinstance(patterns, str):
        raise ConfigError(f"exact is {patterns!r}; give a list of patterns, e.g. [{patterns!r}]")
    kept = tuple(patterns)
    return lambda name: any(fnmatchcase(name, pattern) for pattern in kept)
