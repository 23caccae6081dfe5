"""Aggregation that a minority of hostile clients cannot steer: the rules, as functions of what all clients sent.

No rule looks at what clients say of themselves, so none weighs by examples: who claims many would outvote the rest. A
rule sees the updates through `Updates`, a block of coordinates at a time, so that no more than a bounded part of all of
them is ever decoded at once. Rules that only need distances work on the Gram matrix G_ij = q_i . q_j.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from amgt_fed.errors import ConfigError, RoundError

Matrix = NDArray[np.float64]
_TOLERANCE = 1e-10  # of the geometric median's weights
_MAX_ITERATIONS = 1000
_FARTHEST = 1e4


class Updates(Protocol):
    """All updates of a round, shape (count, size)."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def size(self) -> int:
        """Coordinates of each."""

    def blocks(self) -> Iterator[tuple[slice, Matrix]]:
        """Consecutive ranges of coordinates with their columns, shape (count, length)."""


@dataclass(frozen=True, slots=True)
class Combined:
    """What a rule made of the updates.

    Attributes:
        vector: shape (size,).
        weights: beta, shape (count,), where vector = sum_i beta_i q_i; None for rules that go by coordinate.
    """

    vector: Matrix
    weights: Matrix | None


class Rule(ABC):
    """One way to aggregate."""

    fewest: int = 1
    """Updates without which there is no result."""

    @abstractmethod
    def combine(self, updates: Updates) -> Combined:
        """Aggregate.

        Raises:
            RoundError: fewer than `fewest` updates.
        """

    def _check(self, count: int) -> None:
        if count < self.fewest:
            raise RoundError(f"{count} updates came, and {self!r} needs {self.fewest}")


class _ByCoordinate(Rule):
    def combine(self, updates: Updates) -> Combined:
        self._check(updates.count)
        vector = np.empty(updates.size)
        for where, block in updates.blocks():
            vector[where] = self.of(block)
        return Combined(vector, None)

    @abstractmethod
    def of(self, block: Matrix) -> Matrix:
        """The result for these coordinates, from shape (count, length) to (length,)."""


@dataclass(frozen=True)
class Median(_ByCoordinate):
    """The median of each coordinate. Source: Yin et al. 2018 (arXiv 1803.01498), Option I."""

    def of(self, block: Matrix) -> Matrix:
        """See `_ByCoordinate`."""
        return np.asarray(np.median(block, axis=0), np.float64)


@dataclass(frozen=True)
class TrimmedMean(_ByCoordinate):
    """The mean of each coordinate without its largest and smallest values. Source: Yin et al. 2018, Option II.

    Attributes:
        fraction: of the clients, cut off at either end, rounded up; at least one value stays.
    """

    fraction: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 0.5:
            raise ConfigError(f"fraction = {self.fraction!r} of trimmed_mean must be above 0 and below 0.5")

    def of(self, block: Matrix) -> Matrix:
        """See `_ByCoordinate`."""
        count = len(block)
        cut = min(math.ceil(self.fraction * count - 1e-9), (count - 1) // 2)
        ordered = np.sort(block, axis=0)
        return np.asarray(ordered[cut : count - cut].mean(axis=0), np.float64)


class _ByWeights(Rule):
    def combine(self, updates: Updates) -> Combined:
        self._check(updates.count)
        weights = self.weights(gram(updates))
        return Combined(weighted_sum(updates, weights), weights)

    @abstractmethod
    def weights(self, products: Matrix) -> Matrix:
        """The weights beta, from the Gram matrix, shape (count, count)."""


@dataclass(frozen=True)
class ClippedMean(_ByWeights):
    """The mean after every update longer than the round's median norm has been shortened to it."""

    def weights(self, products: Matrix) -> Matrix:
        """See `_ByWeights`."""
        norms = np.sqrt(np.maximum(np.diag(products), 0.0))
        bound = float(np.median(norms))
        return np.asarray(np.minimum(1.0, bound / np.maximum(norms, 1e-300)) / len(norms), np.float64)


@dataclass(frozen=True)
class Krum(_ByWeights):
    """The mean of the updates that are nearest to their nearest others.

    An update's score is the sum of its squared distances to the count - malicious - 2 nearest others. Source: Blanchard
    et al. 2017 (arXiv 1703.02757), Krum (`keep` = 1) and Multi-Krum.

    Attributes:
        malicious: hostile clients in a round that it is to bear; it needs 2 malicious + 3 updates.
        keep: updates in the mean; 0: count - malicious - 2.
    """

    malicious: int = 1
    keep: int = 0

    def __post_init__(self) -> None:
        if not (isinstance(self.malicious, int) and self.malicious >= 1):
            raise ConfigError(f"malicious = {self.malicious!r} of krum must be a whole number, at least 1")
        if not (isinstance(self.keep, int) and self.keep >= 0):
            raise ConfigError(f"keep = {self.keep!r} of multi_krum must be a whole number, at least 1")

    @property
    def fewest(self) -> int:  # type: ignore[override]
        """See `Rule`."""
        return max(2 * self.malicious + 3, self.keep)

    def weights(self, products: Matrix) -> Matrix:
        """See `_ByWeights`."""
        count = len(products)
        squares = np.diag(products)
        distances = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)
        np.fill_diagonal(distances, np.inf)
        near = count - self.malicious - 2
        scores = np.sort(distances, axis=1)[:, :near].sum(axis=1)
        kept = np.argsort(scores, kind="stable")[: self.keep or near]
        found = np.zeros(count)
        found[kept] = 1.0 / len(kept)
        return found


@dataclass(frozen=True)
class GeometricMedian(_ByWeights):
    """The point with the least sum of distances to the updates, by smoothed Weiszfeld steps.

    It lies in their convex hull, so the steps only need its weights there and the Gram matrix. Source: Pillutla et al.
    2022 (arXiv 1912.13445), Algorithm 2.

    Attributes:
        smoothing: distances below this share of the median norm count as so much.
    """

    smoothing: float = 1e-6

    def weights(self, products: Matrix) -> Matrix:
        """See `_ByWeights`."""
        count = len(products)
        # An update 10^4 times as long as the median one pulls the same way from there as from farther off, and its
        # square would drown those of the others.
        norms = np.sqrt(np.maximum(np.diag(products), 0.0))
        bound = _FARTHEST * float(np.median(norms))
        shrunk = np.minimum(1.0, bound / np.maximum(norms, 1e-300)) if bound > 0 else np.ones(count)
        products = products * shrunk[:, None] * shrunk[None, :]
        squares = np.diag(products)
        floor = self.smoothing * math.sqrt(max(float(np.median(squares)), 0.0))
        found = np.full(count, 1.0 / count)
        for _ in range(_MAX_ITERATIONS):
            toward = products @ found
            apart = np.sqrt(np.maximum(squares - 2 * toward + found @ toward, 0.0))
            pulls = 1.0 / np.maximum(apart, max(floor, 1e-300))
            following = pulls / pulls.sum()
            if np.abs(following - found).max() <= _TOLERANCE:
                break
            found = following
        return np.asarray(found * shrunk, np.float64)


RULES: dict[str, Callable[..., Rule]] = {
    "clipped_mean": ClippedMean,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": lambda malicious=1: Krum(malicious, keep=1),
    "multi_krum": Krum,
    "geometric_median": GeometricMedian,
}


def gram(updates: Updates) -> Matrix:
    """G_ij = q_i . q_j, shape (count, count), summed in float64."""
    total = np.zeros((updates.count, updates.count))
    for _, block in updates.blocks():
        total += block @ block.T
    return total


def weighted_sum(updates: Updates, weights: Matrix) -> Matrix:
    """sum_i beta_i q_i, shape (size,); what has no weight is not touched, so that its infinities do no harm."""
    vector = np.zeros(updates.size)
    used = np.flatnonzero(weights)
    for where, block in updates.blocks():
        for index in used:
            vector[where] += weights[index] * block[index]
    return vector
