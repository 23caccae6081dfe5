"""What ran: versions and machine, for the summary and the report."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("amgt-fed", "torch", "flwr", "numpy", "grpcio", "protobuf", "zstandard", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of Python, the operating system and every package whose version can change a result."""
    found = {"python": sys.version.split()[0], "platform": platform.platform(), "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
