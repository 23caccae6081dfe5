"""`flwr run .` and the commands of docs/flower.md, in the checkout, end with the model of the local engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amgt_fed.api import run
from amgt_fed.config import from_flat, to_flat
from amgt_fed.engines.processes import Child, Children, child_environment, free_ports
from amgt_fed.engines.superlink import FLOWER_ENVIRONMENT, is_healthy
from amgt_fed.setup import resolve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "flower.md").read_text()
APP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"].get("flwr", {}).get("app", {})
# Two nodes are what Flower simulates unless told otherwise, and twenty rounds of two clients reach 97 %.
DIFFERENT = {"engine": "flower", "rounds": 20, "partition.num_clients": 2, "federation.clients_per_round": 2}
ELSEWHERE = re.compile(r"(baseline|link)\.|workers$")  # keys that only the other engines look at


def blocks(name: str) -> list[str]:
    """The code blocks of the page that stand under the comment `<!-- name -->`."""
    found = re.findall(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/flower.md has no block called {name}"
    return found


def flattened(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


@pytest.fixture
def ports() -> dict[str, str]:
    """The page's ports, and free ones to use in their place."""
    return dict(zip(["39091", "18000", "19090", "19091"], map(str, free_ports(4)), strict=True))


@pytest.fixture
def shell(tmp_path: Path, ports: dict[str, str]) -> Callable[..., Child]:
    """Run commands of the page with bash in the checkout, with an empty home, among a block's children."""

    def start(children: Children, name: str, commands: str) -> Child:
        setup = blocks("setup")[0].replace(
            ". .venv/bin/activate", f'export PATH="{sysconfig.get_path("scripts")}:$PATH"'
        )
        for documented, free in ports.items():
            commands = commands.replace(documented, free)
        environment = {
            "HOME": str(tmp_path),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": ports["39091"],
        }
        # What the page sets must come from the page alone.
        forget = " ".join([*FLOWER_ENVIRONMENT, "FLWR_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"])
        script = f"set -e\nunset {forget}\ncd '{ROOT}'\n{setup}\n{commands}"
        # In a file, for the page's pgrep must not find its own shell, as it does not at a terminal.
        (tmp_path / f"{name}.sh").write_text(script)
        return children.start(name, ["bash", str(tmp_path / f"{name}.sh")], environment)

    return start


def finished(child: Child, timeout_s: float = 150.0) -> str:
    """Wait for a shell to end well; what it printed."""
    code = child.process.wait(timeout=timeout_s)
    text = child.log.read_text()
    assert code == 0, text
    return text


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)


def summaries(home: Path) -> list[dict[str, Any]]:
    """What the runs under the user's data home ended with, oldest first."""
    runs = sorted((home / ".local/share/amgt-fed/runs").glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text()) for path in runs]


def test_the_app_configuration_is_the_schema_but_for_two_nodes() -> None:
    declared = flattened(APP["config"])
    schema = {key: value for key, value in to_flat(resolve({})).items() if not ELSEWHERE.match(key)}
    assert declared == {**schema, **DIFFERENT}
    assert {key: type(value) for key, value in declared.items()} == {key: type(schema[key]) for key in declared}
    from_flat(declared)


def test_the_bundle_holds_the_code_that_runs_and_nothing_else(tmp_path: Path) -> None:
    app = tmp_path / "app"  # `flwr build`, unlike `flwr run`, minds the name of the directory
    junk = shutil.ignore_patterns(".*_cache", ".git", ".venv", ".hypothesis", "__pycache__", "*.fab")
    shutil.copytree(ROOT, app, ignore=junk)
    environment = {**child_environment({}), **FLOWER_ENVIRONMENT, "HOME": str(tmp_path)}
    subprocess.run(["flwr", "build", "--app", str(app)], cwd=tmp_path, env=environment, check=True, capture_output=True)
    (bundle,) = tmp_path.glob("*.fab")
    assert bundle.stat().st_size < 3_000_000  # Flower refuses 10 MB
    with zipfile.ZipFile(bundle) as archive:
        inside = set(archive.namelist())
    packages = [ROOT / name for name in ("amgt_fed", "server", "clients")]
    code = {path.relative_to(ROOT).as_posix() for package in packages for path in package.rglob("*.py")}
    assert inside == code | {"pyproject.toml", ".info/CONTENT"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_page_runs_as_a_simulation_and_its_superlink_can_be_stopped(
    tmp_path: Path, shell: Callable[..., Child], ports: dict[str, str]
) -> None:
    plain, larger = blocks("simulation")
    with Children(tmp_path / "logs", child_environment({})) as children:
        finished(shell(children, "plain", f"{plain.strip()} --run-config 'rounds=1 client.steps=3'"))
        finished(shell(children, "larger", larger))
        assert is_healthy(int(ports["39091"]))
        finished(shell(children, "stop", blocks("stop")[0]))
        until(lambda: not is_healthy(int(ports["39091"])))
    first, second = summaries(tmp_path)
    assert (first["rounds"], first["num_clients"], first["failures"]) == (1, 2, 0)
    reference = run(
        engine="local",
        out=str(tmp_path / "reference"),
        rounds=2,
        partition={"num_clients": 5},
        federation={"clients_per_round": 3},
        client={"steps": 3},
        baseline={"run": False},
    )
    assert second["model_sha256"] == reference.summary.model_sha256


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_runs_on_a_superlink_with_supernodes(
    tmp_path: Path, shell: Callable[..., Child], ports: dict[str, str]
) -> None:
    servers, submission = blocks("deployment")
    settings = blocks("connection")[0].replace("18000", ports["18000"])
    (tmp_path / ".flwr").mkdir()
    (tmp_path / ".flwr" / "config.toml").write_text(settings)
    with Children(tmp_path / "logs", child_environment({})) as children:
        shell(children, "servers", f"{servers}\nwait")
        for documented in ("18000", "19090", "19091"):
            until(lambda port=int(ports[documented]): is_healthy(port))
        finished(shell(children, "submission", submission))
    (summary,) = summaries(tmp_path)
    reference = run(
        engine="local",
        out=str(tmp_path / "reference"),
        rounds=1,
        partition={"num_clients": 2},
        federation={"clients_per_round": 2},
        client={"steps": 3},
        baseline={"run": False},
    )
    assert summary["model_sha256"] == reference.summary.model_sha256
    assert os.listdir(tmp_path / ".local/state/amgt-fed")
