"""Certificates that are read again when their files change, so that nobody need be restarted to renew them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from amgt_fed.link.credentials import Tls
from amgt_fed.link.errors import CredentialsError

log = logging.getLogger("amgt_fed.link")


class Renewal:
    """The certificates as they are on disk now; safe to ask from any thread.

    Args:
        tls: loaded already.
        load: reads them again from the same files.
    """

    def __init__(self, tls: Tls, load: Callable[[], Tls]) -> None:
        self._tls = tls
        self._load = load
        self._lock = threading.Lock()
        self._stamps = self._look()

    def current(self) -> Tls:
        """The same object as before, unless the files hold other certificates that can be used.

        Files that cannot be used (any more) are logged once, and the certificates loaded before stay in use.
        """
        with self._lock:
            stamps = self._look()
            if stamps != self._stamps:
                self._stamps = stamps
                try:
                    self._tls = self._load()
                    log.info(
                        "read %s again; it is valid until %s", self._tls.files.certificate, f"{self._tls.expires:%F}"
                    )
                except CredentialsError as error:
                    log.error("new certificates cannot be used, the old ones stay in use: %s", error)
            return self._tls

    def _look(self) -> list[tuple[int, int, int] | None]:
        files = self._tls.files
        return [_stamp(path) for path in (files.ca, files.certificate, files.key)]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
