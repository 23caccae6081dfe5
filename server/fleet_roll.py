"""The roll of a fleet: which certificates are whose, and until when; one JSON file."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .fleet_files import FleetError

FORMAT = "amgt-fleet-1"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made for a device; times in seconds since 1970, UTC."""

    serial: str  # hexadecimal
    fingerprint: str  # SHA-256 of the DER form, hexadecimal
    issued: float
    expires: float
    accepted_until: float  # earlier than `expires` once it is replaced


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the fleet, and the clients of a federation that it may be: `first` to `last`."""

    name: str
    first: int
    last: int
    enrolled: float
    certificates: tuple[Issued, ...]  # newest last; those of before a revocation are among them, not accepted any more
    revoked: float | None = None
    reason: str = ""

    @property
    def newest(self) -> Issued:
        """The certificate it has, or should by now have, in use."""
        return self.certificates[-1]

    def may_be(self, client: int) -> bool:
        """Whether it may take part as this client of the federation."""
        return self.first <= client <= self.last


@dataclass(frozen=True, slots=True)
class Roll:
    """Who belongs to a fleet, and how its server is reached."""

    servers: tuple[str, ...]  # HOST:PORT; the first is what devices are told, all hosts are in the certificate
    devices: Mapping[str, Device] = field(default_factory=dict)

    def with_device(self, device: Device) -> Roll:
        """The roll with a device added or replaced."""
        return dataclasses.replace(self, devices={**self.devices, device.name: device})

    def device(self, name: str) -> Device:
        """A device by its name.

        Raises:
            FleetError: there is none of this name.
        """
        if name not in self.devices:
            raise FleetError(f"no device is called {name!r}; `amgt-server fleet list` shows those there are")
        return self.devices[name]

    def owner_of(self, client: int) -> Device | None:
        """The device that may be this client, unless it was revoked."""
        owners = (device for device in self.devices.values() if device.revoked is None and device.may_be(client))
        return next(owners, None)

    def by_fingerprint(self) -> dict[str, tuple[Device, Issued]]:
        """Every certificate that was ever made, with its device."""
        return {each.fingerprint: (device, each) for device in self.devices.values() for each in device.certificates}

    def to_bytes(self) -> bytes:
        """The file's content."""
        facts = {
            "format": FORMAT,
            "servers": list(self.servers),
            "devices": [dataclasses.asdict(device) for device in self.devices.values()],
        }
        return (json.dumps(facts, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Roll:
        """Read the file's content.

        Raises:
            FleetError: it is damaged, or of a format this version does not know.
        """
        try:
            facts = json.loads(data)
            if facts["format"] != FORMAT:
                raise ValueError(f"format {facts['format']!r} is not {FORMAT!r}")
            devices = {device.name: device for device in _devices(facts["devices"])}
            return cls(tuple(str(server) for server in facts["servers"]), devices)
        except (ValueError, KeyError, TypeError) as error:
            raise FleetError(
                f"the fleet's roll is damaged ({type(error).__name__}: {error}); restore a copy"
            ) from error


def _devices(rows: list[dict[str, Any]]) -> Iterator[Device]:
    for row in rows:
        device = Device(**{**row, "certificates": tuple(Issued(**each) for each in row["certificates"])})
        if not device.certificates:
            raise ValueError(f"device {device.name!r} has no certificate")
        yield device


def date(seconds: float) -> str:
    """A moment as a day, UTC."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d}"
