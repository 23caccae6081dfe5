"""Fewer points, the same picture."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from amgt_fed.dashboard.thin import thin


@given(st.lists(st.floats(allow_infinity=True, allow_nan=True), max_size=400), st.integers(8, 60))
def test_ends_extremes_and_order_stay_and_nothing_unknown_does(values: list[float], points: int) -> None:
    found = np.array(values, dtype=np.float64)
    kept = thin(found, points)
    known = np.flatnonzero(np.isfinite(found))
    assert (np.diff(kept) > 0).all()
    assert np.isin(kept, known).all()
    if len(known):
        assert {known[0], known[-1]} <= set(kept.tolist())
        assert found[kept].max() == found[known].max()
        assert found[kept].min() == found[known].min()


def test_a_hundred_thousand_rounds_become_a_screenful_with_the_early_ones() -> None:
    kept = thin(np.random.default_rng(0).normal(size=100_000), 1200)
    assert len(kept) <= 1300
    assert (kept < 100).sum() >= 30
