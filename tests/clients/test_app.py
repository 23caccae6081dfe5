"""The ClientApp's three answers, across restarts of its process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message

import clients.session
from amgt_fed.config import from_flat, to_flat
from amgt_fed.errors import ConfigError, WireError
from amgt_fed.federated.messages import ClientUpdate, NeedsModel, RoundPlan
from amgt_fed.flower import compat
from amgt_fed.flower.records import pack, unpack
from amgt_fed.layout import Layout, vector_digest
from amgt_fed.setup import build
from amgt_fed.wire import (
    Evaluation,
    decode_evaluation,
    decode_hello,
    decode_update,
    encode_plan,
    encode_question,
)
from clients.app import app
from clients.session import client_number, store_for

RUN = 2**62 + 3


class Device:
    """One node: what a Flower runtime would hand to the app."""

    def __init__(self, out: Path, client: int = 1, **keys: Any) -> None:
        base = {
            "task": "tests.helpers.tiny_task:Tiny",
            "out": str(out),
            "partition.num_clients": 4,
            "partition.scheme": "iid",
            "federation.clients_per_round": 4,
            "client.epochs": 1,
            "codec.uplink": "deadzone",
            "codec.downlink": "deadzone",
        }
        self.config = from_flat({**base, **keys})
        self.node: dict[str, Any] = {"partition-id": client, "num-partitions": 4}
        flat = build(self.config).fresh_model()
        self.layout: Layout = flat.layout
        self.x1 = flat.read()

    @property
    def context(self) -> Context:
        return compat.new_context(1, 1001, self.node, to_flat(self.config))

    def ask(self, kind: str, data: bytes) -> bytes:
        compat.set_task_identity(1)
        message = Message(pack(data), 1001, kind, group_id="1")
        compat.stamp(message, compat.new_message_id(), 1, compat.SERVER_NODE_ID)
        return unpack(app(message, self.context).content)

    def plan(self, round: int = 1, x: np.ndarray | None = None, **fields: Any) -> bytes:
        x = self.x1 if x is None else x
        return encode_plan(RoundPlan(RUN, round, vector_digest(x), **fields), self.layout)

    def train(self, plan: bytes) -> ClientUpdate | NeedsModel:
        return decode_update(self.ask("train", plan), self.layout)

    def score(self, plan: bytes) -> Evaluation | NeedsModel:
        return decode_evaluation(self.ask("evaluate", plan), self.layout)

    def synced_round(self) -> int:
        return decode_hello(self.ask("query.hello", encode_question(RUN)), self.layout).synced_round

    def restart(self) -> None:
        clients.session._sessions.clear()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "run")


def test_it_introduces_itself_with_its_number_data_and_round(device: Device) -> None:
    hello = decode_hello(device.ask("query.hello", encode_question(RUN)), device.layout)
    assert (hello.client, hello.num_clients, hello.num_examples, hello.synced_round) == (1, 4, 30, 1)
    moved = device.x1 + np.float32(1)
    device.train(device.plan(5, moved, model=moved))
    assert device.synced_round() == 5
    other = decode_hello(device.ask("query.hello", encode_question(RUN + 1)), device.layout)
    assert other.synced_round == 1  # of another run it holds the seeded model only


def test_asked_again_after_a_restart_it_gives_the_same_answer(device: Device) -> None:
    first = device.train(device.plan())
    device.restart()
    assert device.train(device.plan()) == first
    device.restart()
    shutil.rmtree(device.config.out)
    assert device.train(device.plan()) == first  # trained anew, to the same bits


def test_two_devices_give_different_updates_and_rounds_differ(device: Device, tmp_path: Path) -> None:
    one, two = device.train(device.plan()), Device(tmp_path / "run", client=2).train(device.plan())
    assert isinstance(one, ClientUpdate)
    assert isinstance(two, ClientUpdate)
    assert one.payload != two.payload
    again = device.train(device.plan(2, model=device.x1, accepted_round=1))
    assert isinstance(again, ClientUpdate)
    assert again.payload != one.payload


def test_it_asks_for_the_model_it_cannot_reach_and_keeps_what_it_has(device: Device) -> None:
    device.train(device.plan())
    before = store_for(device.context, 1).load(RUN)
    answer = device.train(device.plan(7, device.x1 + np.float32(1)))
    assert isinstance(answer, NeedsModel)
    assert answer.round == 7
    after = store_for(device.context, 1).load(RUN)
    assert before is not None
    assert after is not None
    assert after.sent == before.sent
    assert isinstance(device.score(device.plan(7, device.x1 + np.float32(1))), NeedsModel)


def test_a_model_that_was_scored_is_kept_for_the_steps_to_come(device: Device) -> None:
    moved = device.x1 + np.float32(0.5)
    score = device.score(device.plan(4, moved, model=moved))
    assert isinstance(score, Evaluation)
    assert (score.round, score.num_examples) == (4, 30)
    assert device.synced_round() == 4
    assert isinstance(device.train(device.plan(4, moved)), ClientUpdate)


def test_a_scored_model_loses_neither_residual_nor_last_answer(device: Device) -> None:
    device.train(device.plan())
    before = store_for(device.context, 1).load(RUN)
    moved = device.x1 + np.float32(0.5)
    device.score(device.plan(2, moved, model=moved))
    after = store_for(device.context, 1).load(RUN)
    assert before is not None
    assert after is not None
    assert after.round == 2
    assert after.sent == before.sent
    assert after.residual is not None
    assert before.residual is not None
    assert after.residual.tobytes() == before.residual.tobytes()


def test_without_error_feedback_the_model_sent_is_kept_too(tmp_path: Path) -> None:
    device = Device(tmp_path / "run", **{"codec.error_feedback": False})
    moved = device.x1 + np.float32(0.5)
    assert isinstance(device.train(device.plan(3, moved, model=moved)), ClientUpdate)
    device.restart()
    assert device.synced_round() == 3


def test_where_the_whole_model_travels_and_nothing_is_fed_back_nothing_is_stored(tmp_path: Path) -> None:
    device = Device(tmp_path / "run", **{"codec.error_feedback": False, "codec.downlink": "model"})
    device.train(device.plan(1, model=device.x1))
    device.score(device.plan(2, model=device.x1))
    assert not (tmp_path / "run").exists()


def test_a_damaged_state_costs_one_model_and_no_crash(device: Device) -> None:
    moved = device.x1 + np.float32(0.5)
    device.train(device.plan(3, moved, model=moved))
    path = next(Path(device.config.out).rglob("state.safetensors"))
    path.write_bytes(path.read_bytes()[:-5])
    assert device.synced_round() == 1
    assert isinstance(device.train(device.plan(3, moved)), NeedsModel)
    assert isinstance(device.train(device.plan(3, moved, model=moved)), ClientUpdate)


def test_bytes_that_are_no_plan_are_an_error(device: Device) -> None:
    for kind in ("train", "evaluate", "query.hello"):
        with pytest.raises(WireError):
            device.ask(kind, b"\xff\xff")


def test_a_model_that_drops_out_trains_to_the_same_bits_whatever_was_drawn_before(tmp_path: Path) -> None:
    device = Device(tmp_path / "one", task="tests.helpers.tiny_task:Dropping")
    first = device.train(device.plan())
    np.random.seed(7)
    other = Device(tmp_path / "two", task="tests.helpers.tiny_task:Dropping")
    assert other.train(other.plan()) == first


# ---- where a client keeps its state, and who it is


@pytest.mark.parametrize("value", [None, "1", -1, 1.0, True])
def test_a_node_without_a_usable_number_is_told_how_to_get_one(device: Device, value: object) -> None:
    device.node = {} if value is None else {"partition-id": value}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="--partition-id N, or as a SuperNode"):
        client_number(device.context)


def test_state_goes_to_the_nodes_own_directory_then_the_runs_then_the_users(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place() -> Path:
        return store_for(device.context, 1)._path

    assert place() == Path(device.config.out) / "clients" / "client-00001" / "state.safetensors"
    device.node["state-dir"] = str(tmp_path / "own")
    assert place() == tmp_path / "own" / "client-00001" / "state.safetensors"
    del device.node["state-dir"]
    device.config = from_flat({**to_flat(device.config), "out": ""})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    assert place() == tmp_path / "home" / "amgt-fed" / "run-1" / "client-00001" / "state.safetensors"


def test_a_node_that_names_a_data_directory_that_is_not_there_says_so(device: Device, tmp_path: Path) -> None:
    device.node["data-dir"] = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"nowhere.*does not exist"):
        device.synced_round()


def test_the_session_is_built_once_for_a_configuration(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    real: Callable[..., Any] = clients.session.build
    monkeypatch.setattr(clients.session, "build", lambda *a, **k: built.append(1) or real(*a, **k))
    device.restart()
    for _ in range(3):
        device.synced_round()
    assert built == [1]
