"""The frame around every codec's bytes: version, codec, schema, measured error, checksum. 14 bytes.

0      0xA0 | format version (1 to 15)
1      codec id; 255: a registered codec, its name follows the checksum (1 length byte, ASCII)
2-5    first 4 bytes of the layout's digest, so that names and shapes need not be sent
6-9    measured l2 error, little-endian float32, rounded up
10-13  CRC-32 (zlib) of bytes 0-9, of the layout's whole digest, and of all that follows
14-    the codec's body
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from amgt_fed.codec.errors import CorruptPayload, UnsupportedPayload, WrongLayout
from amgt_fed.layout import Layout

FORMAT_VERSION = 2  # the newest that is read; written is the oldest that can say what is to be said
FRAME_BYTES = 14
NAMED_CODEC = 255
_MAGIC = 0xA0
_FIXED = struct.Struct("<BB4sf")
_SCHEMA_BYTES = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """A payload taken apart; `body` is a view, not a copy."""

    codec_id: int
    codec_name: str  # empty unless codec_id is NAMED_CODEC
    error_l2: float
    body: memoryview


def overhead(codec_name: str = "") -> int:
    """Bytes of framing; `codec_name` is given only for codecs without a number of their own."""
    return FRAME_BYTES + (1 + len(codec_name) if codec_name else 0)


def wrap(codec_id: int, body: bytes, layout: Layout, error_l2: float, codec_name: str = "", version: int = 1) -> bytes:
    """Frame a codec's body.

    Args:
        codec_id: 0 to 254 for built-in codecs; NAMED_CODEC with `codec_name` for registered ones.
        body: the codec's own bytes.
        layout: what the body was encoded for.
        error_l2: measured ||decoded - update||_2; kept as float32, rounded up, capped at the largest float32.
        codec_name: at most 255 ASCII characters.
        version: 1, or 2 for an `amgt` body with tables of its own.
    """
    name = codec_name.encode("ascii")
    tail = (bytes([len(name)]) + name + body) if codec_id == NAMED_CODEC else body
    head = _FIXED.pack(_MAGIC | version, codec_id, layout.digest[:_SCHEMA_BYTES], _round_up(error_l2))
    return head + struct.pack("<I", _checksum(head, layout, tail)) + tail


def unwrap(payload: bytes | bytearray | memoryview, layout: Layout) -> Frame:
    """Take a payload apart after checking its version, schema and checksum.

    Raises:
        CorruptPayload: too short, not ours, or damaged.
        UnsupportedPayload: a newer format version.
        WrongLayout: made for other tensor names or shapes.
    """
    view = memoryview(payload).cast("B") if len(payload) else memoryview(b"")
    if len(view) < FRAME_BYTES:
        raise CorruptPayload(f"payload has {len(view)} bytes; the frame alone needs {FRAME_BYTES}")
    first, codec_id, schema, error_l2 = _FIXED.unpack(view[: _FIXED.size])
    if first & 0xF0 != _MAGIC or first == _MAGIC:
        raise CorruptPayload(f"payload starts with byte 0x{first:02x}; an AMGT payload starts with 0xa1")
    if first & 0x0F > FORMAT_VERSION:
        raise UnsupportedPayload(
            f"payload has format version {first & 0x0F}; this library reads up to {FORMAT_VERSION}: upgrade amgt-fed"
        )
    if schema != layout.digest[:_SCHEMA_BYTES]:
        raise WrongLayout(
            f"payload is for a model with schema {schema.hex()}; this layout is {layout.digest[:_SCHEMA_BYTES].hex()}: "
            "tensor names and shapes must be the same on both sides"
        )
    (stated,) = struct.unpack("<I", view[_FIXED.size : FRAME_BYTES])
    tail = view[FRAME_BYTES:]
    if stated != _checksum(view[: _FIXED.size], layout, tail):
        raise CorruptPayload("payload's checksum does not match its content; it was damaged on the way")
    if not 0 <= error_l2 < float("inf"):
        raise CorruptPayload(f"payload states an error of {error_l2}; it must be finite and >= 0")
    if codec_id != NAMED_CODEC:
        return Frame(codec_id, "", float(error_l2), tail)
    if not tail or len(tail) < 1 + tail[0]:
        raise CorruptPayload("payload ends inside its codec's name")
    name = bytes(tail[1 : 1 + tail[0]])
    if not name.isascii():
        raise CorruptPayload(f"payload names its codec {name!r}; names are ASCII")
    return Frame(codec_id, name.decode("ascii"), float(error_l2), tail[1 + len(name) :])


def _checksum(head: bytes | memoryview, layout: Layout, tail: bytes | memoryview) -> int:
    return zlib.crc32(tail, zlib.crc32(layout.digest, zlib.crc32(head)))


def _round_up(error_l2: float) -> float:
    largest = float(np.finfo(np.float32).max)
    if error_l2 >= largest:
        return largest
    rounded = np.float32(error_l2)
    if float(rounded) < error_l2:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return float(rounded)
