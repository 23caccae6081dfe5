"""How one Flower ArrayRecord comes out of another: floats as an encoded difference, everything else bit for bit.

Both ends compute `base - decoded` with the same IEEE operations, element by element, so they hold the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord

from amgt_fed.codec import Budget, Codec, decode
from amgt_fed.codec.interface import l2_norm
from amgt_fed.codec.lossless import deflate, inflate
from amgt_fed.errors import CodecError, RoundError, WireError
from amgt_fed.flower.compression_bytes import Reader, Writer
from amgt_fed.flower.compression_values import Spec, difference, fits, moved, specs_of
from amgt_fed.layout import Float32Vector, Layout

MAX_ARRAYS: Final = 1 << 20
MAX_SPARE_BYTES: Final = 64 << 20
"""Exact arrays may take so much beyond four times the record they are a difference to."""


@dataclass(frozen=True, slots=True)
class Patch:
    """What leads from a base record to another.

    Attributes:
        schema: the result's names and forms, compressed; empty where they are the base's.
        coded: bit i is set where array i is base minus decoded; the others are in `exact`.
        scales: float32 per coded array, by which the decoded values are multiplied; empty: 1.
        exact: the arrays that are not coded, compressed.
        payload: of the codec; empty where nothing is coded.
    """

    schema: bytes = b""
    coded: bytes = b""
    scales: bytes = b""
    exact: bytes = b""
    payload: bytes = b""

    @property
    def size(self) -> int:
        """Bytes, but for a few of framing."""
        return len(self.schema) + len(self.coded) + len(self.scales) + len(self.exact) + len(self.payload)


@dataclass(frozen=True, slots=True)
class Made:
    """A patch, and what was measured while it was made.

    Attributes:
        result: what `apply` makes of the patch, bit for bit.
        layout: of the coded arrays.
        residual: what the patch left out, to be added to the next difference; flat float32.
        update_l2: ||D||, D = base - new over the coded arrays.
        error_l2: ||D + r - q||, q being what the receiver sees, rounding to its dtype included.
        deviation_l2: ||q - D||.
        state: of the codec, for the next patch of the same stream.
    """

    patch: Patch
    result: ArrayRecord
    layout: Layout
    residual: Float32Vector
    update_l2: float
    error_l2: float
    deviation_l2: float
    state: Any = None


def make(
    base: ArrayRecord | None,
    new: ArrayRecord,
    codec: Codec,
    budget: Budget | None,
    *,
    is_exact: Callable[[str], bool],
    residual: Callable[[Layout], Float32Vector | None] = lambda layout: None,
    state: Any = None,
    rng: np.random.Generator | None = None,
) -> Made:
    """Encode the difference between two records.

    Args:
        base: what the receiver has; None: nothing. Then matrices and larger arrays are coded each at its own scale,
            and vectors (biases, norms), which cost little, are exact.
        new: what it shall have.
        is_exact: whether an array of this name is sent bit for bit, float or not.
        residual: what earlier patches left out, for this layout.

    Raises:
        RoundError: a coded array holds a value that is not finite.
        ImpossibleBudget: the codec cannot meet the budget.
    """
    specs = specs_of(new)
    before = {} if base is None else {spec.name: spec for spec in specs_of(base)}
    coded = [
        spec.is_float and not is_exact(spec.name) and (len(spec.shape) > 1 if base is None else fits(spec, before))
        for spec in specs
    ]
    chosen = [spec for spec, yes in zip(specs, coded, strict=True) if yes]
    layout = Layout.from_shapes({spec.name: spec.shape for spec in chosen})
    update = np.zeros(layout.size, np.float32)
    scales = np.ones(len(chosen), np.float32)
    for index, (spec, (_, view)) in enumerate(zip(chosen, layout.views(update), strict=True)):
        view[:] = difference(base, new, spec)
        if not np.isfinite(view).all():
            raise RoundError(f"array {spec.name!r} holds a value that is not finite (in float32); lower the step size")
        if base is None:
            scales[index] = l2_norm(view) / np.sqrt(view.size) or 1.0
            view /= scales[index]
    left = residual(layout)
    wanted = update if left is None else update + left
    encoded = codec.encode(wanted, layout, budget, state=state, rng=rng) if chosen else None
    patch = Patch(
        schema=b"" if base is not None and specs == specs_of(base) else _packed(_schema_bytes(specs)),
        coded=np.packbits(np.array(coded, bool)).tobytes(),
        scales=scales.astype("<f4").tobytes() if base is None else b"",
        exact=_exact_bytes(base, new, [spec.name for spec, yes in zip(specs, coded, strict=True) if not yes]),
        payload=b"" if encoded is None else encoded.payload,
    )
    decoded = update if encoded is None else encoded.decoded
    result = ArrayRecord({name: array for name, array in new.items()})
    for index, (spec, (_, view)) in enumerate(zip(chosen, layout.views(decoded), strict=True)):
        result[spec.name] = moved(base, spec, view, scales[index] if base is None else None)
    seen = np.concatenate([difference(base, result, spec) for spec in chosen]) if chosen else update
    if base is None and chosen:
        seen = np.concatenate([part / s for (_, part), s in zip(layout.views(seen), scales, strict=True)])
    kept = np.subtract(wanted, seen)
    deviation = l2_norm(np.subtract(update, seen))
    next_state = None if encoded is None else encoded.state
    return Made(patch, result, layout, kept, l2_norm(update), l2_norm(kept), deviation, next_state)


def apply(base: ArrayRecord | None, patch: Patch, *, onto: ArrayRecord | None = None) -> ArrayRecord:
    """Make the record that a patch leads to.

    Args:
        base: what the patch was made from; not modified.
        onto: subtract the decoded difference from this record instead, of the base's names and shapes; exact arrays
            still come as the sender had them.

    Raises:
        WireError: the patch is damaged, or made from another base.
    """
    try:
        return _apply(base, patch, base if onto is None else onto)
    except CodecError as error:
        raise WireError(f"compressed arrays cannot be read: {error}") from error


def _apply(base: ArrayRecord | None, patch: Patch, onto: ArrayRecord | None) -> ArrayRecord:
    room = MAX_SPARE_BYTES + (0 if base is None else 4 * sum(len(array.data) for array in base.values()))
    if patch.schema:
        specs = _read_schema(_unpacked(patch.schema, room))
    elif base is None:
        raise WireError("compressed arrays come without their names, and there are none from before")
    else:
        specs = specs_of(base)
    if len(patch.coded) != (len(specs) + 7) // 8:
        raise WireError(f"{len(patch.coded)} bytes say which of {len(specs)} arrays are coded")
    bits = np.unpackbits(np.frombuffer(patch.coded, np.uint8))[: len(specs)]
    chosen = [spec for spec, bit in zip(specs, bits, strict=True) if bit]
    have = {} if onto is None else {spec.name: spec for spec in specs_of(onto)}
    for spec in chosen:
        if not spec.is_float or not (base is None or fits(spec, have)):
            raise WireError(f"array {spec.name!r} is coded, but {spec.dtype} of shape {spec.shape} cannot be here")
    layout = Layout.from_shapes({spec.name: spec.shape for spec in chosen})
    if len(patch.scales) != (4 * len(chosen) if base is None else 0):
        raise WireError(f"{len(patch.scales)} bytes of scales for {len(chosen)} arrays")
    scales = np.frombuffer(patch.scales, "<f4")
    decoded = decode(patch.payload, layout) if chosen else np.zeros(0, np.float32)
    views = {segment.name: view for segment, view in layout.views(decoded)}
    exact = _read_exact(base, patch.exact, [spec for spec, bit in zip(specs, bits, strict=True) if not bit], room)
    result = ArrayRecord()
    place = 0
    for spec, bit in zip(specs, bits, strict=True):
        if bit:
            result[spec.name] = moved(onto, spec, views[spec.name], scales[place] if base is None else None)
            place += 1
        else:
            result[spec.name] = exact[spec.name]
    return result


def _schema_bytes(specs: tuple[Spec, ...]) -> bytes:
    return json.dumps([[s.name, s.dtype, list(s.shape), s.stype] for s in specs], separators=(",", ":")).encode()


def _read_schema(data: bytes) -> tuple[Spec, ...]:
    try:
        rows = json.loads(data)
        specs = tuple(Spec(str(n), str(d), tuple(int(size) for size in shape), str(t)) for n, d, shape, t in rows)
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError(f"names and shapes of arrays cannot be read: {error}") from error
    names = {spec.name for spec in specs}
    if len(names) != len(specs) or len(specs) > MAX_ARRAYS or any(size < 0 for s in specs for size in s.shape):
        raise WireError(f"{len(specs)} arrays with {len(names)} names, or a negative size, are no record")
    return specs


def _exact_bytes(base: ArrayRecord | None, new: ArrayRecord, names: list[str]) -> bytes:
    writer = Writer()
    for name in names:
        writer.blob(_xored(new[name].data, base, name))
    return _packed(writer.bytes()) if names else b""


def _read_exact(base: ArrayRecord | None, data: bytes, specs: list[Spec], room: int) -> dict[str, Array]:
    if not specs:
        return {}
    reader = Reader(_unpacked(data, room))
    found = {}
    for spec in specs:
        content = _xored(reader.blob(), base, spec.name)
        found[spec.name] = Array(dtype=spec.dtype, shape=spec.shape, stype=spec.stype, data=content)
    reader.end()
    return found


def _xored(data: bytes, base: ArrayRecord | None, name: str) -> bytes:
    """What changed against the base's bytes; mostly zeros, which compress. It is its own inverse."""
    before = b"" if base is None or name not in base else base[name].data
    if len(before) != len(data):
        return data
    return (np.frombuffer(data, np.uint8) ^ np.frombuffer(before, np.uint8)).tobytes()


def _packed(data: bytes) -> bytes:
    return Writer().number(len(data)).bytes() + deflate(data)


def _unpacked(data: bytes, room: int) -> bytes:
    reader = Reader(data)
    size = reader.number()
    if size > room:
        raise WireError(f"exact arrays of {size} bytes are more than the {room} this side takes")
    return inflate(memoryview(reader.rest()), size)
