"""From configuration to objects, alike in every process; what this machine cannot do is said by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amgt_fed.codec.peers_sparse import Qsgd
from amgt_fed.config import from_flat, to_flat
from amgt_fed.errors import ConfigError
from amgt_fed.setup import build, pick_device, resolve
from amgt_fed.tasks.base import RECIPE_KEYS
from amgt_fed.tasks.digits import Digits

TINY = {"task": "tests.helpers.tiny_task:Tiny"}


def test_the_initial_model_follows_from_the_seed_and_disturbs_no_generator() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = build(from_flat({**TINY, "seed": 5})).fresh_model().read()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert build(from_flat({**TINY, "seed": 5})).fresh_model().read().tobytes() == one.tobytes()
    assert build(from_flat({**TINY, "seed": 6})).fresh_model().read().tobytes() != one.tobytes()


def test_the_local_rate_falls_by_equation_10() -> None:
    setup = build(from_flat({**TINY, "client.lr": 0.1, "client.lr_decay": 0.5}))
    assert [setup.local_settings(k).lr for k in (1, 2, 3)] == pytest.approx([0.1, 0.1 / 1.5, 0.05])


def test_the_nearest_data_directory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("own", "run", "env"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("AMGT_DATA", str(tmp_path / "env"))
    plain, named = from_flat(TINY), from_flat({**TINY, "data_dir": str(tmp_path / "run")})
    assert build(plain).task.settings.data_dir == tmp_path / "env"
    assert build(named).task.settings.data_dir == tmp_path / "run"
    assert build(named, data_dir=str(tmp_path / "own")).task.settings.data_dir == tmp_path / "own"
    monkeypatch.delenv("AMGT_DATA")
    assert build(plain).task.settings.data_dir is None


def test_every_partition_key_and_option_reaches_the_task() -> None:
    keys = {
        "seed": 9,
        "partition.num_clients": 11,
        "partition.scheme": "shards",
        "partition.alpha": 0.25,
        "partition.shards_per_client": 3,
        "partition.min_examples": 2,
        "options.depth": 4,
    }
    settings = build(from_flat({**TINY, **keys})).task.settings
    assert (settings.seed, settings.num_clients, settings.scheme, settings.alpha) == (9, 11, "shards", 0.25)
    assert (settings.shards_per_client, settings.min_examples, settings.options) == (3, 2, {"depth": 4})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused_and_auto_takes_the_processor() -> None:
    assert pick_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ConfigError, match=f"'{name}'.*use device = auto or cpu"):
            pick_device(name)
    if not torch.backends.mps.is_available():
        with pytest.raises(ConfigError, match="'mps'"):
            pick_device("mps")


def test_a_codec_is_named_with_its_parameters() -> None:
    setup = build(from_flat({**TINY, "codec.uplink": "stc:fraction=0.25", "codec.downlink": "qsgd:levels=3,bucket=64"}))
    update = np.random.default_rng(0).standard_normal(setup.fresh_model().layout.size).astype(np.float32)
    decoded = setup.compression().codec.encode(update, setup.fresh_model().layout, None).decoded
    assert np.count_nonzero(decoded) == round(0.25 * update.size)
    codec = setup.downlink().codec
    assert isinstance(codec, Qsgd)
    assert (codec.levels, codec.bucket) == (3, 64)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stcc:fraction=0.5", "did you mean 'stc'"),
        ("stc:fraction=2", "fraction is 2"),
        ("stc:share=0.5", "share"),
        ("stc:fraction=half", "half"),
        ("stc:fraction", "fraction=0.0025"),
    ],
)
def test_a_codecs_wrong_parameter_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        build(from_flat({**TINY, "codec.uplink": text}))
    assert f"codec.uplink = {text!r} is not allowed" in str(caught.value)


def test_a_recipe_holds_with_budgets_and_rates_of_ones_own_and_goes_whole_with_another_method() -> None:
    recipe, defaults = Digits.recipe, Digits.defaults
    plain = to_flat(resolve({}))
    assert {key: plain[key] for key in recipe} == dict(recipe)
    mine = to_flat(resolve({"client.lr": 0.02, "codec.uplink_budget": "bytes=300"}))
    assert (mine["client.lr"], mine["codec.uplink_budget"]) == (0.02, "bytes=300")
    assert mine["codec.uplink"] == recipe["codec.uplink"]
    for key, value in {
        "codec.uplink": "stc",
        "codec.downlink": "amgt",
        "codec.link_budgets": "0:bytes=100",
        "client.optimizer": "amgt",
        "client.scaffold": True,
        "server.optimizer": "momentum",
        "federation.mode": "async",
        "federation.max_staleness": 2,
    }.items():
        assert key in RECIPE_KEYS
        other = to_flat(resolve({key: value}))
        assert {each: other[each] for each in defaults} == dict(defaults), key
        assert other[key] == value
    assert len(RECIPE_KEYS) == 8


def test_a_task_whose_recipe_is_not_a_configuration_is_refused_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "recipe", {"codec.uplnk": "amgt"})
    with pytest.raises(ConfigError, match=r"codec\.uplnk"):
        resolve({})


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"server.aggregator": "krumm"}, r"server\.aggregator = 'krumm' .* there is no 'krumm'.*did you mean 'krum'"),
        ({"server.aggregator": "trimmed_mean:fraction=0.6"}, r"fraction = 0\.6 of trimmed_mean must be"),
        ({"server.aggregator": "median:fraction=0.1"}, "write e.g. trimmed_mean:fraction=0.2"),
        ({"server.aggregator": "krum:malicious=4"}, "needs 11 updates at once, and there are 10"),
        ({"server.aggregator": "median", "convergence.certify_every": 5}, "believes every client's gradient"),
        (
            {"server.aggregator": "median", "client.scaffold": True, "client.optimizer": "sgd"},
            "client.scaffold = true needs server.aggregator = mean",
        ),
    ],
)
def test_an_aggregator_that_cannot_be_is_refused_before_the_first_round(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(resolve({**keys, "server.lr": 1.0}))


def test_async_needs_the_updates_in_its_buffer() -> None:
    keys = {"server.aggregator": "krum:malicious=2", "federation.mode": "async", "federation.buffer_size": 5}
    with pytest.raises(ConfigError, match=r"needs 7 updates at once, and there are 5; .*buffer_size"):
        build(resolve(keys))
    build(resolve({**keys, "federation.buffer_size": 0}))  # 0: as many as clients_per_round, 10
