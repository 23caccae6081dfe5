"""What the commands amgt-server and amgt-client have in common: the environment, signals, and who may connect."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
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
    _carry_signals_to_the_main_thread()
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


def _carry_signals_to_the_main_thread() -> None:
    # The system may hand a signal to any thread, or to the main one in the moment before it begins to wait. Python runs
    # handlers in the main thread alone, and nothing would wake that one: an app's call could sleep for hours first.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _leave_forked_children_out()
    main = threading.main_thread().ident
    assert main is not None  # it runs this

    def insist() -> None:
        number = os.read(reading, 1)[0]
        while signal.getsignal(number) is _stop:
            signal.pthread_kill(main, number)
            time.sleep(0.05)

    threading.Thread(target=insist, name="amgt-signals", daemon=True).start()


def _leave_forked_children_out() -> None:
    # A child has our pipe, so a signal to it would count as one to us, and our handlers, whose exception a worker of an
    # app's would print. Signals wait until it has neither.
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = threading.local()

    def hold() -> None:
        former.mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, former.mask)

    def begin_as_a_child() -> None:
        signal.set_wakeup_fd(-1)
        for number in numbers:
            if signal.getsignal(number) in (_stop, _pass):
                signal.signal(number, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=begin_as_a_child)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    # Once is enough: a second signal must not interrupt the good-byes.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _pass)
    log.info("stopping on %s", signal.Signals(number).name)
    raise Stopped(number)


def _pass(number: int, frame: FrameType | None) -> None:
    """Take a signal and do nothing; to ignore one that has already come would be reported as an error."""
