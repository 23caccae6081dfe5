"""Everything the command line does, from Python: runs, the baseline, resuming, the model, and early errors."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amgt_fed import RunConfig, RunResult, run
from amgt_fed.config import from_toml
from amgt_fed.errors import AMGTFedError, CodecError, ConfigError, StateError, TaskError
from amgt_fed.runs import RoundRecord
from amgt_fed.tasks import FlatModel
from tests.helpers.tiny_task import Tiny

TINY = "tests.helpers.tiny_task:Tiny"


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report takes a second; it is tested in tests/runs."""
    for module in ("amgt_fed.api", "amgt_fed_server.federation"):
        monkeypatch.setattr(f"{module}.write_report", lambda directory: directory.report_path)


def small(out: Path, **keys: Any) -> RunResult:
    defaults: dict[str, Any] = {
        "task": TINY,
        "rounds": 3,
        "partition": {"num_clients": 4, "scheme": "iid"},
        "federation": {"clients_per_round": 3},
        "client": {"epochs": 1, "lr": 0.02},
        "baseline": {"run": False},
    }
    return run(**{**defaults, **keys, "out": out})


def test_a_run_returns_what_its_directory_holds(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    result = small(tmp_path / "run", on_round=lambda name, record: seen.append((name, record.round)))
    assert seen == [("amgt", 1), ("amgt", 2), ("amgt", 3)]
    assert result.directory == tmp_path / "run"
    assert [record.round for record in result.rounds] == [1, 2, 3]
    written = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert written["model_sha256"] == result.summary.model_sha256
    assert set(result.summary.metrics) == {"accuracy", "loss"}
    assert result.summary.uplink_bytes == sum(record.uplink_bytes for record in result.rounds) > 0
    assert result.summary.downlink_bytes == sum(record.downlink_bytes for record in result.rounds) > 0
    assert result.baseline_rounds == []
    assert {path.name for path in result.directory.iterdir()} >= {"config.toml", "rounds.jsonl", "checkpoint"}


def test_the_model_is_the_trained_one_and_its_hash_that_of_the_summary(tmp_path: Path) -> None:
    result = small(tmp_path / "run")
    model = result.model()
    vector = np.concatenate([parameter.detach().numpy().ravel() for parameter in model.parameters()])
    assert hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest() == result.summary.model_sha256
    assert result.summary.parameters == vector.size
    task = Tiny.__new__(Tiny)  # only its data are asked for
    data = task._points(60, seed=1)
    with torch.no_grad():
        accuracy = float((model(data.tensors[0]).argmax(-1) == data.tensors[1]).float().mean())
    assert accuracy == pytest.approx(result.summary.metrics["accuracy"])


def test_the_same_seed_gives_the_same_model_and_another_seed_another(tmp_path: Path) -> None:
    hashes = [small(tmp_path / str(i), seed=seed).summary.model_sha256 for i, seed in enumerate([5, 5, 6])]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("name", ["Tiny", "Dropping"])
def test_the_number_of_workers_changes_no_bit_dropout_or_not(name: str, tmp_path: Path) -> None:
    runs = [
        small(tmp_path / str(index), task=f"tests.helpers.tiny_task:{name}", workers=workers).summary.model_sha256
        for index, workers in enumerate([1, 1, 2, 3])
    ]
    assert len(set(runs)) == 1


def test_the_written_configuration_repeats_the_run(tmp_path: Path) -> None:
    first = small(tmp_path / "one", client={"epochs": 1, "lr": 0.03, "optimizer": "adam"})
    again = run(from_toml(tmp_path / "one" / "config.toml"), out=tmp_path / "two")
    assert again.summary.model_sha256 == first.summary.model_sha256


def test_configuration_comes_as_an_object_as_dotted_keys_or_as_sections(tmp_path: Path) -> None:
    keys = {
        "task": TINY,
        "rounds": 1,
        "partition.num_clients": 4,
        "federation.clients_per_round": 2,
        "baseline.run": False,
    }
    dotted = run(keys, out=tmp_path / "a").summary
    sections = run(
        RunConfig(task=TINY, rounds=1),
        partition={"num_clients": 4},
        federation={"clients-per-round": np.int64(2)},
        baseline={"run": False},
        out=tmp_path / "b",
    ).summary
    assert dotted.model_sha256 == sections.model_sha256


def test_a_class_serves_as_task(tmp_path: Path) -> None:
    assert small(tmp_path / "a", task=Tiny).summary.model_sha256 == small(tmp_path / "b").summary.model_sha256


def test_the_baseline_is_dense_fedavg_on_the_same_samples(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def note(name: str, record: RoundRecord) -> None:
        seen.append((name, record.round))

    result = small(tmp_path / "run", baseline={"run": True, "lr": 0.1}, on_round=note)
    assert seen == [("amgt", 1), ("amgt", 2), ("amgt", 3), ("fedavg", 1), ("fedavg", 2), ("fedavg", 3)]
    baseline = result.summary.baseline
    assert baseline is not None
    assert {"engine", "rounds", "seconds", "status", "metrics", "model_sha256", "uplink_bytes"} <= baseline.keys()
    model_bytes = 4 * result.summary.parameters
    for record in result.baseline_rounds:
        assert record.num_clients == 3
        assert 3 * model_bytes < record.uplink_bytes < 3 * (model_bytes + 200)
        assert record.delta == 0.0
    ours = [record.num_examples for record in result.rounds]
    assert [record.num_examples for record in result.baseline_rounds] == ours
    assert baseline["model_sha256"] == _fedavg_by_hand(result)
    assert {row.what: row.baseline for row in result.table}["rounds"] == "3"


def _fedavg_by_hand(result: RunResult) -> str:
    """McMahan et al. (2017), plainly, on the run's partition and samples."""
    from amgt_fed.setup import build
    from amgt_fed.tasks import train_locally
    from clients.app import _seed

    setup = build(from_toml(result.directory / "baseline" / "config.toml"))
    flat: FlatModel = setup.fresh_model()
    x = flat.read()
    for round in range(1, 4):
        rng = np.random.default_rng([0, 0x53414D50, round, 0])
        clients = sorted(int(client) for client in rng.choice(4, 3, replace=False))
        local = [
            train_locally(
                setup.task, flat, setup.task.client_data(c), x, setup.local_settings(round), _seed(0, c, round)
            )
            for c in clients
        ]
        total = sum(one.num_examples for one in local)
        mean = sum((x - one.vector).astype(np.float64) * one.num_examples for one in local) / total
        x = x - mean.astype(np.float32)
    return hashlib.sha256(x.tobytes()).hexdigest()


# ---- resuming


def test_more_rounds_later_are_the_same_rounds(tmp_path: Path) -> None:
    whole = small(tmp_path / "whole", rounds=5, baseline={"run": True})
    small(tmp_path / "parts", rounds=2, baseline={"run": True})
    (tmp_path / "parts").rename(tmp_path / "elsewhere")
    parts = run(resume=tmp_path / "elsewhere", rounds=5)
    assert parts.directory == tmp_path / "elsewhere"
    assert parts.summary.model_sha256 == whole.summary.model_sha256
    assert parts.summary.baseline is not None
    assert whole.summary.baseline is not None
    assert parts.summary.baseline["model_sha256"] == whole.summary.baseline["model_sha256"]
    assert [record.delta for record in parts.rounds] == [record.delta for record in whole.rounds]
    assert not (tmp_path / "parts").exists()


def test_a_finished_run_resumed_is_left_as_it_is(tmp_path: Path) -> None:
    first = small(tmp_path / "run")
    before = (tmp_path / "run" / "rounds.jsonl").read_bytes()
    assert run(resume=tmp_path / "run").summary.model_sha256 == first.summary.model_sha256
    assert (tmp_path / "run" / "rounds.jsonl").read_bytes() == before


@pytest.mark.timeout(150)
def test_a_run_killed_at_any_instant_ends_with_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(root / "tests" / "helpers" / "killed_runs.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    cases = {name: outcome for name, outcome in found.items() if name not in ("digits", TINY)}
    assert len(cases) == 8
    assert cases == dict.fromkeys(cases, "same")


@pytest.mark.parametrize("keys", [{"seed": 1}, {"client": {"lr": 0.5}}, {"codec.uplink": "dense"}, {"task": "digits"}])
def test_a_resumed_run_keeps_what_decides_its_bits(keys: dict[str, Any], tmp_path: Path) -> None:
    small(tmp_path / "run", rounds=1)
    with pytest.raises(ConfigError, match=r"a resumed run keeps its configuration; .* cannot change, .*rounds"):
        run(resume=tmp_path / "run", **keys)


def test_a_resumed_run_refuses_unknown_keys_by_their_nearest(tmp_path: Path) -> None:
    small(tmp_path / "run", rounds=1)
    with pytest.raises(ConfigError, match="unknown configuration key 'round'; did you mean 'rounds'"):
        run(resume=tmp_path / "run", round=5)


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"no config\.toml, so there is nothing to resume"):
        run(resume=tmp_path)
    small(tmp_path / "run", rounds=1)
    with pytest.raises(StateError, match=r"holds a run already; .*--resume"):
        small(tmp_path / "run")
    with pytest.raises(ConfigError, match="without `config`"):
        run({"rounds": 3}, resume=tmp_path / "run")


# ---- errors, before anything starts


def inside() -> type[Tiny]:
    class Local(Tiny):
        pass

    return Local


@pytest.mark.parametrize(
    ("keys", "kind", "named"),
    [
        ({"task": "digit"}, TaskError, "did you mean 'digits'"),
        ({"task": inside()}, TaskError, "inside a function"),
        ({"task": dict}, TaskError, r"a subclass of amgt_fed\.Task"),
        ({"task": "tests.helpers.tiny_task:Untested"}, ConfigError, "no test data.*evaluate = clients"),
        (
            {"task": "tests.helpers.tiny_task:Failing", "options": {"where": "model"}},
            TaskError,
            r"ValueError: no such layer: \[conv9\]",
        ),
        ({"data_dir": "/nowhere/at/all"}, ConfigError, "/nowhere/at/all.*does not exist"),
        ({"codec": {"uplink": "amtg"}}, ConfigError, r"codec\.uplink = 'amtg'.*did you mean 'amgt'"),
        ({"codec": {"downlink": "nothing"}}, ConfigError, r"codec\.downlink = 'nothing'.*there are"),
        ({"codec": {"uplink_budget": "bytes=3"}}, ConfigError, r"codec\.uplink_budget = 'bytes=3'"),
        ({"codec": {"downlink": "dense", "downlink_budget": "bits=2"}}, ConfigError, r"codec\.downlink_budget"),
        ({"partition": {"num_clients": 121, "scheme": "iid"}}, TaskError, "120 examples cannot give 121 clients"),
        ({"partition": {"num_clients": 2}}, ConfigError, "clients_per_round is 3, but there are only 2"),
        ({"device": "cuda:77"}, ConfigError, "cuda:77"),
        ({"client": {"lr": [0.1]}}, ConfigError, r"client\.lr = \[0\.1\] is not a number"),
    ],
    ids=lambda item: str(item)[:40],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    keys: dict[str, Any], kind: type[AMGTFedError], named: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=named) as caught:
        small(tmp_path / "run", **keys)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_task_of_the_program_itself_is_refused_where_other_processes_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "Mine", Tiny, raising=False)
    with pytest.raises(TaskError, match="move it to a module of its own"):
        small(tmp_path / "run", task="__main__:Mine", engine="grpc")
    assert small(tmp_path / "run", task="__main__:Mine").summary.rounds == 3


def test_a_budget_the_codec_cannot_keep_is_never_met_silently(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, CodecError)):
        small(tmp_path / "run", codec={"uplink": "dense", "uplink_budget": "bytes=100"})


def test_a_configuration_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match="config is 'digits'; give a RunConfig"):
        run("digits")  # type: ignore[arg-type]


def test_what_the_callers_function_raises_comes_through_after_the_run(tmp_path: Path) -> None:
    def failing(name: str, record: RoundRecord) -> None:
        raise LookupError(f"{name} {record.round}")

    with pytest.raises(LookupError, match="amgt 1"):
        small(tmp_path / "run", on_round=failing)
    assert (tmp_path / "run" / "summary.json").exists()
