"""What `amgt-fed doctor` looks at; each check tells what it found and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from amgt_fed.errors import AMGTFedError
from amgt_fed.runs.environment import versions
from amgt_fed.setup import DATA_VARIABLE

_DATA_FOLDERS = ("fashion_mnist", "mnist", "har", "shakespeare", "beijing_air", "heart_disease")
_FREE_GIB = 2.0
_MEMORY_GIB = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    check: str
    verdict: Literal["ok", "note", "fail"]
    found: str
    advice: str = ""


def examine(data_dir: str = "") -> list[Finding]:
    """Every check, in the order a user would mend things."""
    return [
        *_python(),
        *_packages(),
        *_machine(),
        *_accelerator(),
        *_loopback(),
        *_engines(),
        *_data(data_dir or os.environ.get(DATA_VARIABLE, "")),
    ]


def _python() -> Iterator[Finding]:
    here = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding("Python", "ok", here)
    else:
        yield Finding("Python", "fail", here, "AMGT-Fed needs 3.11, 3.12 or 3.13")


def _packages() -> Iterator[Finding]:
    for name, version in versions().items():
        if name in ("python", "platform", "machine"):
            continue
        missing = version == "not installed"
        yield Finding(name, "fail" if missing else "ok", version, "pip install amgt-fed" if missing else "")


def _machine() -> Iterator[Finding]:
    machine = platform.machine()
    known = machine in ("x86_64", "AMD64", "aarch64", "arm64")
    yield Finding(
        "processor",
        "ok" if known else "fail",
        f"{machine}, {os.cpu_count()} cores",
        "" if known else "x86-64 or 64-bit ARM is needed",
    )
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    memory = pages * size / 2**30
    enough = memory >= _MEMORY_GIB
    yield Finding(
        "memory", "ok" if enough else "note", f"{memory:.1f} GiB", "" if enough else "a client needs about 0.5 GiB"
    )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    roomy = free >= _FREE_GIB
    yield Finding(
        "disk", "ok" if roomy else "note", f"{free:.1f} GiB free here", "" if roomy else "free some, or --out"
    )


def _accelerator() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Finding("GPU", "ok", names)
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "ok", "Apple Metal; device = mps uses it")
    else:
        yield Finding("GPU", "ok", "none; the processor will do")


def _loopback() -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError as error:
        yield Finding("ports", "fail", f"127.0.0.1 cannot be listened on: {error}", "engines grpc and flower need it")
    else:
        yield Finding("ports", "ok", "127.0.0.1 can be listened on")


def _engines() -> Iterator[Finding]:
    yield Finding("engine local", "ok", "ready")
    yield Finding("engine grpc", "ok", "ready")
    if importlib.util.find_spec("ray") is None:
        yield Finding("engine ray", "note", "ray is not installed", "pip install 'amgt-fed[ray]'")
    else:
        yield Finding("engine ray", "ok", "ready")
    beside = Path(sys.executable).parent
    missing = [
        name
        for name in ("flwr", "flower-superlink", "flower-supernode")
        if not (beside / name).exists() and shutil.which(name) is None
    ]
    if missing:
        yield Finding("engine flower", "note", f"{', '.join(missing)} not found", "pip install flwr")
    else:
        yield Finding("engine flower", "ok", "ready")


def _data(folder: str) -> Iterator[Finding]:
    from amgt_fed.tasks import TaskSettings, load_task

    try:
        size = len(load_task("digits", TaskSettings()).train_set)  # type: ignore[arg-type]
        yield Finding("data: digits", "ok", f"{size} training images, shipped with scikit-learn")
    except (AMGTFedError, ImportError, OSError) as error:
        yield Finding("data: digits", "fail", str(error), "pip install scikit-learn")
    if not folder:
        yield Finding("data directory", "note", "none named", f"larger sets: --data-dir or {DATA_VARIABLE}")
        return
    path = Path(folder).expanduser()
    if not path.is_dir():
        yield Finding("data directory", "fail", f"{path} does not exist", f"correct --data-dir or {DATA_VARIABLE}")
        return
    there = [name for name in _DATA_FOLDERS if (path / name).is_dir()]
    yield Finding("data directory", "ok" if there else "note", f"{path}: {', '.join(there) or 'no known data set'}")
