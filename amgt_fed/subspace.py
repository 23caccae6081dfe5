"""The few directions that matrices move in during one round: new each round, known to both ends from its number."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amgt_fed.errors import ConfigError
from amgt_fed.layout import Float32Vector, Layout

_STREAM = 0x53554253
MAX_RANK = 255


@dataclass(frozen=True, slots=True)
class Directions:
    """The directions of one matrix W: W moves by c B S, or by c S^T B where `transposed`; c = 1 / sqrt(rank).

    Attributes:
        signs: S, +-1, shape (rank, longer side).
        shape: of W as a matrix.
        transposed: the rows are the longer side.
    """

    signs: NDArray[np.float32]
    shape: tuple[int, int]
    transposed: bool

    @property
    def scale(self) -> float:
        """c, which gives the entries of W the size of those of B."""
        return 1.0 / math.sqrt(len(self.signs))

    @property
    def reduced_shape(self) -> tuple[int, int]:
        """Shape of B."""
        return (len(self.signs), self.shape[1]) if self.transposed else (self.shape[0], len(self.signs))

    def reduce(self, values: Float32Vector) -> NDArray[np.float64]:
        """The B whose c B S is nearest to W, shape `reduced_shape`. Only encoders call it: bits may differ."""
        matrix = values.reshape(self.shape).astype(np.float64)
        signs = self.signs.astype(np.float64)
        short = signs @ (matrix if self.transposed else matrix.T)
        solved = np.linalg.lstsq(signs @ signs.T, short, rcond=1e-10)[0] / self.scale
        return np.asarray(solved if self.transposed else solved.T, np.float64)

    def expand(self, reduced: Float32Vector) -> Float32Vector:
        """c B S, flat: sums in float64 in a fixed order, so every machine gets the same bits."""
        b = reduced.reshape(self.reduced_shape).astype(np.float64)
        out = np.zeros(self.shape)
        for index, row in enumerate(self.signs.astype(np.float64)):
            out += row[:, None] * b[index][None, :] if self.transposed else b[:, index : index + 1] * row
        return np.multiply(out, self.scale).astype(np.float32).reshape(-1)


@dataclass(frozen=True, slots=True)
class Subspace:
    """All matrices' directions in one round. A tensor with no side longer than twice the rank moves freely.

    Raises:
        ConfigError: a rank outside 1 to 255, or a round below 1.
    """

    rank: int
    round: int

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK:
            raise ConfigError(f"a subspace of rank {self.rank} is not possible; give 1 to {MAX_RANK}")
        if not 1 <= self.round < 1 << 32:
            raise ConfigError(f"round {self.round} has no subspace; rounds run from 1")

    def directions(self, name: str, shape: tuple[int, ...]) -> Directions | None:
        """The directions of the tensor called `name`; None where it moves freely."""
        if len(shape) < 2:
            return None
        rows, columns = shape[0], math.prod(shape[1:])
        longer = max(rows, columns)
        if min(rows, columns) < 2 or 2 * self.rank >= longer:
            return None
        # Raw bits of a bit generator are the same in every version of numpy; its distributions need not be.
        source = np.random.PCG64(np.random.SeedSequence([_STREAM, self.round, zlib.crc32(name.encode())]))
        words = source.random_raw(self.rank * (-(-longer // 64))).astype("<u8")
        bits = np.unpackbits(words.view(np.uint8)).reshape(self.rank, -1)[:, :longer]
        return Directions(1 - 2 * bits.astype(np.float32), (rows, columns), rows > columns)

    def reduced(self, layout: Layout) -> Layout:
        """The layout of the coefficients: each matrix's B in its place."""
        shapes = {}
        for segment in layout.segments:
            found = self.directions(segment.name, segment.shape)
            shapes[segment.name] = segment.shape if found is None else found.reduced_shape
        return Layout.from_shapes(shapes)

    def reduce(self, update: Float32Vector, layout: Layout) -> Float32Vector:
        """The coefficients whose expansion is nearest to `update`, in the order of `reduced(layout)`."""
        parts = []
        for segment in layout.segments:
            values = update[segment.offset : segment.stop]
            found = self.directions(segment.name, segment.shape)
            parts.append(values if found is None else found.reduce(values).astype(np.float32).reshape(-1))
        return np.concatenate(parts) if parts else update
