"""A fleet made by its own command, in a process of its own: who tests clients must not import the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def fleet_command(*arguments: str) -> str:
    """Run `amgt-server fleet ...`; returns what it prints."""
    command = [sys.executable, "-m", "amgt_fed_server", "fleet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_fleet(
    folder: Path,
    names: Sequence[str],
    *,
    server: str = "127.0.0.1:7070",
    days: int = 365,
    partitions: tuple[int, int] | None = None,
) -> dict[str, Path]:
    """A fleet in `folder / "fleet"`; returns each device's bundle."""
    fleet_command("init", "--server", server, "--fleet", str(folder / "fleet"))
    options = [] if partitions is None else ["--partition-id", f"{partitions[0]}-{partitions[1]}"]
    bundles = {name: folder / f"{name}.bundle" for name in names}
    for name, path in bundles.items():
        arguments = [name, "--fleet", str(folder / "fleet"), "--out", str(path), "--days", str(days), *options]
        fleet_command("enroll", *arguments)
    return bundles
