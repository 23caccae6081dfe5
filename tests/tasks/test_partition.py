"""Every example falls to exactly one client, the same one for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amgt_fed.errors import TaskError
from amgt_fed.tasks.partition import partition_by

SCHEMES = ["iid", "dirichlet", "shards"]


@given(
    scheme=st.sampled_from(SCHEMES),
    labels=st.lists(st.integers(0, 5), min_size=40, max_size=200),
    num_clients=st.integers(1, 10),
    min_examples=st.integers(1, 4),
    alpha=st.floats(1e-4, 1e4),
    shards=st.integers(1, 4),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=80, deadline=None)
def test_every_example_falls_to_one_client_and_each_has_its_fewest(
    scheme: str, labels: list[int], num_clients: int, min_examples: int, alpha: float, shards: int, seed: int
) -> None:
    def deal() -> list[np.ndarray]:
        return partition_by(
            scheme,
            np.array(labels),
            num_clients=num_clients,
            alpha=alpha,
            shards_per_client=shards,
            min_examples=min_examples,
            seed=seed,
        )

    parts = deal()
    assert len(parts) == num_clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert min(map(len, parts)) >= min_examples
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert all(np.array_equal(one, two) for one, two in zip(parts, deal(), strict=True))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_seed_deals_another_hand(scheme: str) -> None:
    labels = np.repeat(np.arange(10), 30)
    one, two = (partition_by(scheme, labels, num_clients=5, seed=seed) for seed in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_small_alpha_skews_and_a_large_one_does_not() -> None:
    labels = np.repeat(np.arange(10), 100)

    def skew(alpha: float) -> float:
        parts = partition_by("dirichlet", labels, num_clients=10, alpha=alpha, seed=3)
        shares = [np.bincount(labels[part], minlength=10).max() / len(part) for part in parts]
        return float(np.mean(shares))

    assert skew(100.0) < 0.2 < 0.35 < skew(0.1)


def test_shards_hold_few_labels() -> None:
    labels = np.tile(np.arange(10), 40)
    parts = partition_by("shards", labels, num_clients=20, shards_per_client=2, seed=1)
    assert max(len(np.unique(labels[part])) for part in parts) <= 4  # a shard may straddle two labels
    assert {len(part) for part in parts} == {20}


def test_labels_need_not_be_numbers() -> None:
    labels = np.array(["cat", "dog", "eel"] * 20)
    for scheme in SCHEMES:
        parts = partition_by(scheme, labels, num_clients=4, seed=0)
        assert sorted(np.concatenate(parts).tolist()) == list(range(60))


def test_too_few_examples_name_the_numbers_and_the_fix() -> None:
    with pytest.raises(TaskError, match=r"30 examples cannot give 10 clients at least 4 each.*num_clients to 7"):
        partition_by("iid", np.zeros(30), num_clients=10, min_examples=4)
    with pytest.raises(TaskError, match="make no 40 shards"):
        partition_by("shards", np.zeros(30), num_clients=10, shards_per_client=4)


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(TaskError, match="'random'; use dirichlet, iid, shards or natural"):
        partition_by("random", np.zeros(30), num_clients=2)
