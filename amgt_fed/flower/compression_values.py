"""The values of Flower's Arrays as numbers: what can be subtracted, in which precision, and back to its own type."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from amgt_fed.codec.interface import l2_norm
from amgt_fed.errors import WireError
from amgt_fed.layout import Float32Vector

NUMPY: Final = "numpy.ndarray"
DIGEST_BYTES: Final = 8

_WORK: Final = {"float16": np.float32, "bfloat16": np.float32, "float32": np.float32, "float64": np.float64}

Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spec:
    """An array's name and form, without its values."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stype: str

    @property
    def is_float(self) -> bool:
        """Whether the values can be a difference: Flower's own serialization of a float of at most 64 bits."""
        return self.stype == NUMPY and self.dtype in _WORK and prod(self.shape) > 0


def specs_of(record: ArrayRecord) -> tuple[Spec, ...]:
    """Names and forms, in the record's order."""
    return tuple(Spec(name, array.dtype, tuple(array.shape), array.stype) for name, array in record.items())


def digest_of(record: ArrayRecord) -> bytes:
    """Hash names, forms and values, so that two parties can tell whether they hold the same record."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"amgt-record")
    for spec, array in zip(specs_of(record), record.values(), strict=True):
        digest.update(f"{spec.name}\0{spec.dtype}\0{spec.shape}\0{spec.stype}\0".encode())
        # Values and not the file around them: numpy may write its header differently on another machine.
        values = np.ascontiguousarray(array.numpy()) if spec.is_float else None
        digest.update(array.data if values is None else values.tobytes())
    return digest.digest()


def like(record: ArrayRecord, model: ArrayRecord) -> ArrayRecord:
    """`record` with `model`'s number types where an array has the same shape; integers are rounded.

    Strategies average in whatever type the weights make of it: Flower's FedAvg turns counters into floats, its FedAdam
    float32 into float64, and the traffic doubles.
    """
    wanted = {spec.name: spec for spec in specs_of(model)}
    result = ArrayRecord()
    for spec, array in zip(specs_of(record), record.values(), strict=True):
        target = wanted.get(spec.name)
        result[spec.name] = array
        if target is None or target.shape != spec.shape or target.dtype == spec.dtype or spec.stype != NUMPY:
            continue
        if target.is_float and spec.is_float:
            result[spec.name] = _written(read_floats(array), target)
        elif spec.is_float and np.dtype(target.dtype).kind in "iub":
            result[spec.name] = Array(np.asarray(np.rint(array.numpy()).astype(target.dtype)))
    return result


def distance(left: ArrayRecord, right: ArrayRecord) -> float:
    """||left - right||_2 over the float arrays of one name and shape."""
    shared = {spec.name: spec for spec in specs_of(right)}
    total = 0.0
    for spec in specs_of(left):
        if spec.is_float and fits(spec, shared):
            total += l2_norm(difference(left, right, spec)) ** 2
    return float(np.sqrt(total))


def read_floats(array: Array) -> Floats:
    """The values in float32, or float64 where the array is; its shape.

    Raises:
        WireError: the bytes are not of the stated type.
    """
    try:
        values = array.numpy()
        if array.dtype == "bfloat16":  # numpy has no such type: two bytes, the upper half of a float32
            return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(array.shape)
        if values.dtype != np.dtype(array.dtype) or values.shape != tuple(array.shape):
            raise ValueError(f"it holds {values.dtype} of shape {values.shape}")
    except (ValueError, TypeError, EOFError) as error:
        raise WireError(f"array said to be {array.dtype} of shape {array.shape} cannot be read: {error}") from error
    return np.asarray(values, _WORK[array.dtype])


def _written(values: Floats, spec: Spec) -> Array:
    if spec.dtype != "bfloat16":
        return Array(np.asarray(values.astype(spec.dtype).reshape(spec.shape)))
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).reshape(spec.shape)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
    file = io.BytesIO()
    np.save(file, np.asarray(rounded.astype(np.uint16)).view("V2"), allow_pickle=False)
    return Array(dtype=spec.dtype, shape=spec.shape, stype=spec.stype, data=file.getvalue())


def fits(spec: Spec, there: dict[str, Spec]) -> bool:
    """Whether there is a float array of this name and shape."""
    other = there.get(spec.name)
    return other is not None and other.is_float and other.shape == spec.shape


def difference(base: ArrayRecord | None, new: ArrayRecord, spec: Spec) -> Float32Vector:
    """`base - new` of one array, flat; not finite where a value is not, or is beyond float32. None: base is 0."""
    after = read_floats(new[spec.name])
    before: Floats | np.float32 = np.float32(0.0) if base is None else read_floats(base[spec.name])
    with np.errstate(over="ignore", invalid="ignore"):  # the caller checks that the result is finite
        return np.asarray(np.subtract(before, after), np.float32).reshape(-1)


def moved(base: ArrayRecord | None, spec: Spec, decoded: Float32Vector, scale: np.float32 | None) -> Array:
    """The array `base - decoded * scale`, in the type of `spec`; None: base is 0, scale is 1."""
    step = (decoded if scale is None else decoded * scale).reshape(spec.shape)
    before: Floats | np.float32 = np.float32(0.0) if base is None else read_floats(base[spec.name])
    with np.errstate(over="ignore"):
        return _written(np.asarray(np.subtract(before, step)), spec)
