"""For strongly convex tasks the certificate is never below the true gap and ends within twice of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amgt_fed_server.certify import Certifier  # the package's installed name, which `run` imports
from amgt_fed_server.rounds import Traffic
from flwr.app import Context, Message

from amgt_fed import run
from amgt_fed.config import from_toml
from amgt_fed.convergence import CertifiedGradient
from amgt_fed.federated.state import ServerState
from amgt_fed.setup import build
from tests.reference.convex import central

SGD = {"client.optimizer": "sgd", "client.momentum": 0.0, "client.lr": 0.2}
CASES: dict[str, dict[str, Any]] = {
    "digits-logreg": {"rounds": 10, "partition.num_clients": 6, "federation.clients_per_round": 6},
    "digits-logreg, half the clients, scaffold, stc": {
        "task": "digits-logreg",
        "rounds": 10,
        "partition.num_clients": 6,
        "federation.clients_per_round": 3,
        "client.scaffold": True,
        "codec.uplink": "stc:fraction=0.1",
        "codec.uplink_budget": "none",
        "codec.downlink": "model",
    },
    "heart-disease": {"rounds": 12},
    "another regression": {
        "task": "tests.helpers.random_logistic:RandomLogistic",
        "rounds": 12,
        "seed": 11,
        "partition.num_clients": 5,
        "federation.clients_per_round": 5,
        **SGD,
    },
    "paper-quadratic": {"rounds": 6},
    "paper-quadratic, the other, compressed": {
        "task": "paper-quadratic",
        "options.application": 2,
        "rounds": 15,
        "seed": 4,
        "client.steps": 3,
        "client.lr": 0.1,
        "codec.uplink": "amgt",
        "codec.uplink_budget": "nmse=0.3",
    },
}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray[Any, Any], CertifiedGradient]]:
    """Every certified model, with what was measured there."""
    found: list[tuple[np.ndarray[Any, Any], CertifiedGradient]] = []
    certify = Certifier.certify

    def recording(self: Certifier, state: ServerState, traffic: Traffic) -> Any:
        after, measured = certify(self, state, traffic)
        assert measured is not None
        found.append((state.model, measured))
        return after, measured

    monkeypatch.setattr(Certifier, "certify", recording)
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_certificate_holds_the_truth_and_the_last_is_within_twice(
    name: str, seen: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"task": name, **CASES[name]}
    if keys["task"] == "heart-disease":
        folder = Path(os.environ.get("AMGT_DATA") or Path(__file__).parents[3] / "shared" / "data")
        if not folder.is_dir():
            pytest.skip(f"needs the data directory: {folder} is absent; set AMGT_DATA")
        keys["data_dir"] = str(folder)
    monkeypatch.setattr("amgt_fed_server.federation.write_report", lambda directory: directory.report_path)
    every = {"convergence.certify_every": 4, "baseline.run": False, "federation.evaluate": "none"}
    result = run({**keys, **every}, out=tmp_path / "run")
    task = build(from_toml(result.directory / "config.toml")).task
    data = [tensor.double() if tensor.is_floating_point() else tensor for tensor in task.train_set.tensors]
    value, lowest = central(task.model(), lambda module: task.loss(module, data))
    slack = 1e-13 * abs(lowest)
    for model, measured in seen:
        truth = value(model) - lowest
        assert measured.gap_upper is not None
        assert measured.gap_lower is not None
        assert measured.gap_lower - slack <= truth <= measured.gap_upper + slack
    final = result.summary.certificate
    assert final is not None
    assert final["rigorous"]
    assert final["round"] == keys["rounds"] + 1
    assert truth > 1e3 * slack, "the truth itself must be known well enough to compare with"
    assert truth <= final["gap"] <= 2 * truth
    assert result.summary.failures == 0


def test_a_client_that_fails_at_a_probe_leaves_the_bound_before_it(world: Any) -> None:
    calls: list[int] = []

    def fails_later(message: Message, context: Context) -> Message:
        from clients.app import app

        calls.append(1)
        if len(calls) > 1:
            raise OSError("gone")
        return app(message, context)

    world.keys = {"task": "tests.helpers.random_logistic:RandomLogistic", **SGD, "federation.quorum": 0.5}
    world.fates = {("train.gradient", 1, 1): fails_later}
    world.run(**{"convergence.certify_every": 100, "rounds": 1, "federation.evaluate": "none"})
    first = world.directory.rounds()[0].certificate
    assert first is not None
    assert first["rigorous"]
    assert first["gap"] == pytest.approx(first["gradient_upper"] ** 2 / 2 / 0.003, rel=1e-6)


def test_a_resumed_run_starts_from_the_point_it_had_found(world: Any) -> None:
    world.keys = {"task": "tests.helpers.random_logistic:RandomLogistic", **SGD, "convergence.certify_every": 3}
    world.run(**{"rounds": 6, "federation.evaluate": "none"})
    before = sum(call[0] == "train.gradient" for call in world.calls)
    world.calls.clear()
    world.run(rounds=7, resume=True)
    asked = sum(call[0] == "train.gradient" for call in world.calls) // 4
    assert asked < before // 8


def test_without_probes_the_bound_is_that_of_one_gradient(world: Any) -> None:
    world.keys = {"task": "tests.helpers.random_logistic:RandomLogistic", **SGD}
    world.run(**{"convergence.certify_every": 1, "convergence.certify_probes": 0, "rounds": 1})
    assert sum(call[0] == "train.gradient" for call in world.calls) == 8
    found = world.directory.rounds()[0].certificate
    assert found is not None
    assert found["gap_lower"] is None
    assert found["gap"] == pytest.approx(found["gradient_upper"] ** 2 / 2 / 0.003)
