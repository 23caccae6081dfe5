"""Our protobuf bytes inside Flower's Message: one uint8 Array, the one form that costs next to nothing."""

from __future__ import annotations

from typing import Final

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from amgt_fed.errors import WireError

RECORD: Final = "amgt"
ARRAY: Final = "message"
STYPE: Final = "amgt.v1"


def pack(data: bytes) -> RecordDict:
    """A RecordDict that carries `data`."""
    array = Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)
    return RecordDict({RECORD: ArrayRecord({ARRAY: array})})


def unpack(content: RecordDict) -> bytes:
    """The bytes `pack` was given.

    Raises:
        WireError: the content is of another app.
    """
    record = content.array_records.get(RECORD)
    array = None if record is None else record.get(ARRAY)
    if array is None:
        raise WireError(f"message carries {sorted(content)}, not an {RECORD!r} record; both sides must run amgt-fed")
    if array.stype != STYPE or array.dtype != np.dtype(np.uint8).name:
        raise WireError(f"message is {array.dtype} of kind {array.stype!r}; this side reads uint8 of kind {STYPE!r}")
    return bytes(array.data)
