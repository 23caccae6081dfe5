"""A fleet on disk: its authority, its server's certificate and the roll of its devices."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from cryptography import x509

from amgt_fed.errors import WireError
from amgt_fed.link import Address, Bundle, Tls, TlsFiles
from amgt_fed.link.frames import check_name

from .fleet_certificates import CA_DAYS, DAYS, Authority, Made, fingerprint, make_authority
from .fleet_files import PRIVATE, PUBLIC, FleetError, check_private, locked, write_file
from .fleet_roll import Device, Issued, Roll, date

OVERLAP_DAYS = 7
DAY_S = 86400.0
DEFAULT_PORT = 7070
_LOCAL = ("localhost", "127.0.0.1")


class Fleet:
    """Open a fleet's directory.

    It holds `ca.crt`, `ca.key` (which may be kept elsewhere), `server.pem` (certificate and key in one file, so that
    they are replaced together) and `fleet.json`, the roll. A device's key is in its bundle alone, never here.

    Args:
        folder: made by `init`.
        now: the clock, seconds since 1970.

    Raises:
        FleetError: there is no fleet.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.roll_file = folder / "fleet.json"
        self.tls_files = TlsFiles(folder / "ca.crt", folder / "server.pem", folder / "server.pem")
        self._now = now
        if not self.roll_file.exists():
            raise FleetError(f"there is no fleet in {folder}; `amgt-server fleet init --fleet {folder}` makes one")

    @classmethod
    def init(
        cls, folder: Path, servers: Sequence[str], *, days: int = DAYS, ca_days: int = CA_DAYS, port: int = DEFAULT_PORT
    ) -> Fleet:
        """Make an authority, a server certificate and an empty roll; all of it or nothing.

        Args:
            folder: absent or empty.
            servers: HOST or HOST:PORT as devices will write it; the first is what they are told.
            days, ca_days: how long the server's certificate and the authority are valid.
            port: where a server gives none.

        Raises:
            FleetError: the folder is in use, or a host cannot stand in a certificate.
            AddressError: a server is not HOST or HOST:PORT.
        """
        if not servers:
            raise FleetError("name the server as devices will reach it: --server HOST:PORT")
        addresses = [_address(server, port) for server in servers]
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FleetError(f"{folder} is not empty; choose a new directory for the fleet")
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        made = make_authority(ca_days)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))  # mode 0700
        try:
            write_file(scratch / "ca.key", made.key, PRIVATE)
            write_file(scratch / "ca.crt", made.pem, PUBLIC)
            server = Authority(made.pem, made.key).issue_server(_hosts(addresses), days)
            write_file(scratch / "server.pem", server.pem + server.key, PRIVATE)
            write_file(scratch / "fleet.json", Roll(tuple(map(str, addresses))).to_bytes(), PRIVATE)
            scratch.replace(folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return cls(folder)

    def roll(self) -> Roll:
        """The roll as it is on disk now.

        Raises:
            FleetError: it cannot be read.
        """
        try:
            return Roll.from_bytes(self.roll_file.read_bytes())
        except OSError as error:
            raise FleetError(f"cannot read {self.roll_file}: {error.strerror}") from error

    def tls(self) -> Tls:
        """The server's certificates.

        Raises:
            FleetError: others may read the key.
            CredentialsError: they cannot be used, or have expired.
        """
        if self.tls_files.key.exists():
            check_private(self.tls_files.key)
        return Tls.load(self.tls_files)

    def certificate(self, name: str) -> x509.Certificate:
        """The certificate in the file `ca.crt` or `server.pem`.

        Raises:
            FleetError: it cannot be read.
        """
        path = self.folder / name
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise FleetError(f"cannot read the certificate {path}: {error}") from error

    def enroll(
        self,
        name: str,
        out: Path,
        *,
        partitions: tuple[int, int] | None = None,
        days: int = DAYS,
        ca_key: Path | None = None,
    ) -> Device:
        """Let a device in: make its key and certificate, and write both into the bundle file `out`.

        Args:
            name: letters, digits, dots, dashes and underscores; the device's identity from now on.
            out: must not exist.
            partitions: the first and the last client of the federation it may be; None: the lowest free number.
            days: how long the certificate is valid.
            ca_key: where the authority's key is, unless in the fleet's directory.

        Raises:
            FleetError: the name or a partition is taken, `out` exists, or the authority's key is not here.
        """
        _check_name(name)
        with self._locked():
            roll = self.roll()
            before = roll.devices.get(name)
            if before is not None and before.revoked is None:
                raise FleetError(f"device {name!r} is enrolled; `renew` makes a new bundle, `revoke` shuts it out")
            first, last = partitions or (_free(roll),) * 2
            if not 0 <= first <= last:
                raise FleetError(f"partitions {first} to {last} are no range; they count from 0")
            for client in range(first, last + 1):
                if (owner := roll.owner_of(client)) is not None:
                    raise FleetError(
                        f"partition {client} belongs to device {owner.name!r}; choose another or revoke that one"
                    )
            certificates = before.certificates if before is not None else ()
            made = self._authority(ca_key).issue_device(name, days)
            device = Device(name, first, last, self._now(), (*self._ended(certificates, 0.0), _issued(made)))
            self._hand_out(roll.with_device(device), device, made, out)
            return device

    def renew(
        self,
        name: str,
        out: Path,
        *,
        days: int = DAYS,
        overlap_days: float = OVERLAP_DAYS,
        ca_key: Path | None = None,
    ) -> Device:
        """Make a device a new key and certificate in a new bundle.

        Args:
            name: of an enrolled device.
            out: must not exist.
            days: how long the new certificate is valid.
            overlap_days: how long the old ones are accepted beside it, if they do not end before.
            ca_key: where the authority's key is, unless in the fleet's directory.

        Raises:
            FleetError: there is no such device, it was revoked, or as for `enroll`.
        """
        with self._locked():
            roll = self.roll()
            device = roll.device(name)
            if device.revoked is not None:
                raise FleetError(f"device {name!r} was revoked on {date(device.revoked)}; `enroll` lets it in again")
            made = self._authority(ca_key).issue_device(name, days)
            kept = self._ended(device.certificates, overlap_days * DAY_S)
            device = dataclasses.replace(device, certificates=(*kept, _issued(made)))
            self._hand_out(roll.with_device(device), device, made, out)
            return device

    def revoke(self, name: str, reason: str = "") -> Device:
        """Shut a device out; a running server drops it within a second.

        Raises:
            FleetError: there is no such device, or it was revoked already.
        """
        with self._locked():
            roll = self.roll()
            device = roll.device(name)
            if device.revoked is not None:
                raise FleetError(f"device {name!r} was revoked on {date(device.revoked)} already")
            device = dataclasses.replace(device, revoked=self._now(), reason=reason)
            write_file(self.roll_file, roll.with_device(device).to_bytes(), PRIVATE)
            return device

    def renew_server(self, hosts: Sequence[str] = (), *, days: int = DAYS, ca_key: Path | None = None) -> None:
        """Make the server a new key and certificate; a running server shows it to whoever connects from then on.

        Args:
            hosts: names or addresses to add to those it had.
            days: how long it is valid.
            ca_key: where the authority's key is, unless in the fleet's directory.

        Raises:
            FleetError: the authority's key is not here.
        """
        with self._locked():
            roll = self.roll()
            added = [str(_address(host, Address.parse(roll.servers[0]).port)) for host in hosts]
            roll = dataclasses.replace(roll, servers=tuple(dict.fromkeys([*roll.servers, *added])))
            addresses = [Address.parse(server) for server in roll.servers]
            made = self._authority(ca_key).issue_server(_hosts(addresses), days)
            write_file(self.roll_file, roll.to_bytes(), PRIVATE)
            write_file(self.tls_files.certificate, made.pem + made.key, PRIVATE)

    def _hand_out(self, roll: Roll, device: Device, made: Made, out: Path) -> None:
        ca = self.tls_files.ca.read_bytes()
        server = Address.parse(roll.servers[0])
        bundle = Bundle(device.name, server, device.first, device.last, made.pem, made.key, ca)
        if out.exists():
            raise FleetError(f"{out} exists; move it away, or name another file with --out")
        if not out.parent.is_dir():
            raise FleetError(f"{out.parent} is no directory; make it first, or name another file with --out")
        write_file(out, bundle.to_bytes(), PRIVATE)
        try:
            write_file(self.roll_file, roll.to_bytes(), PRIVATE)
        except BaseException:
            out.unlink()  # nobody would know it
            raise

    def _ended(self, certificates: Sequence[Issued], overlap_s: float) -> tuple[Issued, ...]:
        until = self._now() + overlap_s
        return tuple(dataclasses.replace(each, accepted_until=min(each.accepted_until, until)) for each in certificates)

    def _authority(self, ca_key: Path | None) -> Authority:
        path = ca_key or self.folder / "ca.key"
        if not path.exists():
            raise FleetError(f"the authority's key is not at {path}; give the place you keep it with --ca-key")
        check_private(path)
        return Authority(self.tls_files.ca.read_bytes(), path.read_bytes())

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.folder / ".lock")


def _address(server: str, port: int) -> Address:
    bare = server.count(":") == 0 or (server.startswith("[") and server.endswith("]"))
    return Address.parse(f"{server}:{port}" if bare else server)


def _hosts(addresses: Sequence[Address]) -> list[str]:
    return list(dict.fromkeys([*(address.host for address in addresses), *_LOCAL]))


def _issued(made: Made) -> Issued:
    certificate = made.certificate
    expires = certificate.not_valid_after_utc.timestamp()
    issued = certificate.not_valid_before_utc.timestamp()
    return Issued(f"{certificate.serial_number:x}", fingerprint(certificate), issued, expires, expires)


def _free(roll: Roll) -> int:
    client = 0
    while (owner := roll.owner_of(client)) is not None:
        client = owner.last + 1
    return client


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except WireError as error:
        raise FleetError(str(error)) from error
    if "/" in name:
        raise FleetError(f"device name {name!r} has a slash; what stands after one tells apart the nodes of a device")
