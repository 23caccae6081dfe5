"""The search for a method's rates: a row of local rates, widened while the best is at its end, then hill climbing.

A point is (i, j): the local rate is the start's times `factor(i)`, the server rate the start's times `factor(j)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from amgt_fed.errors import ConfigError

Point: TypeAlias = tuple[int, int]
Score: TypeAlias = tuple[float, float] | None
"""(larger is better, decides ties); None for a run that diverged."""

FACTORS = (0.5, 1.0, 2.0)
REACH = 6
"""How far beyond the first row the search may go; past it the best point found so far stands, and is marked."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Factors on the starting rates, increasing; beyond the ends they go on by the ratio of the last two."""

    factors: tuple[float, ...] = FACTORS

    def __post_init__(self) -> None:
        factors = self.factors
        increasing = all(low < high for low, high in pairwise(factors))
        if len(factors) < 2 or not increasing or not all(0 < factor < math.inf for factor in factors):
            raise ConfigError(f"rate factors are {list(factors)}; give two or more numbers > 0, increasing: 0.5,1,2")

    def factor(self, index: int) -> float:
        """The factor at `index`; 0 is the first of `factors`, and any integer has one."""
        factors, last = self.factors, len(self.factors) - 1
        if index < 0:
            return float(factors[0] * (factors[0] / factors[1]) ** -index)
        if index > last:
            return float(factors[last] * (factors[last] / factors[last - 1]) ** (index - last))
        return factors[index]

    @property
    def start(self) -> int:
        """The index of the factor nearest to 1."""
        return min(range(len(self.factors)), key=lambda i: abs(math.log(self.factors[i])))

    def is_within_reach(self, point: Point) -> bool:
        """Whether the search may try the point."""
        return all(-REACH <= index <= len(self.factors) - 1 + REACH for index in point)

    def next_points(self, scores: Mapping[Point, Score], *, server: bool) -> list[Point]:
        """What to try next; nothing when the best point's neighbours have all been tried.

        Args:
            scores: of every point tried so far.
            server: whether the server rate is searched for as well.
        """
        row = [(index, self.start) for index in range(len(self.factors))]
        if missing := [point for point in row if point not in scores]:
            return missing
        i, j = best_point(scores)
        around = [(i - 1, j), (i + 1, j), *([(i, j - 1), (i, j + 1)] if server else [])]
        return [point for point in around if point not in scores and self.is_within_reach(point)]

    def is_at_edge(self, scores: Mapping[Point, Score], *, server: bool) -> bool:
        """Whether the best point still has a neighbour that was not tried."""
        i, j = best_point(scores)
        around = [(i - 1, j), (i + 1, j), *([(i, j - 1), (i, j + 1)] if server else [])]
        return any(point not in scores for point in around)


def best_point(scores: Mapping[Point, Score]) -> Point:
    """The point with the largest score; the smallest rates among equals, and where every run diverged."""

    def rank(point: Point) -> tuple[tuple[float, float], int, int]:
        score = scores[point]
        return ((-math.inf, -math.inf) if score is None else score, -point[0], -point[1])

    return max(scores, key=rank)


def parse_factors(text: str | Iterable[float]) -> Grid:
    """Read `0.5,1,2`.

    Raises:
        ConfigError: no numbers, too few, or not increasing.
    """
    try:
        values: Sequence[float] = [float(part) for part in (text.split(",") if isinstance(text, str) else text)]
    except ValueError:
        raise ConfigError(f"rate factors {text!r} are not understood; give numbers with commas, e.g. 0.5,1,2") from None
    return Grid(tuple(values))
