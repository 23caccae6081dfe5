"""The command `amgt-server`: host the link, run the ServerApp over it."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amgt_fed.cli.notify import Watchdog, watchdog_interval_s
from amgt_fed.cli.service import run_service, security
from amgt_fed.errors import AMGTFedError, ConfigError, EngineError, StateError
from amgt_fed.runs.files import write_atomically

from . import fleet_cli

if TYPE_CHECKING:
    from amgt_fed.flower.link_grid import LinkGrid
    from amgt_fed.link import Address, LinkLimits, Tls

    from .fleet import Fleet

log = logging.getLogger("amgt_fed.server")

OWN_APP = f"{__package__}.app:app"
RUN_FILE = "link.json"
WAITING_S = 15.0

Scalar = bool | int | float | str

app = typer.Typer(
    name="amgt-server",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(fleet_cli.app)


@app.callback()
def root() -> None:
    """The server of a fleet: accepts client nodes over gRPC and runs a ServerApp with them."""


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A TOML file; `amgt-fed config` shows every key.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="One key, e.g. client.lr=0.01.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            "-a",
            help="HOST:PORT to listen at; port 0 takes a free one. By default 127.0.0.1:7070, or with --fleet the port "
            "that its devices were told, on every interface unless that is loopback too.",
        ),
    ] = None,
    address_file: Annotated[
        Path | None, typer.Option("--address-file", help="Write the bound address here once nodes can connect.")
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option("--fleet", "-f", metavar="DIR", help="Let the devices of this fleet in; see `amgt-server fleet`."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Plaintext; on loopback only.")] = False,
    ca: Annotated[Path | None, typer.Option("--ca", help="The fleet's CA certificate (PEM).")] = None,
    cert: Annotated[Path | None, typer.Option("--cert", help="This server's certificate (PEM).")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Its private key (PEM).")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run directory.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out; begin it if there is none.")
    ] = False,
    min_nodes: Annotated[
        int, typer.Option("--min-nodes", min=0, help="Wait for so many nodes, however long, before the app starts.")
    ] = 0,
    grace_s: Annotated[
        float | None, typer.Option("--grace-s", help="How long a lost node may take to come back (link.grace_s).")
    ] = None,
    max_message_mib: Annotated[
        int | None, typer.Option("--max-message-mib", min=1, help="Largest reply taken (link.max_message_bytes).")
    ] = None,
    alive_file: Annotated[
        Path | None, typer.Option("--alive-file", help="Touched every few seconds while connections are served.")
    ] = None,
    server_app: Annotated[
        str, typer.Option("--server-app", help="Another Flower ServerApp, as module:attribute.")
    ] = OWN_APP,
) -> None:
    """Serve one run and exit when its ServerApp returns."""
    from amgt_fed.flower import compat
    from amgt_fed.flower.apps import load_server_app
    from amgt_fed.flower.link_grid import LinkGrid
    from amgt_fed.link import Address

    opened = _open_fleet(fleet, insecure or ca is not None or cert is not None or key is not None)
    where = Address.parse(address) if address is not None else _default_address(opened)
    tls: Tls | None
    if opened is not None:
        tls = opened.tls()
    else:
        tls = security(where, insecure=insecure, ca=ca, cert=cert, key=key, instead="--fleet")
    run_config = _run_config(config, set_ or [], out, resume, own=server_app == OWN_APP)
    limits = _limits(run_config, grace_s, max_message_mib)
    loaded = load_server_app(server_app)
    run_id = _run_id(str(run_config.get("out", "")) or (str(out) if out else ""))
    door = None
    if opened is not None:
        from .fleet_door import FleetDoor

        door = FleetDoor(opened)
    with ExitStack() as stack:
        grid = stack.enter_context(
            LinkGrid(where, tls, run_id=run_id, run_config=run_config, limits=limits, doorkeeper=door)
        )
        if opened is not None:
            from .fleet_activity import ActivityRecorder

            stack.enter_context(ActivityRecorder(opened, grid))
        stack.enter_context(Watchdog(grid.call_soon, watchdog_interval_s(), alive_file))
        log.info("listening at %s (%s)", grid.address, "plaintext" if tls is None else "mutual TLS")
        print(f"listening at {grid.address}", flush=True)
        if address_file is not None:
            write_atomically(address_file, str(grid.address).encode())
        _wait_for_nodes(grid, min_nodes)
        context = compat.new_context(run_id, compat.SERVER_NODE_ID, {}, run_config)
        try:
            loaded(grid, context)
        except (AMGTFedError, OSError):
            raise
        except Exception as error:  # somebody's ServerApp may raise anything
            raise EngineError(f"the ServerApp failed: {type(error).__name__}: {error}") from error
        total = grid.traffic().total
        log.info("the run is over; %d bytes down, %d bytes up", total.sent_bytes, total.received_bytes)


def main() -> None:
    """Run the command line; exit code 0 is success, 2 an error the user can mend, 130 and 143 a signal."""
    if "--insecure" not in sys.argv:
        # At this level gRPC says why it refuses a certificate, in a line of its own, and little else.
        os.environ.setdefault("GRPC_VERBOSITY", "INFO")
    run_service(lambda arguments: app(arguments, prog_name="amgt-server"))


def _open_fleet(folder: Path | None, otherwise_secured: bool) -> Fleet | None:
    if folder is None:
        return None
    if otherwise_secured:
        raise ConfigError("--fleet brings its certificates; leave --insecure, --ca, --cert and --key out")
    from .fleet import Fleet

    return Fleet(folder)


def _default_address(fleet: Fleet | None) -> Address:
    """Where a fleet's devices look for the server."""
    from amgt_fed.link import Address

    told = Address.parse(fleet.roll().servers[0]) if fleet is not None else Address("127.0.0.1", 7070)
    return told if told.is_loopback() else Address("0.0.0.0", told.port)


def _run_config(
    path: Path | None, overrides: list[str], out: Path | None, resume: bool, *, own: bool
) -> dict[str, Scalar]:
    """The flat run configuration; our own app's is checked against the schema, another's is taken as it is."""
    from amgt_fed.config import merge, parse_override, to_flat
    from amgt_fed.setup import resolve

    keys = dict(parse_override(text) for text in overrides)
    if not own:
        return {**(_read_flat(path) if path is not None else {}), **keys}
    if out is not None:
        keys["out"] = str(out.resolve())
    if resume and out is None:
        raise StateError("--resume needs the run directory: give --out DIR")
    if resume and out is not None and (out / "config.toml").exists():
        from amgt_fed.api import resumed_config

        # A unit file gives the same --config at every start; what it asks for must still be what the run does.
        asked = {**(to_flat(resolve(_read_flat(path))) if path is not None else {}), **keys}
        return to_flat(resumed_config(out, {key: asked[key] for key in asked.keys() - {"out", "resume"}}))
    settings = resolve({**(_read_flat(path) if path is not None else {}), **keys})
    if not settings.out:
        settings = merge(settings, {"out": str(Path("runs").resolve() / f"{settings.task}-{os.getpid()}")})
    return to_flat(settings)


def _read_flat(path: Path) -> dict[str, Scalar]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error}") from error
    try:
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"configuration file {path} is not valid: {error}") from error
    return dict(_flatten(table, path))


def _flatten(table: Mapping[str, Any], path: Path, prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, path, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}", value
        else:
            raise ConfigError(f"{path}: {prefix}{key} is a {type(value).__name__}; use bool, number or text")


def _limits(run_config: Mapping[str, Scalar], grace_s: float | None, max_message_mib: int | None) -> LinkLimits:
    from amgt_fed.link import LinkLimits

    names = ("chunk_bytes", "max_message_bytes", "keepalive_s", "grace_s")
    given: dict[str, Any] = {name: run_config[f"link.{name}"] for name in names if f"link.{name}" in run_config}
    if grace_s is not None:
        given["grace_s"] = grace_s
    if max_message_mib is not None:
        given["max_message_bytes"] = max_message_mib * 1024 * 1024
    if "max_message_bytes" in given:
        given["receive_budget_bytes"] = max(given["max_message_bytes"], LinkLimits().receive_budget_bytes)
    return LinkLimits(**given)


def _run_id(out: str) -> int:
    """The run's number on the link: kept in the run directory, so that clients know the run again after a restart."""
    fresh = secrets.randbits(62) + 1
    if not out:
        return fresh
    path = Path(out) / RUN_FILE
    if path.exists():
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["run_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"{path} is damaged ({error}); remove it: clients then take the run for a new one"
            ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"run_id": fresh}).encode())
    return fresh


def _wait_for_nodes(grid: LinkGrid, count: int) -> None:
    while not grid.wait_nodes(count, WAITING_S):
        log.info("%d of %d nodes are connected; waiting for more", len(grid.get_node_ids()), count)
