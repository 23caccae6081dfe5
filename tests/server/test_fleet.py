"""A fleet's directory: what is in it, who may read it, and that two writers do not meet."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from amgt_fed.link import AddressError, Bundle
from server.fleet import DAY_S, Fleet
from server.fleet_certificates import Authority
from server.fleet_files import FleetError, locked, write_file
from server.fleet_roll import Roll


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.init(tmp_path / "fleet", ["fleet.example:7443", "10.0.0.5", "[fd00::1]:9000"])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_readable_by_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Fleet.init(tmp_path / "fleet", ["fleet.example"])
        made.enroll("pi-0", tmp_path / "pi-0.bundle")
    finally:
        os.umask(before)
    assert mode(made.folder) == 0o700
    modes = {path.name: mode(path) for path in made.folder.iterdir()}
    assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "server.pem": 0o600, "fleet.json": 0o600, ".lock": 0o600}
    assert mode(tmp_path / "pi-0.bundle") == 0o600


def test_the_servers_certificate_names_every_host_and_serves_servers_alone(fleet: Fleet) -> None:
    certificate = fleet.certificate("server.pem")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [
        "fleet.example",
        "10.0.0.5",
        "fd00::1",
        "localhost",
        "127.0.0.1",
    ]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert fleet.roll().servers == ("fleet.example:7443", "10.0.0.5:7070", "[fd00::1]:9000")
    ca = fleet.certificate("ca.crt")
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert 3649 <= (ca.not_valid_after_utc - ca.not_valid_before_utc).days <= 3650
    certificate.verify_directly_issued_by(ca)


def test_a_bundle_is_all_a_device_needs_and_no_key_of_it_stays(fleet: Fleet, tmp_path: Path) -> None:
    device = fleet.enroll("pi-0", tmp_path / "pi-0.bundle")
    bundle, tls = Bundle.load(tmp_path / "pi-0.bundle")
    assert (bundle.name, str(bundle.server), bundle.first_partition) == ("pi-0", "fleet.example:7443", 0)
    certificate = x509.load_pem_x509_certificate(tls.certificate)
    certificate.verify_directly_issued_by(fleet.certificate("ca.crt"))
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert device.newest.serial == f"{certificate.serial_number:x}"
    secret = bundle.key.split(b"\n")[1]
    assert all(secret not in path.read_bytes() for path in fleet.folder.iterdir())


def test_partitions_are_given_out_from_the_lowest_and_never_twice(fleet: Fleet, tmp_path: Path) -> None:
    def enroll(name: str, partitions: tuple[int, int] | None = None) -> tuple[int, int]:
        device = fleet.enroll(name, tmp_path / f"{name}.bundle", partitions=partitions)
        return device.first, device.last

    assert enroll("a") == (0, 0)
    assert enroll("host", (2, 4)) == (2, 4)
    assert enroll("b") == (1, 1)
    assert enroll("c") == (5, 5)
    with pytest.raises(FleetError, match="partition 4 belongs to device 'host'"):
        enroll("d", (4, 6))
    with pytest.raises(FleetError, match="no range"):
        enroll("d", (4, 3))
    fleet.revoke("b")
    assert enroll("d") == (1, 1)
    with pytest.raises(FleetError, match="partition 1 belongs to device 'd'"):
        enroll("b", (1, 1))


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "-x", "x" * 129, "é"])
def test_a_name_that_could_be_mistaken_is_refused(fleet: Fleet, tmp_path: Path, name: str) -> None:
    with pytest.raises(FleetError):
        fleet.enroll(name, tmp_path / "x.bundle")
    assert not (tmp_path / "x.bundle").exists()
    assert fleet.roll().devices == {}


def test_renewal_keeps_the_old_certificate_for_a_while_and_revocation_does_not(tmp_path: Path) -> None:
    now = [1_000_000_000.0]
    Fleet.init(tmp_path / "fleet", ["h"])
    fleet = Fleet(tmp_path / "fleet", now=lambda: now[0])
    first = fleet.enroll("pi", tmp_path / "1").newest
    renewed = fleet.renew("pi", tmp_path / "2", overlap_days=3)
    assert [each.fingerprint for each in renewed.certificates] == [first.fingerprint, renewed.newest.fingerprint]
    assert renewed.certificates[0].accepted_until == now[0] + 3 * DAY_S
    assert renewed.newest.accepted_until == renewed.newest.expires
    now[0] += DAY_S
    again = fleet.renew("pi", tmp_path / "3", overlap_days=30)
    assert again.certificates[0].accepted_until == 1_000_000_000.0 + 3 * DAY_S, "an earlier end stays"
    fleet.revoke("pi", "lost")
    with pytest.raises(FleetError, match=r"revoked on 2001-09-1\d already"):
        fleet.revoke("pi")
    with pytest.raises(FleetError, match="`enroll` lets it in again"):
        fleet.renew("pi", tmp_path / "4")
    back = fleet.enroll("pi", tmp_path / "4")
    assert back.revoked is None
    assert all(each.accepted_until <= now[0] for each in back.certificates[:-1])


def test_what_cannot_be_done_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    fleet.enroll("pi", tmp_path / "pi.bundle")
    before = {path.name: path.read_bytes() for path in fleet.folder.iterdir()}
    bundle = (tmp_path / "pi.bundle").read_bytes()
    attempts = [
        (lambda: fleet.enroll("pi", tmp_path / "x"), "device 'pi' is enrolled"),
        (lambda: fleet.enroll("new", tmp_path / "pi.bundle"), "pi.bundle exists"),
        (lambda: fleet.enroll("new", tmp_path / "no" / "x"), "is no directory"),
        (lambda: fleet.renew("pi", tmp_path / "pi.bundle"), "pi.bundle exists"),
        (lambda: fleet.renew("nobody", tmp_path / "x"), "no device is called 'nobody'"),
        (lambda: fleet.revoke("nobody"), "no device is called 'nobody'"),
        (lambda: Fleet.init(fleet.folder, ["h"]), "is not empty"),
        (lambda: Fleet(tmp_path / "nowhere"), "amgt-server fleet init"),
        (lambda: Fleet.init(tmp_path / "f2", ["é.example"]), "cannot stand in a certificate"),
    ]
    for attempt, says in attempts:
        with pytest.raises(FleetError) as caught:
            attempt()
        assert says in str(caught.value)
    with pytest.raises(AddressError):
        Fleet.init(tmp_path / "f2", ["h:port"])
    assert {path.name: path.read_bytes() for path in fleet.folder.iterdir()} == before
    assert (tmp_path / "pi.bundle").read_bytes() == bundle
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet", "pi.bundle"]


def test_the_authoritys_key_may_be_kept_elsewhere(fleet: Fleet, tmp_path: Path) -> None:
    away = tmp_path / "usb.key"
    (fleet.folder / "ca.key").rename(away)
    with pytest.raises(FleetError, match="--ca-key"):
        fleet.enroll("pi", tmp_path / "pi.bundle")
    fleet.enroll("pi", tmp_path / "pi.bundle", ca_key=away)
    fleet.renew_server(ca_key=away)
    fleet.tls()
    other = Fleet.init(tmp_path / "other", ["h"])
    with pytest.raises(FleetError, match="not that of this fleet"):
        fleet.renew("pi", tmp_path / "x", ca_key=other.folder / "ca.key")
    away.chmod(0o644)
    with pytest.raises(FleetError, match=r"mode 0644.*chmod 600"):
        fleet.renew("pi", tmp_path / "x", ca_key=away)


def test_the_servers_renewal_adds_names_and_changes_the_key(fleet: Fleet) -> None:
    before = fleet.tls_files.key.read_bytes()
    fleet.renew_server(["192.0.2.7"])
    assert fleet.tls_files.key.read_bytes() != before
    assert mode(fleet.tls_files.key) == 0o600
    assert fleet.roll().servers == ("fleet.example:7443", "10.0.0.5:7070", "[fd00::1]:9000", "192.0.2.7:7443")
    assert (
        "192.0.2.7"
        in fleet.certificate("server.pem")
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value.get_values_for_type(x509.IPAddress)
        .__str__()
    )


def test_an_expired_authority_signs_nothing(tmp_path: Path) -> None:
    made = Fleet.init(tmp_path / "f", ["h"])
    from server.fleet_certificates import make_authority

    old = make_authority(days=0)
    with pytest.raises(FleetError, match="CA has expired"):
        Authority(old.pem, old.key)
    with pytest.raises(FleetError, match="cannot be read"):
        Authority(b"x", (made.folder / "ca.key").read_bytes())


def test_two_writers_wait_for_each_other(fleet: Fleet, tmp_path: Path) -> None:
    names = [f"pi-{index}" for index in range(12)]
    threads = [threading.Thread(target=fleet.enroll, args=(name, tmp_path / name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    devices = fleet.roll().devices
    assert sorted(devices) == sorted(names)
    assert sorted(device.first for device in devices.values()) == list(range(12))


def test_a_lock_that_is_never_released_is_told_and_ends_with_its_process(tmp_path: Path) -> None:
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print(flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(FleetError, match="another process has held"), locked(tmp_path / "lock", wait_s=0.1):
            pass
    finally:
        process.kill()
        process.communicate()
    with locked(tmp_path / "lock", wait_s=1.0):
        pass


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "roll"
    write_file(path, b"old", 0o600)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new", 0o600)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"null", b'{"format": "amgt-fleet-9"}'])
def test_a_damaged_roll_is_named(fleet: Fleet, damage: bytes) -> None:
    fleet.roll_file.write_bytes(damage)
    with pytest.raises(FleetError, match="roll is damaged"):
        fleet.roll()


def test_a_roll_that_is_cut_anywhere_is_not_taken_for_a_whole_one(fleet: Fleet, tmp_path: Path) -> None:
    fleet.enroll("pi", tmp_path / "pi.bundle")
    data = fleet.roll_file.read_bytes()
    assert Roll.from_bytes(data) == fleet.roll()
    for cut in range(len(data) - 2):
        with pytest.raises(FleetError):
            Roll.from_bytes(data[:cut])
