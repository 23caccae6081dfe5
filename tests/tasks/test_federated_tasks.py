"""Each task through `amgt_fed.run` and the command line, in two or three small rounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import amgt_fed
from amgt_fed.setup import build, resolve
from amgt_fed.tasks import BUILT_IN, evaluate, find_task, full_gradient

Keys = dict[str, bool | int | float | str]

# Small rounds; everything else is the task's own default.
SMALL: dict[str, Keys] = {
    "beijing-air": {"federation.clients_per_round": 2, "client.steps": 40},
    "digits-logreg": {"client.steps": 10},
    "fashion-mnist": {
        "federation.clients_per_round": 2,
        "client.steps": 10,
        "federation.evaluate": "none",
        "partition.alpha": 100.0,
    },
    "har": {"federation.clients_per_round": 3, "client.steps": 10},
    "heart-disease": {"client.steps": 20},
    "mnist": {
        "federation.clients_per_round": 2,
        "client.steps": 10,
        "federation.evaluate": "none",
        "partition.alpha": 100.0,
    },
    "paper-quadratic": {},
    "shakespeare": {
        "federation.clients_per_round": 2,
        "client.steps": 10,
        "options.roles": 4,
        "partition.num_clients": 4,
    },
}
FILELESS = {"digits-logreg", "paper-quadratic"}
SHAPES: list[tuple[str, Keys]] = [
    *((name, {}) for name in sorted(SMALL)),
    ("har", {"options.model": "mlp"}),
    ("har", {"options.split": "time", "partition.num_clients": 30}),
    ("mnist", {"partition.scheme": "iid"}),
    (
        "fashion-mnist",
        {
            "partition.scheme": "shards",
            "partition.shards_per_client": 10,
            "partition.num_clients": 20,
            "federation.clients_per_round": 10,
        },
    ),
    ("paper-quadratic", {"options.application": 2}),
    ("shakespeare", {"options.model": "lstm"}),
    ("shakespeare", {"options.model": "transformer"}),
]


@pytest.mark.parametrize(
    ("task", "extra"), SHAPES, ids=[f"{task}-{'-'.join(map(str, e.values()))}" for task, e in SHAPES]
)
def test_three_rounds_lower_the_loss(task: str, extra: Keys, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    keys: Keys = {"task": task, "rounds": 3, "workers": 1, "baseline.run": False, "out": str(tmp_path / "run")}
    if task not in FILELESS:
        keys["data_dir"] = str(request.getfixturevalue("data_dir"))
    keys |= SMALL[task] | extra
    result = amgt_fed.run(keys)
    assert len(result.rounds) == 3
    assert all(record.failures == 0 for record in result.rounds)
    setup = build(resolve(keys))
    first = setup.fresh_model()
    last = setup.fresh_model()
    last.module.load_state_dict(result.model().state_dict())
    data = setup.task.test_data()
    assert data is not None
    scored = data.subset(range(0, len(data), max(1, len(data) // 300)))  # type: ignore[attr-defined,arg-type]
    before, after = (evaluate(setup.task, flat, scored)[0] for flat in (first, last))
    assert after < before


@pytest.mark.parametrize("task", sorted(BUILT_IN))
def test_a_task_tells_its_centralised_score_and_its_defaults_are_keys_there_are(task: str) -> None:
    found = find_task(task)
    assert found.reference is not None
    assert f"--task {task}" in found.reference.command
    assert resolve({"task": task}).task == task  # an unknown key among the defaults would be refused


# One of each kind: no files, the directory as an argument, the directory from the environment.
@pytest.mark.parametrize(("task", "by"), [("paper-quadratic", ""), ("heart-disease", "argument"), ("har", "variable")])
def test_the_command_line_runs_it(task: str, by: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    keys = SMALL[task] | {"client.steps": 1}
    words = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("AMGT_DATA", None)
    if by == "variable":
        environment["AMGT_DATA"] = str(request.getfixturevalue("data_dir"))
    elif by == "argument":
        words += ["--data-dir", str(request.getfixturevalue("data_dir"))]
    command = [
        str(Path(sys.executable).with_name("amgt-fed")),
        "run",
        "--task",
        task,
        "--rounds",
        "1",
        "--workers",
        "1",
    ]
    done = subprocess.run(
        [*command, "--no-baseline", "--json", "--out", str(tmp_path / "run"), *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rounds"] == 1


@pytest.mark.parametrize(
    ("task", "model"),
    [("mnist", ""), ("har", "cnn"), ("har", "mlp"), ("beijing-air", ""), ("heart-disease", "")]
    + [("shakespeare", model) for model in ("gru", "lstm", "transformer")],
)
def test_a_certified_rounds_gradient_exists_and_a_step_against_it_lowers_the_loss(
    task: str, model: str, data_dir: Path
) -> None:
    options: Keys = {"options.model": model} if model else {}
    setup = build(resolve({"task": task, "data_dir": str(data_dir), **options}))
    flat = setup.fresh_model()
    data = setup.task.client_data(2).subset(range(60))  # type: ignore[attr-defined]
    start = flat.read()
    found = full_gradient(setup.task, flat, data, start)
    there = full_gradient(setup.task, flat, data, start - np.float32(1e-3) * found.vector)
    # The first-order decrease, half of it for the curvature.
    assert there.loss < found.loss - 0.5e-3 * float(found.vector.astype(float) @ found.vector)
