"""Whole runs with control variates: resumed, with a client that lost its state, and what is refused."""

from __future__ import annotations

import logging
import shutil
from typing import Any

import pytest
from flwr.app import Context, Message

from amgt_fed.config import from_flat
from amgt_fed.errors import ConfigError
from amgt_fed.runs import load_checkpoint
from amgt_fed.setup import build
from clients.app import app

ON = {"client.scaffold": True, "client.optimizer": "sgd", "client.momentum": 0.0}


@pytest.mark.parametrize("keys", [{}, {"codec.downlink": "model"}])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(world: Any, tmp_path: Any, keys: Any) -> None:
    some = {"federation.clients_per_round": 3}
    whole = world.run(**ON, **keys, **some, rounds=6)
    world.folder = tmp_path / "other"
    world.run(rounds=3)
    again = world.run(rounds=6, resume=True)
    assert again.model_sha256 == whole.model_sha256
    assert again.failures == 0
    saved = load_checkpoint(world.directory.checkpoint_path)
    assert saved is not None
    assert saved.state.control is not None
    assert saved.state.control.epoch == 1
    assert saved.state.control.total.any()


def test_a_client_that_lost_its_variate_starts_all_of_them_again(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    def wiped_once(message: Message, context: Context) -> Message:
        world.fates = {}
        shutil.rmtree(world.directory.path / "clients" / "client-00002", ignore_errors=True)
        return app(message, context)

    world.fates = {("train", 2, 4): wiped_once}
    with caplog.at_level(logging.WARNING, "amgt_fed.server"):
        summary = world.run(**ON, rounds=6)
    assert summary.failures == 0
    assert "client 2 holds the control variate of round 0, the server's sum that of 3" in caplog.text
    assert caplog.text.count("start again from zero") == 1
    assert [record.num_clients for record in world.directory.rounds()] == [4] * 6
    saved = load_checkpoint(world.directory.checkpoint_path)
    assert saved is not None
    assert saved.state.control is not None
    assert saved.state.control.epoch == 2


def test_a_client_that_never_answers_costs_no_epoch(world: Any) -> None:
    def fails(*_: object) -> Message:
        raise OSError("gone")

    world.fates = {("train", 1, None): fails}
    world.run(**ON, rounds=4, **{"federation.quorum": 0.5})
    saved = load_checkpoint(world.directory.checkpoint_path)
    assert saved is not None
    assert saved.state.control is not None
    assert saved.state.control.epoch == 1


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"client.optimizer": "amgt"}, r"client\.optimizer is 'amgt'.*'sgd'"),
        ({"server.optimizer": "adam"}, r"server\.optimizer is 'adam'.*'average'"),
        ({"server.clip_norm": 2.0}, r"server\.clip_norm is 2\.0.*0\.0"),
    ],
)
def test_what_control_variates_cannot_go_with_is_refused_by_name(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(from_flat({**ON, **keys}))
