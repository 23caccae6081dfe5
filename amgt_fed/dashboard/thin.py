"""Fewer points for the screen, with every peak and trough kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def thin(values: NDArray[np.float64], points: int) -> NDArray[np.int64]:
    """Indices of at most about `points` values whose line looks like the line through all of them.

    The first and the last stay; between them, half of the buckets are of equal width and half are equally wide on a log
    axis (early rounds move most, and charts here are often logarithmic); each gives its smallest and its largest value.
    NaN is passed over.

    Args:
        values: (n,), in order.
        points: at least 8.

    Returns:
        Increasing indices into `values`; those of the finite values alone.
    """
    known = np.flatnonzero(np.isfinite(values))
    count = len(known)
    if count <= points:
        return known
    buckets = max(points // 4, 1)
    even = np.linspace(0, count, buckets + 1).astype(np.int64)
    early = np.geomspace(1, count, buckets + 1).astype(np.int64)
    edges = np.unique(np.concatenate([even, early]))
    kept = {0, count - 1}
    shown = values[known]
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        piece = shown[start:end]
        kept.update((start + int(piece.argmin()), start + int(piece.argmax())))
    return known[sorted(kept)]
