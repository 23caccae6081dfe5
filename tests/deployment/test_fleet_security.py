"""Who is let in and who is not, with real processes over real TLS: `fleet enroll`, `revoke` and `renew` at work."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.fleet_certificates import Authority
from tests.helpers.fleets import fleet_command, make_fleet

Fleet = Any  # of conftest.py
Wait = Callable[..., None]


def knock(address: str, pem: Path, ca: Path) -> bytes:
    """Connect with a certificate and return the first byte the server says: none if it does not want us."""
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        try:
            return connection.recv(1)
        except ssl.SSLError:
            return b""


def test_revoked_unknown_and_expired_devices_are_refused_and_logged_and_renewal_drops_nobody(
    fleet: Fleet, wait: Wait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    folder = tmp_path / "fleet"
    bundles = make_fleet(tmp_path, ["good", "stolen"])
    fleet.security = ["--fleet", str(folder)]
    server, address = fleet.server(rounds=2, clients=3, pace=0.1)  # a round needs three, so nothing begins yet
    good, stolen = (
        fleet.client(address, index, security=["--bundle", str(bundles[name])])
        for index, name in enumerate(["good", "stolen"])
    )
    wait(lambda: fleet.log("server").count(" joined ") == 2)

    fleet_command("revoke", "stolen", "--fleet", str(folder), "--reason", "left in a taxi")
    revoked = time.monotonic()
    assert stolen.wait(10) == 77
    assert time.monotonic() - revoked < 5
    last = fleet.log("client-1").strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "shut node 'stolen' out: device 'stolen' was revoked on" in last
    assert last.endswith("(left in a taxi)")
    assert "shut out node stolen" in fleet.log("server")
    again = fleet.client(address, 1, security=["--bundle", str(bundles["stolen"])])
    assert again.wait(30) == 77
    assert "refuses node 'stolen'" in fleet.log("client-1")
    assert "refused ipv4:127.0.0.1" in fleet.log("server")

    # A certificate of our own authority that the roll does not know.
    authority = Authority((folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes())
    forged = authority.issue_device("good", 100)
    pem = bundles["stolen"].read_bytes()
    head, _, tail = pem.partition(b"-----BEGIN CERTIFICATE-----")
    ca = tail[tail.index(b"-----BEGIN CERTIFICATE-----") :]
    (tmp_path / "forged.bundle").write_bytes(head + forged.pem + forged.key + ca)
    unknown = fleet.client(address, 1, security=["--bundle", str(tmp_path / "forged.bundle")])
    assert unknown.wait(30) == 77
    assert "its certificate is not in the fleet's roll" in fleet.log("server")

    expired = authority.issue_device("good", 0)
    (tmp_path / "expired.pem").write_bytes(expired.pem + expired.key)
    time.sleep(1.1)
    assert knock(address, tmp_path / "expired.pem", folder / "ca.crt") == b""
    wait(lambda: "certificate has expired" in fleet.log("server"))

    # The newcomers: one new, one in the place of the revoked. The good one's certificate changes under way.
    for name in ("new-1", "new-2"):
        bundles[name] = tmp_path / f"{name}.bundle"
        fleet_command("enroll", name, "--fleet", str(folder), "--out", str(bundles[name]))
    fleet_command("renew", "good", "--fleet", str(folder), "--out", str(tmp_path / "renewed"), "--overlap-days", "1")
    (tmp_path / "renewed").replace(bundles["good"])
    wait(lambda: "the certificate was renewed" in fleet.log("client-0"))
    wait(lambda: "node good is back" in fleet.log("server"))
    fleet_command("renew", "--server", "--fleet", str(folder))
    newcomers = [
        fleet.client(address, index, security=["--bundle", str(bundles[name])])
        for index, name in ((1, "new-1"), (2, "new-2"))
    ]
    assert [process.wait(60) for process in (server, good, *newcomers)] == [0, 0, 0, 0], fleet.log("server")
    assert fleet.state()["round"] == 2
    assert len({call.split()[1] for call in fleet.calls(0)}) == 1, "the same process all the time"

    listed = json.loads(fleet_command("list", "--json", "--fleet", str(folder)))["devices"]
    assert [(row["name"], row["state"], row["rounds"], row["failures"], row["partitions"]) for row in listed] == [
        ("good", "active", 2, 0, [0, 0]),
        ("stolen", "revoked", 0, 0, [1, 1]),
        ("new-1", "active", 2, 0, [1, 1]),
        ("new-2", "active", 2, 0, [2, 2]),
    ]
    assert all(row["last_seen"] is not None and row["received_bytes"] > 0 for row in listed)
    assert "Traceback" not in fleet.log("server")


def test_a_device_cannot_pose_as_the_server_or_the_server_as_a_device(fleet: Fleet, tmp_path: Path) -> None:
    bundles = make_fleet(tmp_path, ["pi"])
    ca = str(tmp_path / "fleet" / "ca.crt")
    device, server_pem = str(bundles["pi"]), str(tmp_path / "fleet" / "server.pem")
    fleet.security = ["--ca", ca, "--cert", device, "--key", device]
    false_server, address = fleet.server()
    victim = fleet.client(address, 0, security=["--bundle", device])
    assert victim.wait(30) == 2
    assert "the certificate of the server at" in fleet.log("client-0")
    assert "joined" not in fleet.log("server")
    false_server.kill()
    false_server.wait(10)
    fleet.security = ["--fleet", str(tmp_path / "fleet")]
    _, address = fleet.server()
    posing = fleet.client(address, 1, security=["--ca", ca, "--cert", server_pem, "--key", server_pem])
    assert posing.wait(30) == 2
    assert "does not accept" in fleet.log("client-1")
