"""What deploys is checked by deploy/check.sh, and the check finds what it is there for."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

yaml = pytest.importorskip("yaml")
DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_manifests", DEPLOY / "check_manifests.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def help_of(side: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", {"server": "amgt_fed_server", "client": "amgt_fed_clients"}[side], "run", "--help"],
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_everything_that_deploys_passes() -> None:
    done = subprocess.run(["bash", DEPLOY / "check.sh"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("read_only: true", "read_only: false", "has read_only = False"),
        ("cap_drop: [ALL]", "cap_drop: [NET_RAW]", "has cap_drop"),
        ("  mem_limit: 1g\n", "", "service client-0 has no mem_limit"),
        ("{source: client-1, target: bundle}", "{source: client-9, target: bundle}", "client-9"),
    ],
)
def test_a_compose_file_that_is_less_locked_down_is_found(
    check: ModuleType, tmp_path: Path, before: str, after: str, says: str
) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert before in text
    (tmp_path / "compose.yaml").write_text(text.replace(before, after))
    assert any(says in problem for problem in check.compose_problems(tmp_path / "compose.yaml"))


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("runAsNonRoot: true", "runAsNonRoot: false", "runs as root"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "its root is writable"),
        ("drop: [ALL]", "drop: []", "keeps capabilities"),
        ("          livenessProbe:", "          lifecycle:", "has no livenessProbe"),
        ("limits:", "requests_:", "has no limits"),
    ],
)
def test_a_manifest_that_is_less_locked_down_is_found(
    check: ModuleType, tmp_path: Path, before: str, after: str, says: str
) -> None:
    text = (DEPLOY / "kubernetes" / "clients.yaml").read_text()
    assert before in text
    (tmp_path / "clients.yaml").write_text(text.replace(before, after))
    assert any(says in problem for problem in check.manifest_problems(tmp_path / "clients.yaml"))


def test_a_tool_that_is_missing_is_told_and_fails_only_where_everything_is_asked_for(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AMGT_CHECK_ALL", raising=False)
    assert list(check.missing("a-tool", "all of it is")) == []
    assert "skipped: a-tool is not installed" in capsys.readouterr().out
    monkeypatch.setenv("AMGT_CHECK_ALL", "1")
    assert list(check.missing("a-tool", "all of it is")) == ["a-tool is not installed, so all of it is not checked"]


def test_the_images_and_manifests_give_options_that_exist() -> None:
    """Every --option in a Dockerfile's CMD, the compose file and the manifests is one of the command's."""

    def options(words: list[str]) -> set[str]:
        return {word.partition("=")[0] for word in words if word.startswith("--")}

    found: dict[str, set[str]] = {"server": set(), "client": set()}
    for name, side in (("server", "server"), ("client", "client"), ("jetson", "client")):
        text = (DEPLOY / f"Dockerfile.{name}").read_text()
        (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
        found[side] |= options(json.loads(command))
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    found["server"] |= options(compose["services"]["server"]["command"])
    for file, side in (("server.yaml", "server"), ("clients.yaml", "client")):
        for document in yaml.safe_load_all((DEPLOY / "kubernetes" / file).read_text()):
            if document["kind"] == "StatefulSet":
                found[side] |= options(document["spec"]["template"]["spec"]["containers"][0]["args"])
    for side, names in found.items():
        assert names
        text = help_of(side)
        assert [name for name in sorted(names) if f"{name} " not in text] == []
