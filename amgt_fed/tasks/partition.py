"""How examples fall to clients: iid, Dirichlet label skew, label shards. Pure; the seed decides everything."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.errors import TaskError

_ATTEMPTS = 1000


def partition_by(
    scheme: str,
    labels: NDArray[Any],
    *,
    num_clients: int,
    alpha: float = 0.5,
    shards_per_client: int = 2,
    min_examples: int = 1,
    seed: int = 0,
) -> list[NDArray[np.int64]]:
    """Give every example to exactly one client.

    Args:
        scheme: "iid", "dirichlet" or "shards".
        labels: (num_examples,), integers or any sortable values.
        alpha: Dirichlet concentration; smaller is more skewed.
        shards_per_client: label shards each client gets.
        min_examples: fewest examples a client may hold.

    Returns:
        One sorted index array per client; together a permutation of range(num_examples).

    Raises:
        TaskError: an unknown scheme, or too few examples for the clients.
    """
    size = len(labels)
    if num_clients * min_examples > size:
        raise TaskError(
            f"{size} examples cannot give {num_clients} clients at least {min_examples} each; "
            f"lower partition.num_clients to {max(size // min_examples, 1)} or lower partition.min_examples"
        )
    rng = np.random.default_rng([seed, 0x5041])
    if scheme == "iid":
        return [np.sort(part) for part in np.array_split(rng.permutation(size), num_clients)]
    if scheme == "shards":
        return _level(_shards(labels, num_clients, shards_per_client, rng), min_examples, rng)
    if scheme == "dirichlet":
        return _dirichlet(labels, num_clients, alpha, min_examples, rng)
    raise TaskError(f"unknown partition scheme {scheme!r}; use dirichlet, iid, shards or natural")


def _shards(
    labels: NDArray[Any], num_clients: int, per_client: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """McMahan et al. (2017): sort by label, cut into equal shards, deal each client `per_client` of them."""
    count = num_clients * per_client
    if count > len(labels):
        raise TaskError(
            f"{len(labels)} examples make no {count} shards; lower partition.num_clients or partition.shards_per_client"
        )
    # A random order within each label, so that shards of one label do not follow the file's order.
    shuffled = rng.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    shards = np.array_split(by_label, count)
    dealt = rng.permutation(count).reshape(num_clients, per_client)
    return [np.sort(np.concatenate([shards[shard] for shard in hand])) for hand in dealt]


def _dirichlet(
    labels: NDArray[Any], num_clients: int, alpha: float, min_examples: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Hsu et al. (2019): each label's examples are split over clients in Dirichlet(alpha) proportions.

    Draws again until every client has `min_examples`; where that does not happen (small alpha, many clients), the
    richest clients of the last draw give to the poorest.
    """
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    parts: list[NDArray[np.int64]] = []
    for _ in range(_ATTEMPTS if num_clients <= 100 else 10):
        hands: list[list[NDArray[np.int64]]] = [[] for _ in range(num_clients)]
        for members in classes:
            shares = rng.dirichlet(np.full(num_clients, alpha))
            cuts = (np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            for hand, piece in zip(hands, np.split(rng.permutation(members), cuts), strict=True):
                hand.append(piece)
        parts = [np.sort(np.concatenate(hand)) for hand in hands]
        if min(map(len, parts)) >= min_examples:
            return parts
    return _level(parts, min_examples, rng)


def _level(parts: list[NDArray[np.int64]], min_examples: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    parts = list(parts)
    for poor in [client for client, part in enumerate(parts) if len(part) < min_examples]:
        while (lack := min_examples - len(parts[poor])) > 0:
            rich = max(range(len(parts)), key=lambda client: len(parts[client]))
            given = rng.permutation(parts[rich])[: min(lack, len(parts[rich]) - min_examples)]
            parts[rich] = np.setdiff1d(parts[rich], given)
            parts[poor] = np.union1d(parts[poor], given)
    return parts
