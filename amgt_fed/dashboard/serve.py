"""Serve the page until told to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from amgt_fed.dashboard.app import build_app, plotly_script
from amgt_fed.dashboard.shelf import Shelf
from amgt_fed.errors import ConfigError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    return host in _LOOPBACK


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ConfigError: the address is no address of this machine, or taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen()
    except (OSError, OverflowError) as error:
        opened.close()
        raise ConfigError(f"the dashboard cannot listen on {host}:{port}: {error}; choose another --port") from error
    return opened


def serve(shelf: Shelf, opened: socket.socket, *, host: str, token: str, ready: Callable[[str], None]) -> None:
    """Answer on `opened` until SIGINT or SIGTERM.

    Args:
        host: as the user named it; on loopback, a request for any other name is refused.
        token: empty for none.
        ready: told the page's address.

    Raises:
        AMGTFedError: Plotly is not installed.
    """
    plotly_script()
    port = opened.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    app = build_app(shelf, token=token, hosts=[*_LOOPBACK, "[::1]"] if is_loopback(host) else None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
    ready(f"http://{name}:{port}/" + (f"?token={token}" if token else ""))
    server.run(sockets=[opened])
