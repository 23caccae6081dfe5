"""What the commands amgt-server and amgt-client have in common: the environment, signals, and who may connect."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from amgt_fed.cli.errors import reporting
from amgt_fed.errors import LinkError

if TYPE_CHECKING:
    from amgt_fed.link import Address, Tls

log = logging.getLogger("amgt_fed")

# Read by Flower and gRPC when they are imported, so they are set before.
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "GRPC_VERBOSITY": "ERROR",
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # an app may fork, as a DataLoader with workers does; see amgt_fed.link
}


class Stopped(BaseException):
    """A signal asks this process to end.

    Neither an Exception nor a SystemExit nor a KeyboardInterrupt: an app that survives its own errors must not survive
    this, and the command line library has ideas of its own about the others.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_service(command: Callable[[list[str]], object]) -> None:
    """Run a command line as a service: log to standard error, errors as one line, signals as an orderly end.

    Args:
        command: takes the arguments without `--debug`.

    Raises:
        SystemExit: with code 2 for an error, 77 where the server has shut this device out, 130 for SIGINT, 143 for
            SIGTERM, or as `command` raises it.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    arguments = sys.argv[1:]
    code: int | None = None
    try:
        with reporting(debug="--debug" in arguments):
            try:
                command([argument for argument in arguments if argument != "--debug"])
            except LinkError as error:
                code = getattr(error, "exit_code", None)  # `ShutOut` has one of its own
                raise
    except Stopped as stopped:
        sys.exit(128 + stopped.number)
    except SystemExit:
        if code is not None:
            sys.exit(code)
        raise


def security(
    address: Address, *, insecure: bool, ca: Path | None, cert: Path | None, key: Path | None, instead: str
) -> Tls | None:
    """Turn the options --insecure, --ca, --cert and --key into certificates, or None for plaintext.

    `instead` names the option that brings all of them in one, for the error that there are none.

    Raises:
        LinkError: they do not go together, or plaintext is not allowed; see `amgt_fed.link.choose_security`.
    """
    from amgt_fed.link import CredentialsError, TlsFiles, choose_security

    files = None
    if ca is not None and cert is not None and key is not None:
        files = TlsFiles(ca, cert, key)
    elif ca is not None or cert is not None or key is not None:
        raise CredentialsError("mutual TLS takes all three of --ca, --cert and --key")
    return choose_security(address, insecure=insecure, files=files, instead=instead)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    # Once is enough: a second signal must not interrupt the good-byes.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    log.info("stopping on %s", signal.Signals(number).name)
    raise Stopped(number)
