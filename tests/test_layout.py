"""A layout is names, shapes and offsets without gaps, known by a digest that any change changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amgt_fed.errors import ConfigError
from amgt_fed.layout import DIGEST_BYTES, Layout, Segment, vector_digest

shapes = st.dictionaries(
    st.text("abc.", min_size=1, max_size=6), st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=5
)


@given(shapes=shapes)
@settings(max_examples=60, deadline=None)
def test_segments_cover_the_vector_once_and_views_write_through(shapes: dict[str, list[int]]) -> None:
    layout = Layout.from_shapes(shapes)
    assert layout.size == sum(int(np.prod(shape)) for shape in shapes.values())
    vector = np.zeros(layout.size, np.float32)
    for index, (segment, view) in enumerate(layout.views(vector), start=1):
        assert view.size == segment.size
        view[:] += index
    expected = np.concatenate([np.full(int(np.prod(s)), i) for i, s in enumerate(shapes.values(), start=1)])
    assert vector.tolist() == expected.tolist()


@given(one=shapes, two=shapes)
@settings(max_examples=60, deadline=None)
def test_equal_digests_mean_equal_names_and_shapes_in_equal_order(
    one: dict[str, list[int]], two: dict[str, list[int]]
) -> None:
    first, second = Layout.from_shapes(one), Layout.from_shapes(two)
    assert len(first.digest) == DIGEST_BYTES
    assert (first.digest == second.digest) == (list(one.items()) == list(two.items()))


@pytest.mark.parametrize(
    ("segments", "named"),
    [
        ((Segment("a", (2,), 0), Segment("a", (2,), 2)), "'a' appears twice"),
        ((Segment("a", (2,), 0), Segment("b", (2,), 3)), "'b' starts at 3; expected 2"),
        ((Segment("a", (2,), 0), Segment("b", (2,), 1)), "'b' starts at 1; expected 2"),
        ((Segment("a", (-1,), 0),), "dimensions must be >= 0"),
    ],
)
def test_a_layout_with_gaps_overlaps_or_doubles_is_refused(segments: tuple[Segment, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Layout(segments)


def test_one_bit_changes_a_vectors_digest_and_memory_order_does_not() -> None:
    vector = np.linspace(-1, 1, 100).astype(np.float32)
    other = vector.copy()
    other.view(np.uint32)[7] ^= 1
    assert vector_digest(vector) != vector_digest(other)
    spread = np.zeros(200, np.float32)
    spread[::2] = vector
    assert vector_digest(spread[::2]) == vector_digest(vector) == vector_digest(vector.astype(">f4"))
    assert vector_digest(np.array([0.0], np.float32)) != vector_digest(np.array([-0.0], np.float32))
