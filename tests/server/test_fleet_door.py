"""Who is let in: the roll's devices, under their own names and numbers, as long as their certificates are good."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from amgt_fed.link import Bundle, Peer
from server.fleet import DAY_S, Fleet
from server.fleet_door import FleetDoor, state_of, warnings


class Site:
    """A fleet with a clock that a test can move."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        made = Fleet.init(folder / "fleet", ["h"])
        self.start = self.now = made.certificate("server.pem").not_valid_before_utc.timestamp() + 3600
        self.fleet = Fleet(folder / "fleet", now=lambda: self.now)
        self._count = 0

    def out(self) -> Path:
        self._count += 1
        return self.folder / f"{self._count}.bundle"

    def enroll(self, name: str, **options: object) -> Peer:
        path = self.out()
        self.fleet.enroll(name, path, **options)  # type: ignore[arg-type]
        return self.peer(path)

    def renew(self, name: str, **options: object) -> Peer:
        path = self.out()
        self.fleet.renew(name, path, **options)  # type: ignore[arg-type]
        return self.peer(path)

    def peer(self, path: Path) -> Peer:
        bundle = Bundle.read(path)
        return Peer(bundle.name, bundle.certificate, "ipv4:127.0.0.1:1")

    def door(self) -> FleetDoor:
        return FleetDoor(self.fleet, now=lambda: self.now)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_devices_of_the_roll_come_in_and_nobody_else(site: Site, tmp_path: Path) -> None:
    pi = site.enroll("pi")
    door = site.door()
    assert door.refuses(pi) is None
    assert door.refuses(dataclasses.replace(pi, name="pi/3")) is None
    assert "no certificate" in str(door.refuses(dataclasses.replace(pi, certificate=None)))
    assert "that of device 'pi'" in str(door.refuses(dataclasses.replace(pi, name="other")))
    (tmp_path / "elsewhere").mkdir()
    stranger = Site(tmp_path / "elsewhere").enroll("pi")
    assert "not in the fleet's roll" in str(door.refuses(stranger))


def test_a_change_of_the_roll_is_noticed_once_and_revocation_is_final(site: Site) -> None:
    pi, other = site.enroll("pi"), site.enroll("other")
    door = site.door()
    assert not door.has_news()
    site.fleet.revoke("pi", "stolen")
    assert door.refuses(pi) is None, "not read yet"
    assert door.has_news()
    assert not door.has_news()
    assert str(door.refuses(pi)).startswith("device 'pi' was revoked on ")
    assert str(door.refuses(pi)).endswith("(stolen)")
    assert door.refuses(other) is None
    back = site.enroll("pi")
    assert door.has_news()
    assert door.refuses(back) is None
    assert "replaced" in str(door.refuses(pi)), "the certificate of before the revocation stays out"


def test_a_new_device_is_known_without_a_restart(site: Site) -> None:
    door = site.door()
    late = site.enroll("late")
    assert "not in the fleet's roll" in str(door.refuses(late))
    assert door.has_news()
    assert door.refuses(late) is None


def test_old_certificates_end_when_they_are_due_while_the_device_is_connected(site: Site) -> None:
    old = site.enroll("pi", days=100)
    door = site.door()
    new = site.renew("pi", days=300, overlap_days=7)
    assert door.has_news()
    assert door.refuses(old) is None
    assert door.refuses(new) is None
    site.now += 7 * DAY_S - 1
    assert not door.has_news()
    site.now += 2
    assert door.has_news()
    assert not door.has_news()
    assert "replaced by a newer one" in str(door.refuses(old))
    assert door.refuses(new) is None
    site.now = site.start + 301 * DAY_S
    assert door.has_news()
    assert "expired on" in str(door.refuses(new))
    leaked = site.renew("pi", overlap_days=0)
    assert door.has_news()
    assert "replaced" in str(door.refuses(site.peer(site.folder / "2.bundle"))) or "expired" in str(door.refuses(new))
    assert door.refuses(leaked) is None


def test_a_roll_that_cannot_be_read_leaves_the_one_before_in_force(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    pi = site.enroll("pi")
    door = site.door()
    good = site.fleet.roll_file.read_bytes()
    site.fleet.roll_file.write_bytes(good[:40])
    assert not door.has_news()
    assert not door.has_news()
    assert caplog.text.count("roll is damaged") == 1
    assert "stays in force" in caplog.text
    assert door.refuses(pi) is None
    site.fleet.roll_file.unlink()
    assert not door.has_news()
    site.fleet.roll_file.write_bytes(good)
    site.fleet.revoke("pi")
    assert door.has_news()
    assert door.refuses(pi) is not None


def test_a_device_is_the_clients_it_was_enrolled_as_and_no_others(site: Site) -> None:
    site.enroll("pi")
    site.enroll("host", partitions=(4, 6))
    door = site.door()
    assert door.refuses_client("pi", 0) is None
    assert door.refuses_client("pi", 1) == "device pi says it is client 1, and it was enrolled as 0"
    assert [door.refuses_client(f"host/{client}", client) for client in (4, 5, 6)] == [None] * 3
    assert "enrolled as 4 to 6" in str(door.refuses_client("host/0", 0))
    assert "no device of the fleet" in str(door.refuses_client("stranger", 0))


def test_certificates_that_end_soon_are_told_once_a_day(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.enroll("pi", days=20)
    site.enroll("long", days=900)
    door = site.door()
    with caplog.at_level(logging.WARNING):
        assert not door.has_news()
        site.now += 3600
        assert not door.has_news()
        assert caplog.text.count("certificate of device pi ends in 20 days: `amgt-server fleet renew pi`") == 1
        site.now += DAY_S
        assert not door.has_news()
    assert caplog.text.count("device pi ends in") == 2
    assert "long" not in caplog.text
    roll = site.fleet.roll()
    site.now = site.start + 400 * DAY_S
    assert [line.split(":")[0] for line in warnings(site.fleet, roll, site.now)] == [
        "the server's certificate has expired",
        "the certificate of device pi has expired",
    ]
    assert state_of(roll.devices["pi"], site.now) == "expired"
    assert state_of(roll.devices["pi"], site.start) == "ends in 20 days"
    assert state_of(roll.devices["long"], site.start) == "active"
