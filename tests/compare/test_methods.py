"""Methods differ in what makes them methods, and in nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from amgt_fed.compare import METHODS, Method, Plan, pick_methods, read_methods
from amgt_fed.compare.methods import configuration, is_method_key, scaled_budget
from amgt_fed.config import to_flat
from amgt_fed.errors import ConfigError
from amgt_fed.setup import build

TASKS = ("digits", "digits-logreg", "har", "beijing-air")


@pytest.mark.parametrize("task", TASKS)
def test_all_methods_do_the_same_work_on_the_same_clients(task: str) -> None:
    shared = []
    for method in METHODS.values():
        flat = to_flat(configuration(method, task, {"partition.alpha": 0.3}))
        shared.append({key: value for key, value in flat.items() if not is_method_key(key)})
    assert shared[0]["partition.alpha"] == 0.3
    assert all(one == shared[0] for one in shared)
    assert {"client.epochs", "client.steps", "client.batch_size", "federation.clients_per_round"} <= shared[0].keys()


@pytest.mark.parametrize("task", TASKS)
def test_fedavg_is_plain_whatever_the_tasks_defaults_are(task: str) -> None:
    config = configuration(METHODS["fedavg"], task, {})
    assert (config.client.optimizer, config.client.momentum, config.client.prox_mu) == ("sgd", 0.0, 0.0)
    assert (config.client.lr, config.client.lr_decay) == (config.baseline.lr, 0.0)
    assert (config.server.optimizer, config.server.lr, config.server.clip_norm) == ("average", 1.0, 0.0)
    assert (config.codec.uplink, config.codec.downlink) == ("dense", "model")
    assert not config.client.scaffold


def test_every_method_can_be_built_and_says_where_it_comes_from() -> None:
    for method in METHODS.values():
        build(configuration(method, "digits-logreg", {}))
        assert method.about
        assert method.paper


@pytest.mark.parametrize(
    ("text", "scale", "expected"),
    [
        ("bytes=1000", 0.5, "bytes=500"),
        ("bits=0.2", 0.5, "bits=0.1"),
        ("nmse=0.7", 0.5, "nmse=0.85"),
        ("error=2", 0.5, "error=4"),
        ("error=2/k", 0.5, "error=4/k"),
    ],
)
def test_half_a_budget(text: str, scale: float, expected: str) -> None:
    assert scaled_budget(text, scale) == expected


def test_unknown_and_repeated_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fedprox'"):
        pick_methods(["fedprx"])
    with pytest.raises(ConfigError, match="twice"):
        pick_methods(["stc", "stc"])


@pytest.mark.parametrize("key", ["client.epochs", "partition.alpha", "seed", "rounds", "client.batch_size"])
def test_a_method_that_changes_the_common_work_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Method("mine", "does more work", overrides={key: 3})


def test_methods_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "methods.toml"
    path.write_text('[mine]\nbase = "topk"\n[mine.set.codec]\nuplink = "topk:fraction=0.05"\n', encoding="utf-8")
    mine = pick_methods(["mine"], read_methods(path))[0]
    config = configuration(mine, "digits", {})
    assert (config.codec.uplink, config.codec.error_feedback) == ("topk:fraction=0.05", True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mine", "not valid TOML"),
        ("", "holds no method"),
        ("mine = 3", "no table"),
        ('[mine]\nbase = "fedavgg"', "mine.base is 'fedavgg'"),
        ("[mine]\nsett = 3", "mine.sett is unknown"),
        ('[mine]\nset = { "client.epochs" = 9 }', "client.epochs"),
    ],
)
def test_a_wrong_methods_file_is_named_with_its_fault(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "methods.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        read_methods(path)


def test_a_plan_refuses_what_would_not_be_a_comparison() -> None:
    methods = pick_methods(["fedavg"])
    with pytest.raises(ConfigError, match="tuned on"):
        Plan(methods, ("digits",), (0, 5), tune_seed=5)
    with pytest.raises(ConfigError, match="belongs to the methods"):
        Plan(methods, ("digits",), (0,), common={"client.lr": 0.1})
    with pytest.raises(ConfigError, match="use --seeds"):
        Plan(methods, ("digits",), (0,), common={"seed": 3})
    with pytest.raises(ConfigError, match="evaluate = none"):
        Plan(methods, ("digits",), (0,), common={"federation.evaluate": "none"})


def test_a_plan_comes_back_from_disk_and_another_configuration_is_another_run(tmp_path: Path) -> None:
    plan = Plan(pick_methods(["fedadam", "amgt-small"]), ("digits",), (0, 1), common={"partition.alpha": 0.1})
    plan.save(tmp_path)
    assert Plan.load(tmp_path) == plan
    other = Plan(plan.methods, plan.tasks, plan.seeds, common={"partition.alpha": 0.2})
    keys = {p.cell("digits", m, 0, (1, 1), tuning=False).key for p in (plan, other) for m in plan.methods}
    assert len(keys) == 4
