from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from tests.reference.certificates import Authority

APPS = Path(__file__).parent / "apps"


def eventually(condition: Callable[[], object], timeout: float = 40.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@dataclass
class Fleet:
    """Starts `amgt-server` and `amgt-client` as processes and ends them with the test."""

    out: Path
    security: list[str] = field(default_factory=lambda: ["--insecure"])
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, package: str, *arguments: str, log: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(APPS),
            "FLWR_TELEMETRY_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        with (self.out / f"{log}.log").open("a") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", package, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                cwd=self.out,
            )
        self._processes.append(process)
        return process

    def server(
        self, *, rounds: int = 4, clients: int = 2, pace: float = 0.0, address: str = "127.0.0.1:0", options: str = ""
    ) -> tuple[subprocess.Popen[str], str]:
        """A server of the tiny app, and its address once it listens."""
        address_file = self.out / "address"
        address_file.unlink(missing_ok=True)
        settings = {"rounds": rounds, "clients": clients, "pace": pace, "out": f'"{self.out}"'}
        keys = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        process = self.command(
            "amgt_fed_server",
            *["run", "--server-app", "tiny:server", "--address", address, "--address-file", str(address_file)],
            *[*self.security, *keys, *options.split()],
            log="server",
        )
        eventually(lambda: address_file.exists() or process.poll() is not None)
        assert process.poll() is None, self.log("server")
        return process, address_file.read_text()

    def client(
        self, address: str, partition: int, *, security: list[str] | None = None, options: str = ""
    ) -> subprocess.Popen[str]:
        return self.command(
            "amgt_fed_clients",
            *["run", "--server", address, "--client-app", "tiny:client", "--once", "--state-dir", str(self.out / "s")],
            *[*(self.security if security is None else security), "--partition-id", str(partition), *options.split()],
            log=f"client-{partition}",
        )

    def log(self, name: str) -> str:
        return (self.out / f"{name}.log").read_text()

    def state(self) -> dict[str, object]:
        with contextlib.suppress(FileNotFoundError):
            return dict(json.loads((self.out / "state.json").read_text()))
        return {"round": 0}

    def calls(self, partition: int) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.out / f"calls-{partition}").read_text().splitlines()
        return []

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(10)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def wait() -> Callable[..., None]:
    return eventually


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The app's module, for its reference."""
    spec = importlib.util.spec_from_file_location("tiny", APPS / "tiny.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Make the options --ca, --cert and --key for a name."""
    folder = tmp_path_factory.mktemp("certificates")
    authorities = {name: Authority(folder, name) for name in ("ours", "theirs")}

    def options(name: str, issuer: str = "ours", trusts: str = "ours") -> list[str]:
        issued = authorities[issuer].issue(name)
        return [
            *["--ca", str(authorities[trusts].certificate)],
            *["--cert", str(issued.certificate), "--key", str(issued.key)],
        ]

    return options
