"""What CompressedStrategy and compression_mod say to each other, beside the app's own records.

One record more in each Flower message, `RECORD`; it holds one uint8 array, the form that costs least.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from flwr.app import Array, ArrayRecord, RecordDict

from amgt_fed.errors import WireError
from amgt_fed.flower.compression_arrays import Patch
from amgt_fed.flower.compression_bytes import Reader, Writer
from amgt_fed.flower.compression_values import DIGEST_BYTES

RECORD: Final = "amgt-compressed"
ARRAY: Final = "message"
STYPE: Final = "amgt.mod.v1"
RUN_BYTES: Final = 8
MAX_PATCHES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Order:
    """What the strategy adds to a message to a client.

    Attributes:
        run: drawn at each start, so that no client continues another run's model.
        ticket: number of the message; the answer repeats it.
        accepted: ticket of the last answer of this client to such a message that was used; 0 for none.
        round: Flower's server round.
        key: name of the model's record.
        version: of the model the client shall have; the first is 1.
        digest: of that model.
        first: version the first patch leads to; a patch to version 1 starts from nothing.
        patches: the steps to `version`. None: the message holds the model itself.
    """

    run: bytes
    ticket: int
    accepted: int
    round: int
    key: str
    version: int
    digest: bytes
    first: int = 0
    patches: tuple[Patch, ...] | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A compressed record of an answer: `key` in the answer, as a difference to `base` in the order's message."""

    key: str
    base: str
    patch: Patch


@dataclass(frozen=True, slots=True)
class Answer:
    """What the mod adds to a client's reply.

    Attributes:
        ticket: of the message answered.
        version: of the model the client now has; 0 for none.
        missing: why the client cannot make the model; it has not called the app then. Empty otherwise.
        sections: the compressed records.
        update_l2, error_l2, deviation_l2: ||D||, ||D + r - q|| and ||q - D|| of the reply.
    """

    run: bytes
    ticket: int
    version: int
    missing: str = ""
    sections: tuple[Section, ...] = ()
    update_l2: float = 0.0
    error_l2: float = 0.0
    deviation_l2: float = 0.0


def attach(content: RecordDict, message: Order | Answer) -> None:
    """Put an order or answer into a message's content."""
    data = _order_bytes(message) if isinstance(message, Order) else _answer_bytes(message)
    content[RECORD] = ArrayRecord({ARRAY: Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)})


def order_in(content: RecordDict) -> Order | None:
    """The order in a message; None where the sender does not compress.

    Raises:
        WireError: it cannot be read.
    """
    data = _data_in(content)
    return None if data is None else _read_order(Reader(data))


def answer_in(content: RecordDict) -> Answer | None:
    """The answer in a reply; None where the client has no compression_mod.

    Raises:
        WireError: it cannot be read.
    """
    data = _data_in(content)
    return None if data is None else _read_answer(Reader(data))


def _data_in(content: RecordDict) -> bytes | None:
    record = content.array_records.get(RECORD)
    array = None if record is None else record.get(ARRAY)
    if array is None:
        return None
    if array.stype != STYPE:
        raise WireError(f"the other side compresses as {array.stype!r}, this one as {STYPE!r}; install one version")
    return bytes(array.data)


def _order_bytes(order: Order) -> bytes:
    writer = Writer().fixed(order.run).number(order.ticket).number(order.accepted).number(order.round)
    writer.text(order.key).number(order.version).fixed(order.digest)
    if order.patches is None:
        return writer.number(0).bytes()
    writer.number(1).number(order.first).number(len(order.patches))
    for patch in order.patches:
        _write_patch(writer, patch)
    return writer.bytes()


def _read_order(reader: Reader) -> Order:
    run, ticket, accepted, round = reader.fixed(RUN_BYTES), reader.number(), reader.number(), reader.number()
    key, version, digest = reader.text(), reader.number(), reader.fixed(DIGEST_BYTES)
    first, patches = 0, None
    if reader.number(limit=1):
        first = reader.number()
        patches = tuple(_read_patch(reader) for _ in range(reader.number(limit=MAX_PATCHES)))
    reader.end()
    return Order(run, ticket, accepted, round, key, version, digest, first, patches)


def _answer_bytes(answer: Answer) -> bytes:
    writer = Writer().fixed(answer.run).number(answer.ticket).number(answer.version).text(answer.missing)
    writer.number(len(answer.sections))
    for section in answer.sections:
        _write_patch(writer.text(section.key).text("" if section.base == section.key else section.base), section.patch)
    if answer.sections:
        writer.fixed(struct.pack("<3d", answer.update_l2, answer.error_l2, answer.deviation_l2))
    return writer.bytes()


def _read_answer(reader: Reader) -> Answer:
    run, ticket, version, missing = reader.fixed(RUN_BYTES), reader.number(), reader.number(), reader.text()
    sections = []
    for _ in range(reader.number(limit=MAX_PATCHES)):
        key = reader.text()
        sections.append(Section(key, reader.text() or key, _read_patch(reader)))
    norms = struct.unpack("<3d", reader.fixed(24)) if sections else (0.0, 0.0, 0.0)
    reader.end()
    if not all(0 <= norm < float("inf") for norm in norms):
        raise WireError(f"norms {norms} of an update are impossible")
    return Answer(run, ticket, version, missing, tuple(sections), *norms)


def _write_patch(writer: Writer, patch: Patch) -> None:
    writer.blob(patch.schema).blob(patch.coded).blob(patch.scales).blob(patch.exact).blob(patch.payload)


def _read_patch(reader: Reader) -> Patch:
    return Patch(reader.blob(), reader.blob(), reader.blob(), reader.blob(), reader.blob())
