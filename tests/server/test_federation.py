"""Whole runs on the server with clients that fail in every way, and the ways a run may end."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from amgt_fed.errors import ConfigError, RoundError, StateError
from amgt_fed.flower.records import pack, unpack
from amgt_fed.runs import load_checkpoint
from amgt_fed.tasks import FlatModel, TaskSettings
from amgt_fed.wire import decode_update, encode_update
from clients.app import app
from tests.helpers.tiny_task import Tiny

LAYOUT = FlatModel(Tiny(TaskSettings()).model()).layout
HALF = {"federation.quorum": 0.5}


def raises(*_: object) -> Message:
    raise OSError("sensor unplugged\nsecond line")


def raises_without_text(*_: object) -> Message:
    raise ValueError(" \n ")


def returns_nothing(*_: object) -> Any:
    return None


def garbage(message: Message, _: Context) -> Message:
    return Message(pack(b"\x08\x01garbage"), reply_to=message)


def empty(message: Message, _: Context) -> Message:
    return Message(RecordDict(), reply_to=message)


def of_another_app(message: Message, _: Context) -> Message:
    arrays = ArrayRecord({"message": Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=b"1234")})
    return Message(RecordDict({"amgt": arrays, "m": MetricRecord({"loss": 1.0})}), reply_to=message)


def changed(**changes: Any) -> Any:
    def fate(message: Message, context: Context) -> Message:
        answer = decode_update(unpack(app(message, context).content), LAYOUT)
        return Message(pack(encode_update(replace(answer, **changes))), reply_to=message)  # type: ignore[arg-type]

    return fate


BAD = {
    "raises": (raises, "OSError: sensor unplugged second line"),
    "raises_without_text": (raises_without_text, "ValueError"),
    "returns_nothing": (returns_nothing, "NoneType"),
    "garbage": (garbage, "not a ClientUpdate"),
    "empty": (empty, "both sides must run amgt-fed"),
    "of_another_app": (of_another_app, "float32 of kind"),
    "wrong_round": (changed(round=9), "answered for round 9"),
    "impossible_norm": (changed(deviation_l2=1e308), "deviation_l2"),
    "no_examples": (changed(num_examples=0), "num_examples"),
    "payload_of_noise": (changed(payload=b"noise"), "the frame alone needs"),
    "empty_payload": (changed(payload=b""), "payload has 0 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_round_goes_on_without_a_client_that_answers_badly(
    name: str, world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fate, reason = BAD[name]
    world.fates = {("train", 1, 2): fate}
    with caplog.at_level(logging.WARNING, "amgt_fed.server"):
        summary = world.run(**HALF)
    rounds = world.directory.rounds()
    assert [record.failures for record in rounds] == [0, 1, 0]
    assert [record.num_clients for record in rounds] == [4, 3, 4]
    assert summary.failures == 1
    assert "client 1 gives nothing in this round: " in caplog.text
    assert reason in caplog.text


def test_below_its_quorum_a_round_is_tried_with_others_and_counts_when_they_answer(world: Any) -> None:
    world.fates = {("train", client, 1): raises for client in (0, 1)}
    summary = world.run(**{"federation.clients_per_round": 2, "rounds": 1, "federation.retries": 3})
    assert summary.rounds == 1
    assert world.directory.rounds()[0].num_clients == 2
    trained = [client for kind, client, _ in world.calls if kind == "train"]
    assert set(trained[-2:]) == {2, 3}


def test_a_round_below_its_quorum_ends_the_run_with_the_reasons_and_can_be_resumed(world: Any) -> None:
    world.fates = {("train", client, 2): raises for client in range(4)}
    with pytest.raises(
        RoundError, match=r"round 2: 0 of 4 clients gave an update.*the quorum needs 4.*sensor unplugged"
    ):
        world.run(**{"federation.retries": 1})
    assert [record.round for record in world.directory.rounds()] == [1]
    assert sum(call[0] == "train" and call[2] == 2 for call in world.calls) == 8
    world.fates = {}
    assert world.run(resume=True).rounds == 3
    assert [record.round for record in world.directory.rounds()] == [1, 2, 3]


def test_a_client_that_is_late_is_given_up_and_takes_part_again(world: Any) -> None:
    def late(message: Message, context: Context) -> Message:
        time.sleep(1.5)
        return app(message, context)

    world.fates = {("train", 2, 1): late}
    world.run(**HALF, **{"federation.deadline_s": 0.7, "rounds": 3})
    rounds = world.directory.rounds()
    assert rounds[0].failures == 1
    assert rounds[0].num_clients == 3
    assert rounds[-1].round == 3
    state = load_checkpoint(world.directory.checkpoint_path)
    assert state is not None
    assert 0.5 < rounds[0].seconds < 1.4


def test_a_client_that_lost_its_state_is_sent_the_model_once_and_does_not_fail(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def wiped(message: Message, context: Context) -> Message:
        shutil.rmtree(world.directory.path / "clients" / "client-00002", ignore_errors=True)
        return app(message, context)

    def once(message: Message, context: Context) -> Message:
        world.fates.pop(("train", 2, 3))
        return wiped(message, context)

    world.fates = {("train", 2, 3): once}
    with caplog.at_level(logging.WARNING, "amgt_fed.server"):
        summary = world.run(rounds=5)
    assert summary.failures == 0
    assert caplog.text.count("client 2 is sent the model") == 1
    rounds = world.directory.rounds()
    assert [record.num_clients for record in rounds] == [4] * 5
    assert rounds[2].downlink_bytes > rounds[3].downlink_bytes


def test_clients_that_score_the_model_keep_it_so_that_only_steps_travel(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "amgt_fed.server"):
        summary = world.run(**{"federation.evaluate": "clients", "rounds": 4})
    assert summary.failures == 0
    assert "is sent the model" not in caplog.text
    assert set(summary.metrics) == {"loss", "accuracy"}
    asked = [call for call in world.calls if call[0] == "evaluate"]
    assert len(asked) == 16


@pytest.mark.parametrize("keys", [{}, {"codec.downlink": "model"}, {"codec.error_feedback": False}])
def test_scoring_on_clients_changes_no_bit_of_the_model(world: Any, tmp_path: Any, keys: dict[str, Any]) -> None:
    one = world.run(**keys, **{"federation.evaluate": "clients"})
    world.folder = tmp_path / "other"
    two = world.run(**keys, **{"federation.evaluate": "server"})
    assert one.model_sha256 == two.model_sha256


def test_a_client_that_fails_to_score_is_counted_and_the_others_scores_stand(world: Any) -> None:
    world.fates = {("evaluate", 0, 2): raises, ("evaluate", 1, 3): garbage}
    summary = world.run(**{"federation.evaluate": "clients", "rounds": 2})
    assert summary.failures == 2
    assert all("accuracy" in record.metrics for record in world.directory.rounds())


def test_evaluation_none_measures_nothing_and_every_other_round_that_and_the_last(world: Any, tmp_path: Any) -> None:
    summary = world.run(**{"federation.evaluate": "none"})
    assert summary.metrics == {}
    assert [record.loss for record in world.directory.rounds()] == [None] * 3
    world.folder = tmp_path / "other"
    world.run(**{"federation.evaluate": "server", "federation.evaluate_every": 2})
    assert [record.loss is not None for record in world.directory.rounds()] == [False, True, True]


# ---- ends


def test_a_reached_target_ends_the_run(world: Any) -> None:
    summary = world.run(**{"convergence.stop_at": "accuracy>=0.5", "rounds": 50})
    assert summary.stopped == "target reached: accuracy >= 0.5"
    assert summary.rounds < 50
    assert summary.metrics["accuracy"] >= 0.5
    before = summary.model_sha256
    assert world.run(resume=True).model_sha256 == before  # over is over


def test_a_target_that_nobody_measures_is_an_error_after_the_first_score(world: Any) -> None:
    with pytest.raises(ConfigError, match=r"stop_at names 'acuracy'.*it measures accuracy, loss"):
        world.run(**{"convergence.stop_at": "acuracy>=0.5"})


def test_a_diverging_run_ends_with_its_status_and_is_scored(world: Any) -> None:
    summary = world.run(**{"server.lr": 1e12, "rounds": 30, "federation.evaluate_every": 1})
    assert summary.status == "diverging"
    assert summary.stopped.startswith("diverging: ")
    assert summary.rounds < 30
    json.loads(world.directory.summary_path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_a_diverging_run_goes_on_where_told_to(world: Any) -> None:
    summary = world.run(**{"server.lr": 1e12, "rounds": 8, "convergence.stop_on_divergence": False})
    assert (summary.rounds, summary.stopped) == (8, "")


def test_a_byte_limit_ends_the_run_once_it_is_reached_with_a_last_score(world: Any) -> None:
    summary = world.run(**{"convergence.max_bytes": 20_000, "rounds": 50, "federation.evaluate_every": 40})
    rounds = world.directory.rounds()
    spent = [record.uplink_bytes + record.downlink_bytes for record in rounds]
    assert sum(spent[:-1]) < 20_000 <= sum(spent)
    assert sum(spent) == summary.uplink_bytes + summary.downlink_bytes
    assert summary.stopped.startswith("byte")
    assert "accuracy" in summary.metrics


def test_training_loss_never_mixes_with_test_loss_in_the_verdict(world: Any) -> None:
    world.run(**{"federation.evaluate_every": 3, "rounds": 9})
    saved = load_checkpoint(world.directory.checkpoint_path)
    assert saved is not None
    scored = [record.loss for record in world.directory.rounds() if record.loss is not None]
    assert saved.tracker["progress"]["recent"] == scored


def test_a_directory_with_a_run_is_not_overwritten(world: Any) -> None:
    world.run()
    with pytest.raises(StateError, match="holds a run already"):
        world.run()


def test_a_checkpoint_of_another_task_is_refused(world: Any) -> None:
    world.run(rounds=1)
    with pytest.raises(StateError, match="of another model"):
        world.run(resume=True, task="tests.helpers.tiny_task:Dropping", rounds=2)


def test_the_model_is_the_same_for_any_number_of_checkpoints_and_with_a_lost_reply(world: Any, tmp_path: Any) -> None:
    plain = world.run(rounds=4)

    def answer_is_lost(message: Message, context: Context) -> Message:
        world.fates = {}
        app(message, context)  # trained and saved, but the reply never comes
        raise ConnectionResetError("gone")

    world.folder = tmp_path / "other"
    world.fates = {("train", 1, 3): answer_is_lost}
    again = world.run(**{"federation.retries": 2, "checkpoint_every": 3})
    assert again.failures == 1
    assert again.model_sha256 == plain.model_sha256
