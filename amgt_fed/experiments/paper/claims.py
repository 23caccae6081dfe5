"""A claim of the paper beside what was computed, and the parts a section of the reproduction is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Cell: TypeAlias = str | int | float


class Verdict(StrEnum):
    """What the computation says about a claim."""

    HOLDS = "holds"
    CORRECTED = "holds with a correction"
    FAILS = "does not hold"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of the paper.

    Attributes:
        key: short name, unique, stable between versions.
        claim: the claim in a line.
        where: equation, table or section of the paper.
        paper: the value or statement printed there.
        ours: what was computed.
        verdict: see `judge`.
        why: one or two sentences, with the numbers that decided.
    """

    key: str
    claim: str
    where: str
    paper: str
    ours: str
    verdict: Verdict
    why: str


def judge(*, as_printed: bool, corrected: bool = False) -> Verdict:
    """Turn two computed truth values into a verdict.

    Args:
        as_printed: the claim passed its test exactly as the paper states it.
        corrected: it passed with the correction that its `why` names.
    """
    if as_printed:
        return Verdict.HOLDS
    return Verdict.CORRECTED if corrected else Verdict.FAILS


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns, with a line on how to read them."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), f"ragged table {self.key}"


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a figure. `dashed` marks theory, a solid line what was run."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at `x`, named in the legend."""

    label: str
    x: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot as data: drawn by `plots`, written to paper.json as numbers."""

    key: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    caption: str
    log_x: bool = True
    log_y: bool = True
    marks: tuple[Mark, ...] = ()
    y_limits: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the paper, checked."""

    title: str
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True)
class Effort:
    """How far the long computations go. `quick` is for tests and a first look; the verdicts are the same.

    Attributes:
        rate_rounds: rounds of the convergence-rate runs.
        net_steps: full-gradient steps on the small net.
        epochs: epochs on digits per optimizer, rate and seed.
        seeds: of the digits runs.
        rates: learning rates tried per optimizer.
        cycles: of Reddi's counterexample, 101 steps each.
    """

    rate_rounds: int = 10_000
    net_steps: int = 600
    epochs: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = field(default=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0))
    cycles: int = 200

    @classmethod
    def quick(cls) -> Effort:
        """The same claims within seconds."""
        return cls(rate_rounds=1500, net_steps=200, epochs=3, seeds=(0,), rates=(1e-3, 1e-2, 1e-1, 1.0))


def thinned(values: Sequence[float] | NDArray[np.float64], positions: Sequence[int]) -> tuple[float, ...]:
    """The values at these positions, as plain floats."""
    return tuple(float(values[position]) for position in positions)


def log_spaced(count: int, points: int = 160) -> list[int]:
    """Positions 0 .. count - 1, thinned to about `points`, evenly in the logarithm of position + 1."""
    picked = {round((count) ** (i / (points - 1))) - 1 for i in range(points)}
    return sorted(position for position in picked if 0 <= position < count)
