"""An error as one clear line and an exit code."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.text import Text

from amgt_fed.errors import AMGTFedError

FAILURE = 2
INTERRUPTED = 130


@contextmanager
def reporting(*, debug: bool) -> Iterator[None]:
    """Turn what is raised inside into one line on standard error and an exit; with `debug` the traceback as well."""
    try:
        yield
    except AMGTFedError as error:
        _exit(str(error), FAILURE, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(FAILURE)
    except click.UsageError as error:  # an unknown option, a number that is none
        command = error.ctx.command_path if error.ctx is not None else "amgt-fed"
        _exit(f"{error.format_message().rstrip('.')}; `{command} --help` lists what there is", FAILURE, debug)
    except click.Abort:
        _exit("interrupted; `amgt-fed run --resume DIR` goes on where the run directory stands", INTERRUPTED, debug)
    except BrokenPipeError:
        sys.stderr.close()  # the reader is gone (`| head`); there is nobody to tell
        sys.exit(FAILURE)
    except OSError as error:
        _exit(explain_os_error(error), FAILURE, debug)
    except Exception as error:  # not foreseen, so not the user's to mend; still one line
        if debug:
            traceback.print_exc()
        _exit(f"unexpected {type(error).__name__}: {error} (--debug shows where)", FAILURE, debug=False)
    except KeyboardInterrupt:
        _exit("interrupted; `amgt-fed run --resume DIR` goes on where the run directory stands", INTERRUPTED, debug)


def explain_os_error(error: OSError) -> str:
    """What the operating system refused, and what to do about it."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}; free some space, then `amgt-fed run --resume DIR` goes on without loss"
    if error.errno == errno.EADDRINUSE:
        return f"the port is in use{where}; stop the other program or choose another port"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}{where}; choose a place you may write to, e.g. with --out"
    return f"{error.strerror or error}{where}"


def _exit(text: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    line = Text(" ".join(text.split()))  # not markup: a message may hold brackets
    console.print(Text.assemble(("error:", "bold red"), " ", line) if code == FAILURE else line)
    sys.exit(code)
