"""`amgt-server fleet` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amgt_fed.errors import AMGTFedError
from amgt_fed.link import Bundle
from server.cli import app
from server.fleet_activity import Activity, ActivityFile


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> str:
    done = CliRunner().invoke(app, line.split())
    if isinstance(done.exception, AMGTFedError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_fleet_from_its_beginning(here: Path) -> None:
    assert "devices connect to fleet.example:7070" in run("fleet init --server fleet.example")
    assert "pi-0 is client 0" in run("fleet enroll pi-0")
    assert "host is client 4-9" in run("fleet enroll host --partition-id 4-9 --days 10 --out h.bundle")
    assert Bundle.read(here / "h.bundle").last_partition == 9
    ActivityFile(here / "fleet").add({"pi-0": Activity(1e9, 12, 3, 1_234_567, 89)})
    listed = json.loads(run("fleet list --json"))
    assert listed["servers"] == ["fleet.example:7070"]
    first, second = listed["devices"]
    assert first["last_seen"] == "2001-09-09T01:46:40+00:00"
    assert {key: first[key] for key in ("name", "state", "rounds", "failures", "sent_bytes", "received_bytes")} == {
        "name": "pi-0",
        "state": "active",
        "rounds": 12,
        "failures": 3,
        "sent_bytes": 1_234_567,
        "received_bytes": 89,
    }
    assert (second["last_seen"], second["state"]) == (None, "ends in 10 days")
    assert listed["warnings"] == ["the certificate of device host ends in 10 days: `amgt-server fleet renew host`"]
    assert "revoked pi-0" in run("fleet revoke pi-0 --reason lost")
    table = run("fleet list").splitlines()
    assert table[0].split()[:5] == ["device", "state", "client", "serial", "expires"]
    assert table[1].split()[:3] == ["pi-0", "revoked", "0"]
    assert "1,234,567" in table[1]
    assert "never" in table[2]


def test_renewal_is_of_a_device_or_of_the_server(here: Path) -> None:
    run("fleet init --server 127.0.0.1:7171 --fleet f")
    run("fleet enroll pi --fleet f")
    assert "move new.bundle over" in run("fleet renew pi --fleet f --out new.bundle --overlap-days 0")
    assert "takes it over by itself" in run("fleet renew --server --host 10.0.0.1 --fleet f")
    for line, says in (
        ("fleet renew --fleet f", "either a device's name or --server"),
        ("fleet renew pi --server --fleet f", "either a device's name or --server"),
        ("fleet renew pi --host x --fleet f", "give --server too"),
        ("fleet enroll x --partition-id 3- --fleet f", "a number or a range A-B"),
        ("fleet enroll x --partition-id -3 --fleet f", "a number or a range A-B"),
        ("fleet list", "there is no fleet in fleet"),
        ("run --fleet f --insecure", "--fleet brings its certificates"),
        ("run --fleet nowhere", "there is no fleet in nowhere"),
    ):
        with pytest.raises(AMGTFedError) as caught:
            run(line)
        assert says in str(caught.value)
