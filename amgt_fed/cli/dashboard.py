"""`amgt-fed dashboard`: runs as they go, in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dashboard")(dashboard)


def dashboard(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run directories, or folders of them. Default: runs.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs the token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8050,
    token: Annotated[
        str, typer.Option(help="What the page asks for; off loopback one is made up where none is given.")
    ] = "",
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Show runs in the browser: live while they go, and afterwards. Ctrl-C ends it."""
    import secrets
    import webbrowser

    from amgt_fed.dashboard.serve import is_loopback, listen, serve
    from amgt_fed.dashboard.shelf import Shelf

    if runs is None:
        Path("runs").mkdir(exist_ok=True)  # the first run may come after the page
        runs = [Path("runs")]
    shelf = Shelf(runs)
    if not token and not is_loopback(host):
        token = secrets.token_urlsafe(24)

    def ready(address: str) -> None:
        print(address, flush=True)
        if open_:
            webbrowser.open(address)

    serve(shelf, listen(host, port), host=host, token=token, ready=ready)
