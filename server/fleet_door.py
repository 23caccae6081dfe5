"""Who may come in: a running server's view of the roll, read again whenever the file changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import lru_cache

from cryptography import x509

from amgt_fed.link import Peer

from .fleet import DAY_S, Fleet
from .fleet_certificates import fingerprint
from .fleet_files import FleetError
from .fleet_roll import Device, Roll, date

log = logging.getLogger("amgt_fed.server.fleet")

WARN_DAYS = 30
WARN_EVERY_S = DAY_S


class FleetDoor:
    """The doorkeeper of a `LinkGrid`: lets in the devices of a fleet, each under its own identity.

    Args:
        fleet: its roll is read here, and again when it has changed. A roll that cannot be read leaves the one before in
            force, with an error in the log.
        now: the clock, seconds since 1970.

    Raises:
        FleetError: the roll cannot be read now.
    """

    def __init__(self, fleet: Fleet, now: Callable[[], float] = time.time) -> None:
        self._fleet = fleet
        self._now = now
        self._stamp = self._look()
        self._warned = float("-inf")
        self._next_end = float("inf")
        self._read(fleet.roll())

    def refuses(self, peer: Peer) -> str | None:
        """Why a peer may not come in: its certificate is not, or no longer, one of the roll's."""
        if peer.certificate is None:
            return "it shows no certificate"
        found = self._known.get(_fingerprint(peer.certificate))
        if found is None:
            return "its certificate is not in the fleet's roll; `amgt-server fleet enroll` lets a device in"
        device, certificate = found
        if peer.name.partition("/")[0] != device.name:
            return f"its certificate is that of device {device.name!r}"
        if device.revoked is not None:
            return f"device {device.name!r} was revoked on {date(device.revoked)}" + (
                f" ({device.reason})" if device.reason else ""
            )
        if certificate.expires <= self._now():
            return f"its certificate expired on {date(certificate.expires)}; `amgt-server fleet renew` makes a new one"
        if certificate.accepted_until <= self._now():
            return f"its certificate was replaced by a newer one; put that bundle on device {device.name!r}"
        return None

    def has_news(self) -> bool:
        """Whether somebody who was let in may have to leave: the roll has changed, or a certificate has ended."""
        if self._now() - self._warned >= WARN_EVERY_S:
            self._warned = self._now()
            for warning in warnings(self._fleet, self._roll, self._now()):
                log.warning(warning)
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._read(self._fleet.roll())
            except FleetError as error:
                log.error("%s; until then the roll read before stays in force", error)
                return False
            log.info("read the fleet's roll again: %d devices", len(self._roll.devices))
            return True
        if self._now() >= self._next_end:
            self._next_end = self._find_next_end()
            return True
        return False

    def refuses_client(self, name: str, client: int) -> str | None:
        """Why the node of this name may not be this client of the federation: it is another device's number."""
        device = self._roll.devices.get(name.partition("/")[0])
        if device is None or device.may_be(client):
            return None if device is not None else f"node {name} is no device of the fleet"
        own = str(device.first) if device.first == device.last else f"{device.first} to {device.last}"
        return f"device {device.name} says it is client {client}, and it was enrolled as {own}"

    def _read(self, roll: Roll) -> None:
        self._roll = roll
        self._known = roll.by_fingerprint()
        self._next_end = self._find_next_end()

    def _find_next_end(self) -> float:
        ends = (min(each.expires, each.accepted_until) for _, each in self._known.values())
        return min((end for end in ends if end > self._now()), default=float("inf"))

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._fleet.roll_file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def warnings(fleet: Fleet, roll: Roll, now: float) -> Iterator[str]:
    """What has ended or will soon, a line each: the authority's certificate, the server's, the devices'."""
    for name, file, advice in (
        ("the CA certificate", "ca.crt", "make a new fleet in time"),
        ("the server's certificate", "server.pem", "`amgt-server fleet renew --server`"),
    ):
        left = fleet.certificate(file).not_valid_after_utc.timestamp() - now
        if left < WARN_DAYS * DAY_S:
            yield f"{name} {_ends(left)}: {advice}"
    for device in roll.devices.values():
        left = device.newest.expires - now
        if device.revoked is None and left < WARN_DAYS * DAY_S:
            yield f"the certificate of device {device.name} {_ends(left)}: `amgt-server fleet renew {device.name}`"


def state_of(device: Device, now: float) -> str:
    """One word or two for a table: active, revoked, expired, or how soon it expires."""
    if device.revoked is not None:
        return "revoked"
    left = device.newest.expires - now
    if left <= 0:
        return "expired"
    return _ends(left) if left < WARN_DAYS * DAY_S else "active"


def _ends(left: float) -> str:
    return "has expired" if left <= 0 else f"ends in {left / DAY_S:.0f} days"


@lru_cache(maxsize=100_000)
def _fingerprint(pem: bytes) -> str:
    return fingerprint(x509.load_pem_x509_certificate(pem))
