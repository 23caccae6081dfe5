"""One stock Flower SuperLink on loopback for the length of one run, driven by Flower's own commands only."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from amgt_fed.engines.job import Job
from amgt_fed.engines.processes import (
    LOOPBACK,
    Children,
    child_environment,
    executable,
    free_ports,
    plain,
    telling_line,
)
from amgt_fed.engines.staging import CONNECTION, stage_app, stage_home
from amgt_fed.errors import EngineError

FLOWER_ENVIRONMENT: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Otherwise every run resolves and installs the app's dependencies into a fresh environment with `uv sync`.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # How often a SuperExec asks for work; Flower's default of 1 s is lost once per message.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    "RAY_USAGE_STATS_ENABLED": "0",
}
START_S = 60.0  # for the SuperLink alone; it takes 1.6 s on an idle machine
POLL_S = 0.1
STATUS_POLL_S = 2.0  # one `flwr` command takes about .8 s of processor time
NO_HEARTBEAT = "No heartbeat received from the task"  # Flower gives up on a silent ServerApp after about 60 s
PREFIXES = ("ServerApp failed with exception: ", "Simulation failed with exception: ")


class SuperLink:
    """A running SuperLink and what is needed to submit the job to it; see `superlink`."""

    def __init__(self, job: Job, children: Children, directory: Path, port: int) -> None:
        self.address = f"{LOOPBACK}:{port}"
        self.logs = job.run_dir / "logs"
        self._children = children
        self._app = directory / "app"
        self._flwr = executable("flwr", "flwr")

    def run(self, *options: str) -> None:
        """Submit the app, wait until its ServerApp has returned.

        Args:
            options: more options of `flwr run`.

        Raises:
            EngineError: the ServerApp raised (with its error), was stopped, or one of the processes died.
        """
        stream = self._children.start("flwr-run", [self._flwr, "run", str(self._app), CONNECTION, "--stream", *options])
        while stream.process.poll() is None:
            self._children.check(but=stream)
            time.sleep(POLL_S)
        self._children.finish(stream)
        if stream.process.returncode != 0:
            time.sleep(POLL_S)  # a SuperLink that died takes the stream along; it is the one to be named
            self._children.check()
            raise EngineError(f"flwr run was refused: {refusal(stream.log)} (log: {stream.log})")
        # The stream ends with the run; should it break off earlier, the run is still worth waiting for.
        while not (status := self._status()).startswith("finished"):
            self._children.check()
            time.sleep(STATUS_POLL_S)
        if status != "finished:completed":
            raise EngineError(self._failure(status, stream.log))

    def query(self, *command: str) -> dict[str, Any]:
        """Run one `flwr` command with `--format json` and return what it prints.

        Raises:
            EngineError: the command failed, or the SuperLink is gone.
        """
        done = subprocess.run(
            [self._flwr, *command, CONNECTION, "--format", "json"],
            env=self._children.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            answer = json.loads(plain(done.stdout))
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not answer.get("success"):
            self._children.check()
            reason = answer.get("error-message") if isinstance(answer, dict) else done.stderr or done.stdout
            raise EngineError(f"flwr {' '.join(command)} failed: {' '.join(str(reason).split())}")
        return answer

    def _runs(self) -> dict[str, Any]:
        runs = self.query("ls")["runs"]
        if len(runs) != 1:
            raise EngineError(f"the SuperLink at {self.address} knows {len(runs)} runs; it was started for one")
        return dict(runs[0])

    def _status(self) -> str:
        return str(self._runs()["status"])

    def _failure(self, status: str, log: Path) -> str:
        details = " ".join(str(self._runs().get("status-details") or "").split())
        for prefix in PREFIXES:
            details = details.removeprefix(prefix)
        if details == NO_HEARTBEAT:
            details = "the ServerApp's process was killed from outside, perhaps because memory ran out"
        elif details in ("", "N/A"):
            details = f"the run ended as {status!r}: {telling_line(log)}"
        return f"{details} (log: {log})"


@contextlib.contextmanager
def superlink(
    job: Job, *options: str, environment: Mapping[str, str] | None = None, scratch: Sequence[Path] = ()
) -> Iterator[tuple[SuperLink, Children]]:
    """Run a SuperLink on a free loopback port for the length of the block, with the job's app staged for it.

    Args:
        job: what to run.
        options: more options of `flower-superlink`.
        environment: more variables for it and for everything started in the block.
        scratch: directories that must not be left behind if this process is killed outright.

    Yields:
        The SuperLink, answering requests, and the block's child processes, to start SuperNodes among.

    Raises:
        EngineError: Flower is not installed, the run directory cannot be written, or the SuperLink does not start.
    """
    command = executable("flower-superlink", "flwr")
    directory = job.run_dir / "flower"
    port = free_ports(1)[0]
    try:
        stage_app(directory / "app", job)
        stage_home(directory / "home", f"{LOOPBACK}:{port}")
    except OSError as error:
        raise EngineError(f"cannot write to {directory}: {error.strerror}") from error
    inherited = child_environment(job.environment)
    settings = {
        **inherited,
        **FLOWER_ENVIRONMENT,
        **(environment or {}),
        # Flower's HTTP clients obey http_proxy, and a proxy knows nothing of our loopback.
        "NO_PROXY": ",".join(filter(None, [inherited.get("NO_PROXY"), LOOPBACK])),
        "no_proxy": ",".join(filter(None, [inherited.get("no_proxy"), LOOPBACK])),
        "COLUMNS": "400",  # or `flwr` breaks its messages into lines of 80
        "FLWR_HOME": str(directory / "home"),
    }
    try:
        with Children(job.run_dir / "logs", settings, grace_s=3.0, scratch=[directory, *scratch]) as children:
            arguments = ["--insecure", "--host", LOOPBACK, "--port", str(port), *options]
            children.start("superlink", [command, *arguments])
            wait_until(lambda: is_healthy(port), "the SuperLink to answer", children, START_S)
            yield SuperLink(job, children, directory, port), children
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def refusal(log: Path) -> str:
    """Return what a `flwr` command complained about: the first paragraph of its framed message, as one line."""
    text = plain(log.read_text(errors="replace"))
    _, framed, box = text.partition("╭─ Error")
    if not framed:
        return telling_line(log)
    lines = [line.strip(" │") for line in box.splitlines()[1:]]
    return " ".join(itertools.takewhile(bool, lines))


def is_healthy(port: int) -> bool:
    """Whether a Flower process answers on its health address."""
    # No proxy: a user's http_proxy must not be asked for our own loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{LOOPBACK}:{port}/health", timeout=1.0) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def wait_until(condition: Callable[[], bool], what: str, children: Children, timeout_s: float) -> None:
    """Poll `condition` while every child lives.

    Raises:
        EngineError: a child died, or `timeout_s` passed; names `what` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        children.check()
        if time.monotonic() > deadline:
            raise EngineError(f"gave up after {timeout_s:.0f} s of waiting for {what} (logs: {children.log_dir})")
        time.sleep(POLL_S)
