"""The staged app carries any run configuration through Flower's own reader unchanged."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path

import pytest
from flwr.common.config import get_fused_config_from_dir, get_project_config  # canary: how Flower itself reads it
from hypothesis import given
from hypothesis import strategies as st

from amgt_fed.engines.job import Job
from amgt_fed.engines.staging import stage_app, stage_home
from amgt_fed.errors import EngineError

keys = st.from_regex(r"[a-z][a-z0-9_-]{0,8}(\.[a-z][a-z0-9_-]{0,8}){0,2}", fullmatch=True)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text


@given(run_config=st.dictionaries(keys, values, max_size=6))
def test_flower_reads_back_every_key_and_value(run_config: dict[str, bool | int | float | str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        app = Path(directory, "app")
        stage_app(app, Job(run_config, 2, Path(directory)))
        read = get_fused_config_from_dir(app, {})
    assert read == run_config
    assert {key: type(value) for key, value in read.items()} == {key: type(value) for key, value in run_config.items()}


def test_the_staged_app_names_the_installed_components(tmp_path: Path) -> None:
    stage_app(tmp_path, Job({}, 2, tmp_path))
    components = get_project_config(tmp_path)["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": "amgt_fed_server.app:app", "clientapp": "amgt_fed_clients.app:app"}


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, None, [1, 2], b"x"])
def test_a_value_flower_cannot_carry_is_refused_with_its_key(tmp_path: Path, value: object) -> None:
    with pytest.raises(EngineError, match=r"run configuration train\.seed = .* cannot be carried"):
        stage_app(tmp_path / "app", Job({"train.seed": value}, 2, tmp_path))  # type: ignore[dict-item]
    assert not (tmp_path / "app").exists()


def test_the_home_has_one_connection_and_it_is_the_default(tmp_path: Path) -> None:
    stage_home(tmp_path / "home", "127.0.0.1:1234")
    settings = tomllib.loads((tmp_path / "home" / "config.toml").read_text())
    assert settings == {"superlink": {"default": "engine", "engine": {"address": "127.0.0.1:1234", "insecure": True}}}
