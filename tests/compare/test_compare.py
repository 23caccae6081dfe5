"""Whole comparisons of a task that trains in milliseconds: results, files, resuming, and what the command refuses."""

from __future__ import annotations

import copy
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from amgt_fed.compare import Plan, Results, compare, pick_methods
from amgt_fed.compare.ledger import Ledger
from amgt_fed.compare.page import command_of
from amgt_fed.compare.results import Reached, results_of
from amgt_fed.errors import StateError

ROOT = Path(__file__).parents[2]
TASK = "tests.helpers.tiny_task:Tiny"
COMMON = {"partition.num_clients": 4, "federation.clients_per_round": 2, "partition.scheme": "iid", "client.epochs": 1}
PLAN = Plan(
    methods=pick_methods(("fedavg", "stc", "amgt")),
    tasks=(TASK,),
    seeds=(0, 1),
    rounds=4,
    tune_rounds=2,
    common=COMMON,
    targets=("accuracy>=0.5",),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("compare") / "all"
    return folder, compare(PLAN, folder, jobs=2)


def facts(results: Results) -> list[Any]:
    """What two comparisons of the same plan must agree in: everything but time."""
    return [
        [
            *(method.method, method.lr, method.mean, method.std, method.ratios),
            [[run.seed, run.final, run.uplink_bytes, run.downlink_bytes, run.rounds] for run in method.runs],
        ]
        for task in results.tasks
        for method in task.methods
    ]


def test_every_method_has_tuned_runs_with_every_seed(done: tuple[Path, Results]) -> None:
    _, results = done
    (task,) = results.tasks
    assert [method.method for method in task.methods] == ["fedavg", "stc", "amgt"]
    for method in task.methods:
        assert [run.seed for run in method.runs] == [0, 1]
        assert all(not run.failure and run.rounds == 4 and run.final is not None for run in method.runs)
        assert len(method.trials) >= 3
        best = max(trial.score for trial in method.trials if trial.score is not None)
        chosen = [trial.score for trial in method.trials if trial.lr == method.lr]
        assert best in chosen
    fedavg, _, amgt = task.methods
    assert fedavg.ratios["fedavg"] == pytest.approx(1.0)
    assert sum(run.uplink_bytes for run in amgt.runs) < sum(run.uplink_bytes for run in fedavg.runs)


def test_the_files_agree_with_each_other(done: tuple[Path, Results]) -> None:
    folder, results = done
    data = json.loads((folder / "compare.json").read_text())
    assert data["format"] == "amgt-compare-1"
    assert [m["method"] for m in data["tasks"][0]["methods"]] == ["fedavg", "stc", "amgt"]
    table = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert len(table) == 3 * 2 * len(results.tasks[0].targets)
    curves = list(csv.DictReader((folder / "curves.csv").read_text().splitlines()))
    assert len(curves) == 3 * 2 * 4
    last = [row for row in curves if row["method"] == "amgt" and row["seed"] == "1"][-1]
    run = results.tasks[0].methods[2].runs[1]
    assert int(last["bytes"]) == run.uplink_bytes + run.downlink_bytes


def test_the_page_stands_alone_and_its_charts_lie_beside_it(done: tuple[Path, Results]) -> None:
    folder, _ = done
    page = (folder / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/png;base64,") == 4
    assert page.count("<table>") == 3  # two targets, and the rates tried
    assert "amgt-fed compare --methods fedavg,stc,amgt" in page
    names = [f"{TASK}-{kind}" for kind in ("bytes", "rounds", "links", "errors")]
    for name in (name.replace(":", ".") for name in names):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.fromstring((folder / f"{name}.svg").read_text()).tag.endswith("svg")


def test_a_finished_comparison_resumed_runs_nothing_and_another_is_not_overwritten(done: tuple[Path, Results]) -> None:
    folder, results = done
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("rounds.jsonl"))
    again = compare(PLAN, folder, resume=True, on_change=lambda *_: pytest.fail("nothing was left to run"))
    assert facts(again) == facts(results)
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("rounds.jsonl")) == before
    with pytest.raises(StateError, match="holds a comparison already; go on with --resume"):
        compare(PLAN, folder)


def test_a_rate_with_which_a_reported_seed_diverged_is_passed_over_and_said_so(done: tuple[Path, Results]) -> None:
    folder, results = done
    ledger = Ledger(PLAN, folder)
    cells = ledger.reported(TASK, "stc")
    ledger._failed[cells[1].key] = replace(_failure(), text="round 3: local loss is nan")  # in memory alone
    following = ledger.reported(TASK, "stc")
    assert following[0].config.client.lr != cells[0].config.client.lr
    scored = {trial.lr: trial.score for trial in results.tasks[0].methods[1].trials}
    rest = [score for lr, score in scored.items() if lr != cells[0].config.client.lr and score is not None]
    assert scored[following[0].config.client.lr] == max(rest)
    found = results_of(ledger).tasks[0].methods[1]
    assert found.passed_over == [cells[0].config.client.lr]


def _failure() -> Any:
    from amgt_fed.compare.ledger import Failure

    return Failure("", diverged=True)


def test_a_run_that_overflowed_counts_as_diverged_and_any_other_failure_is_tried_again(tmp_path: Path) -> None:
    ledger = Ledger(PLAN, tmp_path)
    one, other = list(ledger.trials(TASK, "fedavg").values())[:2]
    ledger.note_failure(one, "round 2: client 1: RoundError: local loss is nan; lower client.lr (now 9)")
    ledger.note_failure(other, "no space left on device")
    fresh = Ledger(PLAN, tmp_path)
    assert fresh.is_settled(one)
    assert not fresh.is_settled(other)


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    keys = [part for key, value in COMMON.items() for part in ("--set", f"{key}={value}")]
    command = ["compare", "--methods", "fedavg,amgt", "--tasks", "tests.helpers.tiny_task:Slow", "--seeds", "3"]
    return subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("amgt-fed")), *command),
            "--rounds",
            "4",
            "--no-tune",
            "--out",
            str(folder),
            *keys,
            *more,
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_killed_in_the_middle_and_resumed_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", "--jobs", "2", "--json")
    killed = start(tmp_path / "killed", "--jobs", "1")
    deadline = time.monotonic() + 60
    while not (lines := [p for p in (tmp_path / "killed").rglob("rounds.jsonl") if p.read_text().count("\n") >= 2]):
        assert time.monotonic() < deadline
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    first = lines[0].read_text().splitlines()[0]
    output, errors = start(tmp_path / "killed", "--jobs", "1", "--resume", "--json").communicate(timeout=120)
    right, _ = whole.communicate(timeout=120)
    assert lines[0].read_text().splitlines()[0] == first, "its rounds were not run again"
    found, wanted = json.loads(output), json.loads(right)
    runs = [run for task in found["tasks"] for method in task["methods"] for run in method["runs"]]
    assert [run["failure"] for run in runs] == ["", ""]
    for task, other in zip(found["tasks"], wanted["tasks"], strict=True):
        for method, twin in zip(task["methods"], other["methods"], strict=True):
            assert method["mean"] == twin["mean"], errors
            assert method["ratios"] == twin["ratios"]
    assert whole.returncode == 0


def test_the_quick_comparison_runs_as_the_page_says(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("amgt-fed")), "compare", "--quick", "--rounds", "2", "--jobs", "2"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "quick"), "--target", "accuracy>=0.2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "98.61 % without a federation" in done.stdout
    assert all(name in done.stdout for name in ("fedavg", "stc", "amgt", "rounds and bytes to accuracy>=0.2"))
    assert (tmp_path / "quick" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--methods", "fedavq"], "fedavq"),
        (["--tasks", "digitz"], "digitz"),
        (["--seeds", "0,x"], "--seeds '0,x' are not whole numbers"),
        (["--seeds", "-1"], "below 0"),
        (["--rates", "2,1"], "increasing"),
        (["--set", "seed=3"], "use --seeds"),
        (["--set", "client.lr=3"], "--methods-file"),
        (["--resume"], "--out"),
        (["--target", "accuracy>0.9"], "accuracy>0.9"),
        (["--jobs", "-2"], "jobs is -2"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from amgt_fed.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["amgt-fed", "compare", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert says in errors
    assert errors.count("\n") == 1


def test_the_command_on_the_page_is_the_plan(done: tuple[Path, Results]) -> None:
    text = command_of(PLAN)
    assert "--seeds 0,1 --rounds 4 --tune-rounds 2" in text
    assert "--target 'accuracy>=0.5'" in text
    assert "--set partition.num_clients=4" in text


def test_the_targets_verdicts_follow_from_the_results(done: tuple[Path, Results]) -> None:
    spec = importlib.util.spec_from_file_location("bytes_to_accuracy", ROOT / "benchmarks" / "bytes_to_accuracy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, results = done
    task = results.tasks[0]
    fedavg, stc, amgt = (copy.deepcopy(method) for method in task.methods)
    amgt.ratios["fedavg"], amgt.round_ratios["fedavg"] = 1200.0, 1.4
    for method, count in ((stc, 1000), (amgt, 400)):
        for run in method.runs:
            run.targets["fedavg"] = Reached(3, count, 1.0, {})
    (found,) = module.verdicts(replace(task, methods=[fedavg, stc, amgt]))
    assert found["share_of_stc"] == 0.4
    assert found["met"] == {"a": True, "b": True, "c": False}
    stc.runs[0].targets["fedavg"] = None  # one seed did not get there, so there is no share
    (found,) = module.verdicts(replace(task, methods=[fedavg, stc, amgt]))
    assert found["share_of_stc"] is None
    assert found["met"] == {"a": True, "b": False, "c": False}
