"""What a payload says about itself, with and without the model's layout."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from amgt_fed.codec.errors import CorruptPayload
from amgt_fed.codec.frame import FORMAT_VERSION, FRAME_BYTES, NAMED_CODEC
from amgt_fed.codec.interface import Buffer
from amgt_fed.codec.registry import codec_names, get_codec


@dataclass(frozen=True, slots=True)
class Description:
    """The frame's fields; nothing here is checked against a checksum, which needs the layout."""

    version: int
    codec: str
    schema: str  # hexadecimal, the first 4 bytes of the layout's digest
    error_l2: float
    payload_bytes: int
    body_bytes: int
    checksum: str


def describe(payload: Buffer) -> Description:
    """Read a payload's frame.

    Raises:
        CorruptPayload: too short, or not one of ours.
    """
    view = memoryview(payload)
    if len(view) < FRAME_BYTES or view[0] & 0xF0 != 0xA0 or view[0] == 0xA0:
        start = bytes(view[:4]).hex() or "nothing"
        raise CorruptPayload(
            f"not an AMGT payload: {len(view)} bytes, first {start}; it has {FRAME_BYTES} or more, first a1"
        )
    first, codec_id, schema, error_l2, checksum = struct.unpack("<BB4sfI", view[:FRAME_BYTES])
    body = len(view) - FRAME_BYTES
    if codec_id == NAMED_CODEC and body:
        length = view[FRAME_BYTES]
        name = bytes(view[FRAME_BYTES + 1 : FRAME_BYTES + 1 + length]).decode("ascii", "replace")
        body = max(0, body - 1 - length)
    else:
        known = {get_codec(n).codec_id: n for n in codec_names() if get_codec(n).codec_id != NAMED_CODEC}
        name = known.get(codec_id, f"number {codec_id}, unknown to this version")
    version = first & 15
    return Description(version, name, schema.hex(), error_l2, len(view), body, f"{checksum:08x}")


def is_readable(description: Description) -> bool:
    """Whether this library reads the payload's format version."""
    return description.version <= FORMAT_VERSION
