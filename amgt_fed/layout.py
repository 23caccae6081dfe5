"""How a model's tensors lie in one flat float32 vector."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from amgt_fed.errors import ConfigError

Float32Vector: TypeAlias = NDArray[np.float32]
"""A one-dimensional, C-contiguous float32 array."""

DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Segment:
    """One tensor's place in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of elements; 1 for a scalar."""
        return prod(self.shape)

    @property
    def stop(self) -> int:
        """Offset just past the last element."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Layout:
    """Names, shapes and offsets of a model's tensors in one flat vector, without gaps, in order.

    Raises:
        ConfigError: a name is repeated, a dimension is negative, or the offsets leave a gap or overlap.
    """

    segments: tuple[Segment, ...]
    size: int = field(init=False)
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        offset = 0
        names: set[str] = set()
        schema = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"amgt-layout")
        for segment in self.segments:
            if segment.name in names:
                raise ConfigError(f"tensor name {segment.name!r} appears twice in the layout; names must be unique")
            if any(dimension < 0 for dimension in segment.shape):
                raise ConfigError(f"tensor {segment.name!r} has shape {segment.shape}; dimensions must be >= 0")
            if segment.offset != offset:
                raise ConfigError(f"tensor {segment.name!r} starts at {segment.offset}; expected {offset} (no gaps)")
            names.add(segment.name)
            offset = segment.stop
            # NUL-separated text: neither a name nor a printed shape can imitate the next field.
            schema.update(f"{segment.name}\0{','.join(map(str, segment.shape))}\0".encode())
        object.__setattr__(self, "size", offset)
        object.__setattr__(self, "digest", schema.digest())

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> Layout:
        """Lay tensors out one after the other, in the mapping's order.

        Args:
            shapes: tensor name -> shape, e.g. `{"fc.weight": (64, 512), "fc.bias": (64,)}`.
        """
        segments: list[Segment] = []
        offset = 0
        for name, shape in shapes.items():
            segment = Segment(name, tuple(int(dimension) for dimension in shape), offset)
            segments.append(segment)
            offset = segment.stop
        return cls(tuple(segments))

    def views(self, vector: Float32Vector) -> Iterator[tuple[Segment, Float32Vector]]:
        """Yield each tensor as a flat view into `vector`; writing to a view writes to the vector."""
        self.check(vector)
        for segment in self.segments:
            yield segment, vector[segment.offset : segment.stop]

    def check(self, vector: Float32Vector) -> None:
        """Raise `ConfigError` unless `vector` is flat float32 of this layout's size."""
        if vector.dtype != np.float32 or vector.shape != (self.size,):
            raise ConfigError(
                f"vector is {vector.dtype} of shape {vector.shape}; this layout needs float32 of shape ({self.size},)"
            )


def vector_digest(vector: Float32Vector) -> bytes:
    """Hash a vector's bits, so that two parties can tell whether they hold the same model.

    Returns:
        `DIGEST_BYTES` bytes; little-endian float32 is hashed whatever the machine's byte order.
    """
    data = np.ascontiguousarray(vector, dtype="<f4")
    return hashlib.blake2b(data.data, digest_size=DIGEST_BYTES, person=b"amgt-vector").digest()
