"""Every refusal, from every way in, names the key, the value, what is allowed and the nearest key."""

from __future__ import annotations

import json
import math
import string
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from amgt_fed import run
from amgt_fed.config import RunConfig, describe_keys, from_flat, from_toml, merge, parse_override, to_flat, to_toml
from amgt_fed.errors import AMGTFedError, ConfigError


def _toml(tmp_path: Path, key: str, value: object) -> RunConfig:
    path = tmp_path / "run.toml"
    section, _, name = key.rpartition(".")
    header = f"[{section}]\n" if section else ""
    path.write_text(f"{header}{name} = {json.dumps(value)}\n", encoding="utf-8")
    return from_toml(path)


def _set(_: Path, key: str, value: object) -> RunConfig:
    return merge(RunConfig(), dict([parse_override(f"{key}={json.dumps(value)}")]))


def _flower(_: Path, key: str, value: Any) -> RunConfig:
    return from_flat({**to_flat(RunConfig()), key: value})


def _keywords(_: Path, key: str, value: object) -> RunConfig:
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    run(**nested)
    raise AssertionError("the run was started")


WAYS = [_toml, _set, _flower, _keywords]

REFUSED = [
    # key, value, what the message must hold
    ("rounds", 0, ["rounds", "0", "whole number >= 1"]),
    ("rounds", 1.5, ["rounds", "1.5", "whole number"]),
    ("rounds", True, ["rounds", "True", "whole number"]),
    ("rounds", "ten", ["rounds", "'ten'", "whole number"]),
    ("seed", -1, ["seed", "-1", ">= 0"]),
    ("client.lr", True, ["client.lr", "True", "a number > 0"]),
    ("client.lr", 0, ["client.lr", "0", "> 0"]),
    ("client.lr", "fast", ["client.lr", "'fast'", "a number > 0"]),
    ("client.batch_size", 2.0, ["client.batch_size", "2.0", "whole number >= 1"]),
    ("client.momentum", 1.0, ["client.momentum", "1.0", ">= 0 and < 1"]),
    ("engine", "loca", ["engine", "'loca'", "local, grpc, ray, flower"]),
    ("engine", 3, ["engine", "3", "local, grpc, ray, flower"]),
    ("device", "gpu", ["device", "'gpu'", "auto, cpu, cuda, cuda:N or mps"]),
    ("task", "", ["task", "''"]),
    ("out", 5, ["out", "5", "text"]),
    ("codec.error_feedback", "yes", ["codec.error_feedback", "'yes'", "true or false"]),
    ("codec.error_feedback", 1, ["codec.error_feedback", "1", "true or false"]),
    ("codec.uplink_budget", "nmse=2", ["codec.uplink_budget", "'nmse=2'", "below 1"]),
    ("codec.downlink_budget", "speed=2", ["codec.downlink_budget", "'speed=2'", "bytes=N", "nmse=R", "error=C/k"]),
    ("convergence.stop_at", "accuracy", ["convergence.stop_at", "'accuracy'", "accuracy>=0.95"]),
    ("convergence.stop_at", "accuracy>=nan", ["convergence.stop_at", "nan"]),
    ("federation.clients_per_round", 21, ["federation.clients_per_round", "21", "20 clients"]),
    ("partition", 5, ["partition", "5", "section", "partition.scheme"]),
    ("options", "x", ["options", "'x'", "section"]),
    ("options.deep.er", 1, ["options.deep", "number, text, true or false"]),
    ("round", 5, ["unknown", "'round'", "'rounds'"]),
    ("lr", 0.1, ["unknown", "'lr'", "'client.lr'"]),
    ("client.learning", 0.1, ["unknown", "'client.learning'", "did you mean"]),
    ("clinet.lr", 0.1, ["unknown", "'clinet.lr'", "'client.lr'"]),
    ("client.batchsize", 4, ["unknown", "'client.batchsize'", "'client.batch_size'"]),
    ("zzz", 1, ["unknown", "'zzz'", "amgt-fed config"]),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("key", "value", "named"), REFUSED, ids=lambda item: str(item)[:30])
def test_a_bad_key_or_value_is_refused_with_key_value_and_fix(
    way: Any, key: str, value: Any, named: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        way(tmp_path, key, value)
    text = str(caught.value)
    assert [part for part in named if part not in text] == [], text
    assert "\n" not in text


@pytest.mark.parametrize("way", WAYS[:3])
def test_a_whole_number_will_do_for_a_number(way: Any, tmp_path: Path) -> None:
    config = way(tmp_path, "client.lr", 1)
    assert config.client.lr == 1.0
    assert isinstance(config.client.lr, float)


@pytest.mark.parametrize("way", WAYS[:3])
def test_a_hyphen_may_stand_for_an_underscore(way: Any, tmp_path: Path) -> None:
    assert way(tmp_path, "federation.clients-per-round", 3).federation.clients_per_round == 3
    assert way(tmp_path, "checkpoint-every", 4).checkpoint_every == 4


@pytest.mark.parametrize("way", WAYS[:3])
def test_an_option_keeps_its_name_hyphen_and_all(way: Any, tmp_path: Path) -> None:
    config = way(tmp_path, "options.my-depth", 3)
    assert config.options == {"my-depth": 3}
    assert from_flat(to_flat(config)) == config


def test_a_key_given_with_hyphen_and_underscore_in_one_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[client]\nbatch-size = 4\nbatch_size = 5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"client\.batch_size is given twice"):
        from_toml(path)


def test_a_section_and_its_key_together_are_refused_whatever_the_order() -> None:
    for flat in ({"client": 1, "client.lr": 0.1}, {"client.lr": 0.1, "client": 1}):
        with pytest.raises(ConfigError, match=r"client = .* section"):
            from_flat(flat)


def test_infinite_and_undefined_numbers_are_refused() -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError, match=r"client\.lr"):
            from_flat({"client.lr": value})


@pytest.mark.parametrize("name", ["a.b", "a b", "", "1st"])
def test_an_option_that_a_flat_key_could_not_carry_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"[options]\n{json.dumps(name)} = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no name for an option"):
        from_toml(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"rounds = ", "not valid TOML"), (b"\xff\xfe", "cannot be read"), (None, "cannot be read")],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(content: bytes | None, named: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=named) as caught:
        from_toml(path)
    assert "run.toml" in str(caught.value)


@pytest.mark.parametrize("text", ["rounds", "=3", "rounds:3", " = 2"])
def test_an_override_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_override(text)


@pytest.mark.parametrize("text", ["rounds=[1]", "rounds={a=1}", "rounds=2026-01-01"])
def test_an_override_that_is_no_scalar_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="number, true, false or text"):
        parse_override(text)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("client.lr=0.01", ("client.lr", 0.01)),
        ("client.lr = 1e-3", ("client.lr", 1e-3)),
        ("rounds=5", ("rounds", 5)),
        ("baseline.run=false", ("baseline.run", False)),
        ("task=my_module:MyTask", ("task", "my_module:MyTask")),
        ("codec.uplink_budget=nmse=0.5", ("codec.uplink_budget", "nmse=0.5")),
        ('out="a b"', ("out", "a b")),
        ("out=", ("out", "")),
    ],
)
def test_an_override_reads_as_toml_or_else_as_text(text: str, pair: tuple[str, object]) -> None:
    assert parse_override(text) == pair


def test_merge_changes_the_named_key_alone() -> None:
    before, after = to_flat(RunConfig()), to_flat(merge(RunConfig(), {"client.lr": 0.5}))
    assert {key for key in after if after[key] != before[key]} == {"client.lr"}


def test_the_target_of_a_run_without_evaluation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stop_at.*evaluate = none"):
        from_flat({"federation.evaluate": "none", "convergence.stop_at": "loss<=1"})


def test_every_key_is_described_with_default_and_meaning() -> None:
    rows = list(describe_keys())
    keys = [row[0] for row in rows]
    assert len(set(keys)) == len(keys)
    assert set(to_flat(RunConfig())) == set(keys) - {"options"}
    for key, allowed, default, meaning in rows:
        assert allowed, key
        assert len(meaning) > 3, key
        assert key == "options" or to_flat(RunConfig())[key] == default


# ---- round trips over generated configurations


def _values(annotation: Any, field: Any, key: str) -> st.SearchStrategy[Any]:
    special = {
        "convergence.stop_at": st.sampled_from(["", "accuracy>=0.95", "loss<=0.1"]),
        "codec.uplink_budget": st.sampled_from(["none", "nmse=0.5", "bytes=600", "bits=0.1", "error=2/k", "error=1"]),
        "codec.link_budgets": st.sampled_from(["", "0:bytes=300", "0-3:bytes=300, 7:bits=0.1"]),
        "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "mps"]),
        "federation.evaluate": st.sampled_from(["server", "clients"]),
        "federation.clients_per_round": st.integers(1, 20),
        "partition.num_clients": st.integers(20, 1000),
    }
    for other in ("codec.downlink_budget", "convergence.certify_budget"):
        special[other] = special["codec.uplink_budget"]
    if key in special:
        return special[key]
    if annotation is bool:
        return st.booleans()
    if get_args(annotation) and isinstance(get_args(annotation)[0], str):
        return st.sampled_from(get_args(annotation))
    low, high = 0.0, 1e6
    for rule in field.metadata:
        low = max(low, getattr(rule, "ge", low), getattr(rule, "gt", low))
        high = min(high, getattr(rule, "le", high), getattr(rule, "lt", high))
    if annotation is int:
        return st.integers(math.ceil(low), int(high) - (high < 1e6))
    if annotation is str:
        return st.text(string.printable + "äöü€", min_size=1 if key == "task" else 0, max_size=12)
    return st.floats(low, high, exclude_min=True, exclude_max=True)


def _keys(model: type[BaseModel], prefix: str = "") -> dict[str, st.SearchStrategy[Any]]:
    found: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= _keys(kind, f"{prefix}{name}.")
        elif name != "options":
            found[prefix + name] = _values(kind, field, prefix + name)
    return found


SCALARS = st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | st.text(string.printable, max_size=8)
OPTIONS = st.dictionaries(st.from_regex(r"options\.[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True), SCALARS, max_size=3)


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    strategies = _keys(RunConfig)
    chosen = draw(st.sets(st.sampled_from(sorted(strategies)), max_size=12))
    flat = {key: draw(strategies[key]) for key in sorted(chosen)}
    flat.setdefault("convergence.certify_every", 1)  # tolerances are refused without certificates
    if not flat["convergence.certify_every"]:
        flat = {key: value for key, value in flat.items() if not key.endswith("_tolerance")}
    clients = flat.get("partition.num_clients", 20)
    for key in ("federation.buffer_size", "federation.concurrency"):  # refused above the number of clients
        if key in flat:
            flat[key] = min(flat[key], clients)
    return from_flat({**flat, **draw(OPTIONS)})


@given(config=configs())
@settings(max_examples=60, deadline=None)
def test_a_configuration_survives_toml(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("toml") / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8", newline="")
    assert from_toml(path) == config


@given(config=configs())
@settings(max_examples=60, deadline=None)
def test_a_configuration_survives_flowers_flat_form(config: RunConfig) -> None:
    flat = to_flat(config)
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())
    again = from_flat(flat)
    assert again == config
    assert {key: type(value) for key, value in to_flat(again).items()} == {k: type(v) for k, v in flat.items()}


@given(config=configs())
@settings(max_examples=20, deadline=None)
def test_written_toml_is_toml(config: RunConfig) -> None:
    assert set(tomllib.loads(to_toml(config))) >= {"task", "engine", "client", "codec"}


JUNK = st.none() | SCALARS | st.floats() | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(), st.none())


KNOWN = [key for key, *_ in describe_keys()]


@given(key=st.sampled_from(KNOWN) | st.text(max_size=20), value=JUNK)
@settings(max_examples=200, deadline=None)
def test_whatever_is_given_the_answer_is_a_configuration_or_one_clear_line(key: str, value: Any) -> None:
    text = key
    try:
        assert isinstance(from_flat({key: value}), RunConfig)
    except AMGTFedError as error:
        text = str(error)
    assert key not in KNOWN or key.split(".")[0] in text
    assert text == key or "\n" not in text
