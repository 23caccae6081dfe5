"""Budgets that a run sets itself, and those of single links, in whole runs."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import Context, Message

from amgt_fed.errors import ConfigError
from amgt_fed.flower.records import unpack
from amgt_fed.tasks import FlatModel, TaskSettings
from amgt_fed.wire import decode_update
from clients.app import app
from clients.nodes import hosted_nodes
from tests.helpers.tiny_task import Tiny

LAYOUT = FlatModel(Tiny(TaskSettings()).model()).layout


class Sizes:
    """Clients that note the size of every payload they send."""

    def __init__(self, own: str = "") -> None:
        self.found: dict[int, list[int]] = {}
        self.own = own

    def __call__(self, message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        if self.own and client == 3:
            context.node_config["uplink-budget"] = self.own
        answer = app(message, context)
        update = decode_update(unpack(answer.content), LAYOUT)
        self.found.setdefault(client, []).append(len(update.payload))  # type: ignore[union-attr]
        return answer


@pytest.mark.parametrize(("budget", "c"), [("auto=0.9", 0.9), ("auto", None)])
def test_auto_starts_small_and_keeps_delta_within_its_schedule(world: Any, budget: str, c: float | None) -> None:
    world.run(**{"codec.uplink_budget": budget, "codec.downlink_budget": "auto", "rounds": 12})
    rounds = world.directory.rounds()
    c = c or 3 * rounds[0].delta
    for record in rounds:
        assert record.delta_budget == pytest.approx(c / record.round)
        assert record.delta <= record.delta_budget * (1 + 1e-9)
        assert record.status != "budget violated"
    if budget == "auto":
        assert rounds[0].uplink_bytes < 0.6 * rounds[-1].uplink_bytes
        assert rounds[-1].residual_norm <= rounds[0].residual_norm / 12 * (1 + 1e-9)


def test_auto_survives_a_restart_bit_for_bit(world: Any, tmp_path: Any) -> None:
    keys = {"codec.uplink_budget": "auto", "codec.downlink_budget": "auto"}
    whole = world.run(**keys, rounds=5)
    world.folder = tmp_path / "other"
    world.run(rounds=2)
    assert world.run(rounds=5, resume=True).model_sha256 == whole.model_sha256


def test_a_users_own_constant_goes_before_that_of_auto(world: Any) -> None:
    world.run(**{"codec.uplink_budget": "auto", "convergence.delta_c": 5.0, "rounds": 2})
    assert [record.delta_budget for record in world.directory.rounds()] == [5.0, 2.5]


def test_the_smaller_of_run_table_and_device_is_sent(world: Any) -> None:
    sizes = Sizes(own="bytes=120")
    world.fates = {("train", client, None): sizes for client in range(4)}
    world.run(**{"codec.uplink_budget": "bytes=400", "codec.link_budgets": "1:bytes=200, 2-3:bytes=900", "rounds": 3})
    assert all(300 < size <= 400 for size in sizes.found[0] + sizes.found[2])
    assert all(100 < size <= 200 for size in sizes.found[1])
    assert all(60 < size <= 120 for size in sizes.found[3])
    assert world.directory.rounds()[-1].delta > 0


def test_a_device_that_says_nonsense_is_refused_before_it_connects(world: Any) -> None:
    with pytest.raises(ConfigError, match="bytes=N or bits=B"):
        hosted_nodes([0], 4, None, None, None, None, None, "nmse=0.5")
    (node,) = hosted_nodes([0], 4, None, None, None, None, None, "bytes=300")
    assert node.node_config["uplink-budget"] == "bytes=300"
