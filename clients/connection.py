"""Where the server is, and with which certificates it is reached."""

from __future__ import annotations

import datetime
import logging
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amgt_fed.cli.service import security
from amgt_fed.errors import ConfigError

if TYPE_CHECKING:
    from amgt_fed.link import Address, Bundle, Tls

log = logging.getLogger("amgt_fed.client")

WARN_DAYS = 30


@dataclass(frozen=True, slots=True)
class Connection:
    """How a client reaches its server."""

    address: Address
    tls: Tls | None  # None: plaintext, on loopback
    bundle: Bundle | None
    certificates: Callable[[], Tls | None]  # as they are on disk now


def connection(
    server: str | None, path: Path | None, *, insecure: bool, ca: Path | None, cert: Path | None, key: Path | None
) -> Connection:
    """Read the options that say where the server is and who we are.

    Args:
        server: HOST:PORT; None takes the bundle's.
        path: the device's bundle.
        insecure, ca, cert, key: the other ways; not together with a bundle.

    Raises:
        ConfigError: there is no server, or there are two ways at once.
        LinkError: the certificates cannot be used; see `amgt_fed.link`.
    """
    from amgt_fed.link import Address, Bundle, Renewal, Tls

    bundle: Bundle | None = None
    if path is None:
        if server is None:
            raise ConfigError("where is the server? give --bundle FILE, or --server HOST:PORT")
        address = Address.parse(server)
        tls = security(address, insecure=insecure, ca=ca, cert=cert, key=key, instead="--bundle")
        if tls is None:
            return Connection(address, None, None, lambda: None)
        files = tls.files
        renewal = Renewal(tls, lambda: Tls.load(files))
    else:
        if insecure or ca is not None or cert is not None or key is not None:
            raise ConfigError("--bundle brings its certificates; leave --insecure, --ca, --cert and --key out")
        bundle, tls = Bundle.load(path)
        address = Address.parse(server) if server is not None else bundle.server
        renewal = Renewal(tls, lambda: Bundle.load(path)[1])
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            log.warning("others may read %s, and with it be this device; run: chmod 600 %s", path, path)
    left = tls.expires - datetime.datetime.now(datetime.UTC)
    if left.days < WARN_DAYS:
        log.warning("the certificate in %s ends in %d days; renew it", tls.files.certificate, left.days)
    return Connection(address, tls, bundle, renewal.current)
