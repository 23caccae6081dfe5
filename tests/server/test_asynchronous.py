"""Clients at their own pace: steps when the buffer is full, every update used at most once, every failure counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from amgt_fed import run
from amgt_fed.errors import RoundError
from tests.helpers.used_once import UsedOnce

ASYNC = {
    "federation.mode": "async",
    "federation.buffer_size": 2,
    "federation.concurrency": 3,
    "federation.clients_per_round": 2,
    "convergence.stop_on_divergence": False,  # with a handful of clients at their own pace the loss may jump
}


Fate = Callable[[Message, Context], Message]


@pytest.fixture
def watched(world: Any, monkeypatch: pytest.MonkeyPatch) -> UsedOnce:
    found = UsedOnce()
    found.watch(monkeypatch, "server.asynchronous")
    world.fates = {("train", client, None): found.client for client in range(4)}
    return found


def raises(*_: object) -> Message:
    raise OSError("sensor unplugged")


def test_every_step_takes_a_full_buffer_and_no_update_counts_twice(world: Any, watched: UsedOnce) -> None:
    summary = world.run(**ASYNC, rounds=25)
    rounds = world.directory.rounds()
    assert [record.num_clients for record in rounds] == [2] * 25
    assert len(set(watched.used)) == len(watched.used) == 50
    assert any(record.late for record in rounds), "three at work and two in a step: somebody is always behind"
    assert [record.late for record in rounds] == [sum(s > 0 for s in step.values()) for step in watched.steps]
    assert summary.failures == 0
    assert summary.metrics["accuracy"] > 0.8
    assert {client for client, _ in watched.used} == set(range(4))
    # What came after the last step was sent and is not counted; everything that is counted was sent.
    assert 0.9 * watched.received_bytes <= summary.uplink_bytes <= watched.received_bytes + 4 * 100
    assert 0.8 * watched.sent_bytes <= summary.downlink_bytes <= watched.sent_bytes + 4 * 100


def test_with_one_worker_the_seed_decides_everything(tmp_path: Path) -> None:
    keys = {
        **ASYNC,
        "task": "tests.helpers.tiny_task:Tiny",
        "rounds": 8,
        "workers": 1,
        "partition.num_clients": 5,
        "partition.scheme": "iid",
        "baseline.run": False,
        "convergence.certify_every": 3,
    }
    one, two = (run(keys, out=tmp_path / name) for name in ("one", "two"))
    assert one.summary.model_sha256 == two.summary.model_sha256
    assert [record.certificate for record in one.rounds] == [record.certificate for record in two.rounds]
    assert [record.round for record in one.rounds if record.certificate] == [1, 3, 6]
    assert one.summary.certificate is not None
    assert one.summary.certificate["rigorous"]
    other = run({**keys, "seed": 1}, out=tmp_path / "other")
    assert other.summary.model_sha256 != one.summary.model_sha256


def test_a_slow_client_holds_up_no_step(world: Any, watched: UsedOnce) -> None:
    def slow(message: Message, context: Context) -> Message:
        time.sleep(0.6)
        return watched.client(message, context)

    world.fates[("train", 1, None)] = slow
    began = time.monotonic()
    world.run(**ASYNC, rounds=12)
    assert time.monotonic() - began < 12 * 0.6 / 2
    assert len(world.directory.rounds()) == 12


def test_a_client_that_fails_is_counted_and_the_others_go_on(world: Any, watched: UsedOnce) -> None:
    world.fates[("train", 1, None)] = raises
    summary = world.run(**ASYNC, rounds=6)
    assert summary.failures >= 1
    assert [record.num_clients for record in world.directory.rounds()] == [2] * 6
    assert 1 not in {client for client, _ in watched.used}


def test_a_client_that_does_not_answer_in_time_is_counted_and_asked_again_later(world: Any, watched: UsedOnce) -> None:
    def hangs_once(message: Message, context: Context) -> Message:
        del world.fates[("train", 0, None)]
        world.fates[("train", 0, None)] = watched.client
        time.sleep(1.0)
        return watched.client(message, context)

    def steady(message: Message, context: Context) -> Message:
        time.sleep(0.08)
        return watched.client(message, context)

    world.fates.update({("train", client, None): steady for client in (1, 2, 3)})
    world.fates[("train", 0, None)] = hangs_once
    summary = world.run(**ASYNC, **{"federation.deadline_s": 0.5, "rounds": 35})
    assert summary.failures in (1, 2)  # 2 where it is asked again while it still hangs
    assert len(set(watched.used)) == len(watched.used)
    assert 0 in {client for client, _ in watched.used}


def test_a_run_in_which_nobody_answers_ends_with_the_reasons_and_can_be_resumed(world: Any, watched: UsedOnce) -> None:
    good = dict(world.fates)
    world.fates = {("train", client, None): raises for client in range(4)}
    with pytest.raises(RoundError, match=r"0 of 2 updates are in.*none is left to ask.*sensor unplugged"):
        world.run(**ASYNC, rounds=3)
    world.fates = good
    assert world.run(rounds=3, resume=True).rounds == 3


def test_fewer_clients_than_a_buffer_needs_are_named(world: Any) -> None:
    world.nodes = 2
    with pytest.raises(RoundError, match=r"2 of 3 updates are in, and of 2 connected clients none is left"):
        world.run(**{**ASYNC, "federation.buffer_size": 3, "federation.wait_for_clients_s": 0.4})


def test_a_resumed_run_goes_on_and_tells_every_client_the_truth(world: Any, watched: UsedOnce) -> None:
    world.run(**ASYNC, rounds=5)
    world.run(rounds=12, resume=True)
    assert len(set(watched.used)) == len(watched.used) == 24
    assert [record.round for record in world.directory.rounds()] == list(range(1, 13))


def test_updates_older_than_allowed_are_refused_and_counted(world: Any, watched: UsedOnce) -> None:
    def after(seconds: float) -> Fate:
        def fate(message: Message, context: Context) -> Message:
            time.sleep(seconds)
            return watched.client(message, context)

        return fate

    # The steady ones set the pace, so that the slow one's answer comes within the run on any machine.
    world.fates.update({("train", client, None): after(0.05) for client in (0, 2, 3)})
    world.fates[("train", 1, None)] = after(0.5)
    summary = world.run(**ASYNC, **{"federation.max_staleness": 2, "rounds": 40})
    assert max(s for step in watched.steps for s in step.values()) <= 2
    assert summary.failures >= 1


def test_a_client_that_lost_its_state_is_sent_the_model(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    import shutil

    from clients.app import app

    def wiped_once(message: Message, context: Context) -> Message:
        state = world.directory.path / "clients" / "client-00002"
        if state.exists():
            world.fates = {}
            shutil.rmtree(state)
        return app(message, context)

    # Its first plan needs no state: every client can make the seeded model. Later ones build on what it holds.
    world.fates = {("train", 2, round): wiped_once for round in range(8, 30)}
    with caplog.at_level(logging.WARNING, "amgt_fed.server"):
        summary = world.run(**ASYNC, rounds=20)
    assert summary.failures == 0
    assert caplog.text.count("client 2 is sent the model") == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_runs_over_grpc_with_its_failures_counted(tmp_path: Path) -> None:
    keys = {**ASYNC, "engine": "grpc", "workers": 2, "rounds": 8, "partition.num_clients": 4, "baseline.run": False}
    result = run({**keys, "task": "tests.helpers.tiny_task:Tiny", "partition.scheme": "iid"}, out=tmp_path / "run")
    assert result.summary.rounds == 8
    assert result.summary.failures == 0
    assert [record.num_clients for record in result.rounds] == [2] * 8
