"""Load a Flower app from "package.module:attribute"."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TypeVar

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from amgt_fed.errors import ConfigError

App = TypeVar("App", ServerApp, ClientApp)


def load_server_app(reference: str) -> ServerApp:
    """Import the ServerApp that `reference`, e.g. "amgt_fed_server.app:app", names.

    Raises:
        ConfigError: see `load_client_app`.
    """
    return _load(reference, ServerApp)


def load_client_app(reference: str) -> ClientApp:
    """Import the ClientApp that `reference`, e.g. "amgt_fed_clients.app:app", names.

    A module in the current directory is found as well, installed or not.

    Raises:
        ConfigError: the reference has no colon, the module or the attribute does not exist, importing the module
            failed, or the attribute is not a ClientApp.
    """
    return _load(reference, ClientApp)


def _load(reference: str, kind: type[App]) -> App:
    module_name, colon, attribute = reference.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"app reference {reference!r} should read package.module:attribute, e.g. my_app:app")
    # A console script has its own directory in sys.path[0], `python -m` the current one; make both behave alike.
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"app {reference!r}: there is no module {error.name!r}; run where it can be imported or install it"
            ) from error
        raise ConfigError(f"app {reference!r} needs the module {error.name!r}, which is not installed") from error
    except Exception as error:  # the user's module may raise anything while it is imported
        raise ConfigError(f"app {reference!r} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        app = getattr(module, attribute)
    except AttributeError as error:
        raise ConfigError(f"app {reference!r}: module {module_name!r} has no attribute {attribute!r}") from error
    if not isinstance(app, kind):
        raise ConfigError(f"app {reference!r} is a {type(app).__name__}; a {kind.__name__} is needed")
    return app
