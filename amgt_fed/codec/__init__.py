"""Updates to bytes and back: fewest bytes for an error, smallest error for a size, both measured and kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec import error_feedback
from amgt_fed.codec.budget import BitsPerParameter, Budget, MaxBytes, MaxError, RelativeError
from amgt_fed.codec.errors import (
    CorruptPayload,
    ImpossibleBudget,
    InvalidBudget,
    InvalidUpdate,
    UnknownCodec,
    UnsupportedPayload,
    WrongLayout,
)
from amgt_fed.codec.frame import unwrap
from amgt_fed.codec.interface import (
    Body,
    Buffer,
    Codec,
    Encoded,
    Opened,
    Piece,
    TensorReport,
    accumulate,
    gather,
)
from amgt_fed.codec.registry import codec_names, codec_of, get_codec
from amgt_fed.errors import CodecError
from amgt_fed.layout import Float32Vector, Layout

__all__ = [
    "BitsPerParameter",
    "Body",
    "Budget",
    "Codec",
    "CodecError",
    "CorruptPayload",
    "Encoded",
    "ImpossibleBudget",
    "InvalidBudget",
    "InvalidUpdate",
    "Layout",
    "MaxBytes",
    "MaxError",
    "Opened",
    "Piece",
    "RelativeError",
    "TensorReport",
    "UnknownCodec",
    "UnsupportedPayload",
    "WrongLayout",
    "codec_names",
    "decode",
    "decode_into",
    "encode",
    "error_feedback",
    "get_codec",
]


def encode(
    update: Float32Vector,
    layout: Layout,
    budget: Budget,
    *,
    state: Any = None,
    rng: np.random.Generator | None = None,
) -> Encoded:
    """Encode an update with the AMGT pipeline; see `Codec.encode` for arguments and errors.

    Returns:
        Payload, decoded vector, exact error, and the state for the next call of the same stream.
    """
    return get_codec("amgt").encode(update, layout, budget, state=state, rng=rng)


def decode(payload: Buffer, layout: Layout) -> Float32Vector:
    """Decode a payload of any codec; the frame says which.

    Returns:
        Flat float32 of the layout's size, finite, bit for bit what the encoder's `Encoded.decoded` holds.

    Raises:
        CorruptPayload: damaged, truncated, or saying what the layout makes impossible.
        UnsupportedPayload: of a newer version or a codec that is not installed.
        WrongLayout: made for other tensor names or shapes.
    """
    return gather(_open(payload, layout), layout)


def decode_into(payload: Buffer, layout: Layout, out: NDArray[Any], weight: float = 1.0) -> None:
    """Add `weight` times the decoded update to `out`, without a second dense copy.

    Args:
        payload: of any codec.
        layout: the model's.
        out: flat float32 or float64 of the layout's size; added to in place. Untouched if an error is raised.
        weight: finite.

    Raises:
        CorruptPayload, UnsupportedPayload, WrongLayout: as `decode`.
        InvalidUpdate: `out` or `weight` is not usable.
    """
    accumulate(_open(payload, layout), layout, out, weight)


def _open(payload: Buffer, layout: Layout) -> Opened:
    frame = unwrap(payload, layout)
    return codec_of(frame.codec_id, frame.codec_name).open(frame.body, layout)
