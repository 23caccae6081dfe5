"""Files of a fleet: private ones, replaced atomically, and a lock between those who write."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from amgt_fed.errors import AMGTFedError
from amgt_fed.runs.files import sync_folder

PRIVATE, PUBLIC = 0o600, 0o644
LOCK_WAIT_S = 10.0
_POLL_S = 0.05


class FleetError(AMGTFedError, RuntimeError):
    """A fleet's directory that is missing, damaged or locked, or a device that is not (or already) in it."""


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Replace a file; at no instant can anybody read it whom `mode` does not allow to, or see half of it.

    Raises:
        OSError: a full disk, say; the old file then stands as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def check_private(path: Path) -> None:
    """Refuse a key that others may read.

    Raises:
        FleetError: group or others have a right to it.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise FleetError(f"{path} has mode {mode:04o}, so others may read this private key; run: chmod 600 {path}")


@contextlib.contextmanager
def locked(path: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock file `path` while the block lasts; it is the operating system's, so it ends with the process.

    Raises:
        FleetError: another process has held it for `wait_s` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise FleetError(
                        f"another process has held {path} for {wait_s:g} s; wait until it has written, then try again"
                    ) from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)
