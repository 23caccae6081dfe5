"""The robust rules against their definitions, and what a minority of hostile clients can do to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import trim_mean

from amgt_fed.codec import get_codec
from amgt_fed.errors import ConfigError, RoundError
from amgt_fed.federated.messages import ClientUpdate
from amgt_fed.federated.robust import (
    RULES,
    ClippedMean,
    GeometricMedian,
    Krum,
    Median,
    Rule,
    TrimmedMean,
)
from amgt_fed.federated.robust_gather import RobustGathering
from amgt_fed.layout import Layout

Matrix = NDArray[np.float64]
LAYOUT = Layout.from_shapes({"weight": (6, 5), "bias": (7,)})
DENSE = get_codec("dense")
ALL: dict[str, Rule] = {
    "clipped_mean": ClippedMean(),
    "median": Median(),
    "trimmed_mean": TrimmedMean(0.25),
    "krum": Krum(2, keep=1),
    "multi_krum": Krum(2),
    "geometric_median": GeometricMedian(),
}


@dataclass
class Whole:
    """`robust.Updates` of a matrix, `length` coordinates at a time."""

    matrix: Matrix
    length: int

    @property
    def count(self) -> int:
        return len(self.matrix)

    @property
    def size(self) -> int:
        return self.matrix.shape[1]

    def blocks(self) -> Iterator[tuple[slice, Matrix]]:
        for start in range(0, self.size, self.length):
            where = slice(start, min(start + self.length, self.size))
            yield where, self.matrix[:, where]


def drawn(seed: int, count: int, size: int) -> Matrix:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(size) + 0.5 * rng.standard_normal((count, size))


def krum_by_the_book(matrix: Matrix, malicious: int, keep: int) -> Matrix:
    """Blanchard et al. 2017, section 4, with a loop for every sum."""
    count = len(matrix)
    scores = []
    for i in range(count):
        apart = sorted(float(np.sum((matrix[i] - matrix[j]) ** 2)) for j in range(count) if j != i)
        scores.append(sum(apart[: count - malicious - 2]))
    best = sorted(range(count), key=lambda i: scores[i])[:keep]
    return np.asarray(np.mean([matrix[i] for i in best], axis=0))


@given(seed=st.integers(0, 10**6), count=st.integers(7, 14), size=st.integers(1, 40), length=st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_every_rule_equals_its_definition(seed: int, count: int, size: int, length: int) -> None:
    matrix = drawn(seed, count, size)
    found = {name: rule.combine(Whole(matrix, length)) for name, rule in ALL.items()}
    norms = np.linalg.norm(matrix, axis=1)
    shrunk = matrix * np.minimum(1.0, np.median(norms) / norms)[:, None]
    right = {
        "clipped_mean": shrunk.mean(axis=0),
        "median": np.median(matrix, axis=0),
        "krum": krum_by_the_book(matrix, 2, 1),
        "multi_krum": krum_by_the_book(matrix, 2, count - 4),
    }
    cut = math.ceil(0.25 * count)
    right["trimmed_mean"] = trim_mean(matrix, (cut + 1e-9) / count, axis=0)
    for name, vector in right.items():
        np.testing.assert_allclose(found[name].vector, vector, rtol=1e-9, atol=1e-9, err_msg=name)
    for name, combined in found.items():
        if combined.weights is not None:
            assert (combined.weights >= 0).all(), name
            np.testing.assert_allclose(combined.weights @ matrix, combined.vector, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 10**6), count=st.integers(3, 9), size=st.integers(2, 6))
@settings(max_examples=25, deadline=None)
def test_the_geometric_median_has_the_least_sum_of_distances(seed: int, count: int, size: int) -> None:
    matrix = drawn(seed, count, size)

    def total(point: Matrix) -> float:
        return float(np.linalg.norm(matrix - point, axis=1).sum())

    found = total(GeometricMedian().combine(Whole(matrix, 3)).vector)
    best = min(
        float(minimize(total, start, method="Nelder-Mead", options={"maxiter": 4000}).fun) for start in matrix[:2]
    )
    assert found <= best * (1 + 1e-5)


@pytest.mark.parametrize("name", [name for name in ALL if name != "clipped_mean"])
@pytest.mark.parametrize("attack", [-1.0, -100.0, 100.0, 1e12, math.inf])
def test_a_minority_however_hostile_moves_the_result_no_further_than_the_honest_lie_apart(
    name: str, attack: float
) -> None:
    matrix = drawn(3, 12, 30)
    honest = matrix[:10].copy()
    matrix[10:] *= min(attack, 1e30)
    found = ALL[name].combine(Whole(matrix, 11)).vector
    middle = honest.mean(axis=0)
    spread = float(np.linalg.norm(honest - middle, axis=1).max())
    assert np.linalg.norm(found - middle) <= spread


def test_clipping_to_the_median_norm_leaves_a_hundredfold_update_its_direction_only() -> None:
    matrix = drawn(3, 12, 30)
    clean = ClippedMean().combine(Whole(matrix, 11)).vector
    matrix[10:] *= 100.0
    found = ClippedMean().combine(Whole(matrix, 11)).vector
    bound = float(np.median(np.linalg.norm(matrix, axis=1)))
    assert np.linalg.norm(found - clean) <= 2 * 2 / 12 * bound


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TrimmedMean(0.5), r"fraction = 0\.5"),
        (lambda: TrimmedMean(0.0), r"fraction = 0\.0"),
        (lambda: Krum(0), "malicious = 0"),
        (lambda: Krum(1.5), r"malicious = 1\.5"),  # type: ignore[arg-type]
        (lambda: RULES["multi_krum"](malicious=2, keep=-1), "keep = -1"),
    ],
)
def test_parameters_out_of_range_are_named(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def update(vector: NDArray[np.float32], **changes: Any) -> ClientUpdate:
    norm = float(np.linalg.norm(vector))
    made = ClientUpdate(1, DENSE.encode(vector, LAYOUT).payload, 10, 0.0, norm, 0.0, 1.0, {"accuracy": 0.5})
    return replace(made, **changes)


def gathered(matrix: Matrix, rule: Rule, **more: Any) -> RobustGathering:
    gathering = RobustGathering(LAYOUT, range(len(matrix)), rule, **more)
    for client in reversed(range(len(matrix))):
        gathering.add(client, update(matrix[client].astype(np.float32)))
    return gathering


@pytest.mark.parametrize("rule", ALL.values(), ids=ALL)
def test_the_room_changes_no_bit_that_matters_and_bounds_what_is_decoded(rule: Rule) -> None:
    matrix = drawn(5, 9, LAYOUT.size)
    found = [gathered(matrix, rule, room_bytes=room).aggregate() for room in (0, 1 << 27)]
    np.testing.assert_allclose(found[0].mean, found[1].mean, rtol=1e-6, atol=1e-7)
    right = rule.combine(Whole(matrix.astype(np.float32).astype(np.float64), 100)).vector
    np.testing.assert_allclose(found[1].mean, right, rtol=1e-6, atol=1e-7)
    assert found[0].participants == tuple(range(9))
    assert found[0].num_examples == 90


@pytest.mark.parametrize("rule", ALL.values(), ids=ALL)
def test_delta_bounds_what_the_rule_lost_of_the_true_updates(rule: Rule) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        true = drawn(int(rng.integers(10**6)), 9, LAYOUT.size).astype(np.float32)
        seen = (true + rng.uniform(0, 0.5) * rng.standard_normal(true.shape)).astype(np.float32)
        gathering = RobustGathering(LAYOUT, range(9), rule)
        for client in range(9):
            facts = {
                "update_l2": float(np.linalg.norm(true[client])),
                "deviation_l2": float(np.linalg.norm(seen[client] - true[client])),
            }
            gathering.add(client, update(seen[client], **facts))
        found = gathering.aggregate()
        combined = rule.combine(Whole(seen.astype(np.float64), 100))
        if combined.weights is None:  # the same rule of the true updates
            lost = np.linalg.norm(found.mean - rule.combine(Whole(true.astype(np.float64), 100)).vector)
        else:  # the same weights of them
            lost = np.linalg.norm(found.mean - combined.weights @ true.astype(np.float64))
        assert lost <= found.delta + 1e-5


def test_who_lies_about_loss_metrics_or_examples_moves_none_of_them() -> None:
    matrix = drawn(1, 9, LAYOUT.size)
    gathering = RobustGathering(LAYOUT, range(9), Median(), max_examples=50)
    for client in range(7):
        gathering.add(client, update(matrix[client].astype(np.float32)))
    gathering.add(7, update(matrix[7].astype(np.float32), loss=1e99, metrics={"accuracy": -1e99}))
    with pytest.raises(RoundError, match="client 8 claims 51 examples; 1 to 50"):
        gathering.add(8, update(matrix[8].astype(np.float32), num_examples=51))
    found = gathering.aggregate()
    assert (found.loss, dict(found.metrics)) == (1.0, {"accuracy": 0.5})


@pytest.mark.parametrize("deviation", [0.0, 50.0])
def test_an_error_that_cannot_be_is_refused_and_attributed(deviation: float) -> None:
    matrix = drawn(1, 5, LAYOUT.size).astype(np.float32)
    gathering = RobustGathering(LAYOUT, range(5), Median())
    for client in range(4):
        gathering.add(client, update(matrix[client]))
    half = float(np.linalg.norm(matrix[4])) / 2
    gathering.add(4, update(matrix[4], update_l2=half, deviation_l2=deviation))
    assert "client 4 claims an error of" in str(gathering.rejected[4])
    assert gathering.aggregate().participants == (0, 1, 2, 3)


def test_scaled_and_flipped_updates_are_named_and_honest_ones_are_not() -> None:
    matrix = drawn(4, 12, LAYOUT.size)
    assert gathered(matrix, GeometricMedian()).aggregate().outliers == {}
    matrix[3] *= 100
    matrix[8] *= -1
    found = gathered(matrix, GeometricMedian()).aggregate().outliers
    assert set(found) == {3, 8}
    assert "times as far from the rest" in found[3]
    assert "points away from the rest" in found[8] or "times as far" in found[8]


def test_krum_says_how_many_updates_it_needs() -> None:
    gathering = gathered(drawn(1, 6, LAYOUT.size), Krum(2))
    assert gathering.fewest == 7
    with pytest.raises(RoundError, match=r"6 updates came, and Krum.* needs 7"):
        gathering.aggregate()


def test_late_updates_count_discounted_and_clipped_ones_shortened() -> None:
    matrix = drawn(6, 5, LAYOUT.size).astype(np.float32)
    gathering = RobustGathering(LAYOUT, range(4), Median(), clip_norm=0.5)
    for client in range(4):
        gathering.add(client, update(matrix[client]))
    gathering.add_late(9, update(matrix[4]), 0.5)
    found = gathering.aggregate()
    assert found.rounds == {9: 1}
    assert found.norms == pytest.approx({0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5, 9: 0.25})
