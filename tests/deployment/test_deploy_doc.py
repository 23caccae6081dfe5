"""docs/deploy.md brings up a fleet over TLS, word for word; the units are what systemd accepts."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sysconfig
from pathlib import Path

import pytest

from amgt_fed.engines.processes import Children, free_ports

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, f"docs/deploy.md has no block called {name}"
    return found.group(1).replace("\\\n", " ")


@pytest.mark.timeout(240)
def test_the_page_brings_up_three_devices_over_tls_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = str(free_ports(1)[0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    subprocess.run(["bash", "-c", block("certificates")], check=True, capture_output=True, timeout=60)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").glob("*.key")}
    assert modes == dict.fromkeys(["ca.key", "server.key", "pi-0.key", "pi-1.key", "pi-2.key"], 0o600)
    scripts = Path(sysconfig.get_path("scripts"))
    server = shlex.split(block("server").replace("7070", port))
    clients = [shlex.split(line.replace("7070", port)) for line in block("clients").splitlines()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with Children(tmp_path / "logs", environment) as children:
        # Ten rounds as printed, with less local work in each.
        started = children.start("server", [str(scripts / server[0]), *server[1:], "--set", "client.steps=3"])
        devices = [
            children.start(f"pi-{number}", [str(scripts / client[0]), *client[1:]])
            for number, client in enumerate(clients)
        ]
        assert started.process.wait(timeout=200) == 0
        assert [device.process.wait(timeout=30) for device in devices] == [0, 0, 0]
    assert (tmp_path / "runs" / "fleet" / "report.html").exists()


def test_certificates_are_kept_when_devices_are_added(tmp_path: Path) -> None:
    command = [str(ROOT / "deploy" / "make_certificates.sh"), str(tmp_path / "tls"), "fleet.example", "one"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    before = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir() if path.suffix in (".crt", ".key")}
    subprocess.run([*command, "two"], check=True, capture_output=True, timeout=60)
    after = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    assert {name: after[name] for name in before} == before
    assert "two.crt" in after


def test_too_few_words_are_explained(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "deploy" / "make_certificates.sh"), str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "SERVER_NAME DEVICE" in done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", ["amgt-server.service", "amgt-client.service"])
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    # The program of a unit must exist for the check; here it is not in /opt.
    text = (ROOT / "deploy" / "systemd" / unit).read_text()
    (tmp_path / unit).write_text(re.sub(r"/opt/amgt-fed/bin/amgt-\w+", "/bin/true", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit)], capture_output=True, text=True, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if unit in line]
    assert not complaints
