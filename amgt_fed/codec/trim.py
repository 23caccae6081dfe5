"""Spending a budget to the last survivor: those that save least error per bit are dropped first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec.quantize import GRID
from amgt_fed.codec.search import Point

# Survivors below so many thresholds are looked at, more of them if that was not enough; all of them are on level 1.
_REACHES = (1.015, 1.03, 1.06, 1.1)
_SPENT = 5e-4  # of the budget may be left


def trim_to_error(point: Point, max_distortion: float) -> Point:
    """Drop survivors while the squared error allows."""
    for reach in _REACHES:
        room = max_distortion - point.distortion
        if room < _SPENT * max_distortion:
            break

        def count_of(added: NDArray[np.float64], saved: NDArray[np.float64], room: float = room) -> int:
            return int(np.searchsorted(np.cumsum(added), room, "right"))

        point, all_of_them = _drop(point, reach, count_of)
        if not all_of_them:
            break
    return point


def trim_to_bits(point: Point, max_bits: float) -> Point:
    """Drop survivors until the bits fit; gives what was reached if that is not enough."""
    for reach in _REACHES:
        excess = point.bits - max_bits
        if excess <= 0:
            break

        def count_of(added: NDArray[np.float64], saved: NDArray[np.float64], least: float = excess) -> int:
            return int(np.searchsorted(np.cumsum(saved), least)) + 1

        point, _ = _drop(point, reach, count_of)
    return point


def _drop(
    point: Point, reach: float, count_of: Callable[[NDArray[np.float64], NDArray[np.float64]], int]
) -> tuple[Point, bool]:
    """Drop as many of the least useful survivors as `count_of(error added, bits saved)` says, both in that order.

    Returns:
        What is left, and whether all that were looked at are gone.
    """
    centroid = 1 + point.shifts.first / GRID
    pools, added, saved = [], [], []
    for candidate in point.candidates:
        values, levels = candidate.selection.values, candidate.quantized.levels
        cap = np.float32(min(reach * float(candidate.selection.threshold), 3e38))
        pool = np.flatnonzero(np.abs(values) < cap)
        pool = pool[np.abs(levels[pool]) == 1]
        scaled = np.abs(values[pool]).astype(np.float64) / point.step
        pools.append(pool)
        added.append(np.maximum(point.step**2 * centroid * (2 * scaled - centroid), 0.0))
        saved.append(np.full(pool.size, candidate.survivor_bits))
    all_added, all_saved = np.concatenate(added), np.concatenate(saved)
    order = np.argsort(all_added / all_saved)
    count = count_of(all_added[order], all_saved[order]) if order.size else 0
    if count <= 0:
        return point, order.size == 0
    dropped = np.zeros(order.size, np.bool_)
    dropped[order[:count]] = True
    candidates, first = [], 0
    for candidate, pool in zip(point.candidates, pools, strict=True):
        gone = pool[dropped[first : first + pool.size]]
        first += pool.size
        if gone.size:
            kept = np.ones(candidate.indices.size, np.bool_)
            kept[gone] = False
            candidate = candidate.keeping(kept)
        candidates.append(candidate)
    return Point(point.log_lambda, point.step, tuple(candidates)), count >= order.size
