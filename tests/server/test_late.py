"""Rounds that do not wait for the slow, and what becomes of their updates."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flwr.app import Context, Message

from amgt_fed.config import from_flat
from amgt_fed.errors import ConfigError
from amgt_fed.setup import build
from server.late import discount
from tests.helpers.used_once import UsedOnce


@pytest.fixture
def watched(world: Any, monkeypatch: pytest.MonkeyPatch) -> UsedOnce:
    found = UsedOnce()
    found.watch(monkeypatch, "server.rounds")
    world.fates = {("train", client, None): found.client for client in range(4)}
    return found


def slow(watched: UsedOnce, seconds: float) -> Any:
    def fate(message: Message, context: Context) -> Message:
        time.sleep(seconds)
        return watched.client(message, context)

    return fate


def test_over_selection_goes_on_with_the_first(world: Any, watched: UsedOnce) -> None:
    world.fates[("train", 3, 1)] = slow(watched, 1.0)
    world.fates[("train", 3, 2)] = slow(watched, 1.0)
    summary = world.run(**{"federation.clients_per_round": 3, "federation.over_selection": 1.3, "rounds": 3})
    rounds = world.directory.rounds()
    assert [record.num_clients for record in rounds] == [3, 3, 3]
    assert rounds[0].surplus == 1
    assert rounds[0].seconds < 0.9
    assert summary.failures == 0
    assert sum(kind == "train" and round == 1 for kind, _, round in world.calls) == 4


def test_a_late_update_is_used_once_discounted_and_told(world: Any, watched: UsedOnce) -> None:
    world.fates[("train", 2, 1)] = slow(watched, 0.8)
    keys = {"federation.deadline_s": 0.5, "federation.max_staleness": 4, "federation.quorum": 0.5}
    for client in (0, 1, 3):
        for round in (2, 3, 4):  # so that the run lasts until the late one is in
            world.fates[("train", client, round)] = slow(watched, 0.15)
    world.run(**keys, rounds=6)
    rounds = world.directory.rounds()
    assert rounds[0].failures == 1
    assert sum(record.late for record in rounds) == 1
    (late,) = [steps for steps in watched.steps if any(steps.values())]
    assert late[2] >= 1
    assert len(set(watched.used)) == len(watched.used)
    asked = [round for kind, client, round in world.calls if (kind, client) == ("train", 2)]
    used_in = watched.steps.index(late) + 1
    assert not set(asked) & set(range(2, used_in + 1)), "while it owes an update it is left alone"
    assert rounds[-1].num_clients == 4


def test_an_update_that_comes_too_late_is_counted_and_not_used(world: Any, watched: UsedOnce) -> None:
    world.fates[("train", 2, 1)] = slow(watched, 1.2)
    keys = {"federation.deadline_s": 0.3, "federation.max_staleness": 1, "federation.quorum": 0.5}
    summary = world.run(**keys, rounds=5)
    assert (2, 1) not in watched.used
    assert sum(record.late for record in world.directory.rounds()) == 0
    assert summary.failures >= 2  # missed its round, and missed the last in which it could have been used


def test_who_owes_an_update_is_asked_where_nobody_else_is_left(world: Any, watched: UsedOnce) -> None:
    def slow_once(message: Message, context: Context) -> Message:
        world.fates[("train", 2, 1)] = watched.client
        return slow(watched, 0.7)(message, context)

    world.fates[("train", 2, 1)] = slow_once
    keys = {"federation.deadline_s": 0.4, "federation.max_staleness": 9, "federation.quorum": 1.0}
    world.run(**keys, **{"federation.retries": 3, "rounds": 2})
    assert len(set(watched.used)) == len(watched.used)
    assert [len(steps) for steps in watched.steps] == [4, 4]


@pytest.mark.parametrize(("s", "a", "weight"), [(0, 0.5, 1.0), (3, 0.5, 0.5), (1, 0.0, 1.0), (1, 2.0, 0.25)])
def test_the_discount_falls_with_the_staleness(s: int, a: float, weight: float) -> None:
    assert discount(s, a) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"client.scaffold": True, "client.optimizer": "sgd", "federation.max_staleness": 1}, "scaffold"),
        ({"client.scaffold": True, "client.optimizer": "sgd", "federation.mode": "async"}, "scaffold"),
        ({"federation.mode": "async", "federation.over_selection": 1.5}, "over_selection"),
        ({"federation.mode": "async", "codec.uplink": "subspace", "codec.downlink": "subspace"}, "subspace"),
    ],
)
def test_what_late_updates_cannot_go_with_is_refused_by_name(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(from_flat(keys))


def test_a_buffer_larger_than_the_federation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"federation\.buffer_size is 21.*20 clients"):
        from_flat({"federation.buffer_size": 21})
