"""The search ends at the best rate of its neighbourhood, wherever that lies, and tries no point twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amgt_fed.compare.rates import REACH, Grid, Point, Score, best_point, parse_factors
from amgt_fed.errors import ConfigError


def searched(grid: Grid, top: Point, *, server: bool, diverges_from: int = 1000) -> dict[Point, Score]:
    """Run the search on a hill with its top at `top`; larger local rates than `diverges_from` have no score."""
    scores: dict[Point, Score] = {}
    while points := grid.next_points(scores, server=server):
        assert not set(points) & scores.keys()
        for i, j in points:
            scores[i, j] = None if i >= diverges_from else (-abs(i - top[0]) - abs(j - top[1]) * server, 0.0)
    return scores


@given(top=st.integers(-REACH, 2 + REACH))
def test_the_best_local_rate_is_found_however_far_from_the_start(top: int) -> None:
    grid = Grid()
    scores = searched(grid, (top, 1), server=False)
    assert best_point(scores) == (top, 1)
    assert grid.is_at_edge(scores, server=False) == (top in (-REACH, 2 + REACH))
    assert {j for _, j in scores} == {1}


@given(top=st.tuples(st.integers(-4, 6), st.integers(-4, 6)))
def test_with_a_server_rate_both_are_found(top: Point) -> None:
    scores = searched(Grid(), top, server=True)
    assert best_point(scores) == top
    assert not Grid().is_at_edge(scores, server=True)


def test_rates_that_diverge_are_never_chosen_and_the_search_goes_down_from_them() -> None:
    scores = searched(Grid(), (5, 1), server=False, diverges_from=-2)
    assert best_point(scores) == (-3, 1)


def test_an_edge_is_told_when_everything_diverges() -> None:
    grid = Grid()
    scores = searched(grid, (0, 1), server=False, diverges_from=-100)
    assert grid.is_at_edge(scores, server=False)


def test_beyond_its_ends_the_grid_goes_on_by_the_last_ratio() -> None:
    grid = Grid((0.1, 1.0, 3.0))
    assert [grid.factor(i) for i in range(-2, 6)] == pytest.approx([0.001, 0.01, 0.1, 1.0, 3.0, 9.0, 27.0, 81.0])
    assert grid.start == 1


@pytest.mark.parametrize("text", ["", "1", "a,b", "2,1", "0,1", "1,inf", "1,1", "-1,1"])
def test_factors_that_are_no_grid_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="rate factors"):
        parse_factors(text)
