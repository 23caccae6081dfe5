"""docs/deploy.md brings up a fleet over TLS, word for word, whatever is killed; the units are what systemd accepts."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amgt_fed.engines.processes import Child, Children, free_ports

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
SCRIPTS = Path(sysconfig.get_path("scripts"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def block(name: str) -> list[list[str]]:
    """The commands of a block, each with the full path of its program."""
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, f"docs/deploy.md has no block called {name}"
    lines = [shlex.split(line) for line in found.group(1).replace("\\\n", " ").splitlines()]
    return [[str(SCRIPTS / line[0]), *line[1:]] for line in lines]


def typed(name: str) -> str:
    """Run a block's commands, one after the other; returns what the last one prints."""
    printed = ""
    for command in block(name):
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    return printed


def eventually(condition: Callable[[], object], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kill(child: Child) -> None:
    child.process.kill()
    child.process.wait(timeout=10)


@pytest.mark.timeout(240)
def test_the_page_brings_up_three_devices_over_tls_kills_at_will_and_ends_with_a_report(here: Path) -> None:
    typed("fleet")
    # The page's port may be taken on this machine.
    roll = json.loads((here / "fleet" / "fleet.json").read_text())
    address = f"127.0.0.1:{free_ports(1)[0]}"
    (here / "fleet" / "fleet.json").write_text(json.dumps({**roll, "servers": [address]}))
    for bundle in here.glob("*.bundle"):
        bundle.write_bytes(bundle.read_bytes().replace(b"127.0.0.1:7070", address.encode()))
    [server], clients = block("server"), block("clients")
    server = [*server, "--set", "client.steps=3"]  # ten rounds as printed, with less local work in each
    rounds = here / "runs" / "fleet" / "rounds.jsonl"

    def done() -> int:
        return len(rounds.read_text().splitlines()) if rounds.exists() else 0

    with Children(here / "logs", ENVIRONMENT) as children:
        first = children.start("server", server)
        devices = [children.start(f"pi-{number}", client) for number, client in enumerate(clients)]
        eventually(lambda: done() >= 2 or first.process.poll() is not None)
        kill(devices[1])
        devices[1] = children.start("pi-1-again", clients[1])
        before = done()
        eventually(lambda: done() > before or first.process.poll() is not None)
        kill(first)
        killed_at = done()
        second = children.start("server-again", server)
        assert second.process.wait(timeout=150) == 0, second.log.read_text()
        assert [device.process.wait(timeout=30) for device in devices] == [0, 0, 0]
    assert 2 <= killed_at < 10, "it was killed in the middle"
    assert [json.loads(line)["round"] for line in rounds.read_text().splitlines()] == list(range(1, 11))
    assert (here / "runs" / "fleet" / "report.html").exists()
    assert list((here / "runs" / "fleet").glob("checkpoint*")), "the trained model"
    table = typed("list").splitlines()
    assert [line.split()[:3] for line in table[1:4]] == [[f"pi-{number}", "active", str(number)] for number in range(3)]


def test_devices_come_and_go_as_the_page_says(here: Path) -> None:
    typed("fleet")
    typed("changes")
    assert (here / "pi-3.bundle").exists()
    assert (here / "pi-2.new").exists()
    table = typed("list").splitlines()
    assert [line.split()[:3] for line in table[1:5]] == [
        ["pi-0", "active", "0"],
        ["pi-1", "revoked", "1"],
        ["pi-2", "active", "2"],
        ["pi-3", "active", "3"],
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", ["amgt-server.service", "amgt-client.service"])
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    # The program of a unit must exist for the check; here it is not in /opt.
    text = (ROOT / "deploy" / "systemd" / unit).read_text()
    (tmp_path / unit).write_text(re.sub(r"/opt/amgt-fed/bin/amgt-\w+", "/bin/true", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit)], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if unit in line]
    assert not complaints


@pytest.mark.parametrize("unit", ["amgt-server", "amgt-client"])
def test_the_units_command_is_one_that_exists(unit: str) -> None:
    text = (ROOT / "deploy" / "systemd" / f"{unit}.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    command, *options = shlex.split(line)
    assert command == f"/opt/amgt-fed/bin/{unit}"
    done = subprocess.run(
        [SCRIPTS / unit, "run", "--help"],
        env={**ENVIRONMENT, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for option in options:
        assert not option.startswith("--") or re.search(rf"{option}\b", done.stdout), option
