"""The commands `amgt-server fleet ...`: who belongs to the fleet."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from amgt_fed.errors import ConfigError

app = typer.Typer(name="fleet", no_args_is_help=True, help="The fleet: its certificates and its devices.")

FOLDER = Path("fleet")

Folder = Annotated[Path, typer.Option("--fleet", "-f", metavar="DIR", help="The fleet's directory.")]
CaKey = Annotated[
    Path | None, typer.Option("--ca-key", help="The authority's key, where it is not kept in the fleet's directory.")
]
Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="How long the certificate is valid.")]


@app.command()
def init(
    server: Annotated[
        list[str],
        typer.Option(
            "--server", "-s", metavar="HOST[:PORT]", help="The server, as devices reach it; the first is told."
        ),
    ],
    fleet: Folder = FOLDER,
    days: Days = 365,
) -> None:
    """Make a fleet: an authority (valid for ten years) and the server's certificate."""
    from .fleet import Fleet

    made = Fleet.init(fleet, server, days=days)
    print(f"made the fleet in {fleet}; devices connect to {made.roll().servers[0]}")
    print(f"{fleet / 'ca.key'} lets devices in: keep it elsewhere if others use this machine, see --ca-key")


@app.command()
def enroll(
    name: Annotated[str, typer.Argument(help="The device's name.")],
    fleet: Folder = FOLDER,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle; by default NAME.bundle here.")] = None,
    partitions: Annotated[
        str | None,
        typer.Option("--partition-id", "-p", metavar="N or A-B", help="Which client it is; by default the next free."),
    ] = None,
    days: Days = 365,
    ca_key: CaKey = None,
) -> None:
    """Let a device in: make its key and certificate, in one file to copy to the device."""
    from .fleet import Fleet

    path = out or Path(f"{name}.bundle")
    device = Fleet(fleet).enroll(name, path, partitions=_partitions(partitions), days=days, ca_key=ca_key)
    print(
        f"{name} is client {_range(device.first, device.last)}; its certificate ends on {_date(device.newest.expires)}"
    )
    print(f"copy {path} to the device and delete it here: it holds the device's key, of which there is no other copy")


@app.command()
def renew(
    name: Annotated[str | None, typer.Argument(help="The device's name.")] = None,
    server: Annotated[bool, typer.Option("--server", help="The server's own certificate instead.")] = False,
    host: Annotated[
        list[str] | None, typer.Option("--host", metavar="HOST", help="With --server: one more name of the server.")
    ] = None,
    fleet: Folder = FOLDER,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle; by default NAME.bundle here.")] = None,
    days: Days = 365,
    overlap_days: Annotated[
        float, typer.Option("--overlap-days", min=0.0, help="How long the device's old certificate stays valid.")
    ] = 7.0,
    ca_key: CaKey = None,
) -> None:
    """Make a new key and certificate for a device, or for the server; neither need be restarted."""
    from .fleet import Fleet

    if (name is None) != server:
        raise ConfigError("give either a device's name or --server")
    if host and not server:
        raise ConfigError("--host is for the server's certificate: give --server too")
    opened = Fleet(fleet)
    if name is None:
        opened.renew_server(host or (), days=days, ca_key=ca_key)
        ends = opened.certificate("server.pem").not_valid_after_utc.timestamp()
        print(f"renewed {fleet / 'server.pem'}, which ends on {_date(ends)}; a running server takes it over by itself")
        return
    path = out or Path(f"{name}.bundle")
    device = opened.renew(name, path, days=days, overlap_days=overlap_days, ca_key=ca_key)
    print(f"renewed the certificate of {name}, which ends on {_date(device.newest.expires)}")
    print(f"move {path} over the device's old bundle: a running client takes it over by itself. Delete it here")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The device's name.")],
    fleet: Folder = FOLDER,
    reason: Annotated[str, typer.Option("--reason", help="For the log, and for the device.")] = "",
) -> None:
    """Shut a device out for good; a running server drops it within a second."""
    from .fleet import Fleet

    Fleet(fleet).revoke(name, reason)
    print(f"revoked {name}: no server of this fleet lets it in any more")


@app.command("list")
def list_(
    fleet: Folder = FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show the devices: when their certificates end, when they were seen, what they did."""
    from .fleet import Fleet
    from .fleet_activity import Activity, ActivityFile
    from .fleet_door import state_of, warnings

    opened, now = Fleet(fleet), time.time()
    roll, activity = opened.roll(), ActivityFile(fleet).read()
    rows = [
        {
            "name": device.name,
            "state": state_of(device, now),
            "partitions": [device.first, device.last],
            "serial": device.newest.serial,
            "expires": _time(device.newest.expires),
            "revoked": _time(device.revoked),
            **dataclasses.asdict(done := activity.get(device.name, Activity())),
            "last_seen": _time(done.last_seen),
        }
        for device in roll.devices.values()
    ]
    ends = {name: _time(opened.certificate(file).not_valid_after_utc.timestamp()) for name, file in _OWN.items()}
    if as_json:
        facts = {"servers": list(roll.servers), "expires": ends, "warnings": [*warnings(opened, roll, now)]}
        print(json.dumps({**facts, "devices": rows}, indent=2))
        return
    _show(rows)
    for line in warnings(opened, roll, now):
        print(line)


_OWN = {"ca": "ca.crt", "server": "server.pem"}


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("device", "state", "client", "serial", "expires", "last seen"):
        table.add_column(title, no_wrap=True)
    for title in ("rounds", "failures", "bytes down", "bytes up"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        seen = row["last_seen"]
        table.add_row(
            row["name"],
            row["state"],
            _range(*row["partitions"]),
            row["serial"][:12],
            row["expires"][:10],
            seen[:16].replace("T", " ") if seen else "never",
            *(f"{row[key]:,}" for key in ("rounds", "failures", "sent_bytes", "received_bytes")),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 240  # a pipe has no width; cut nothing off
    console.print(table)


def _partitions(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not (first.isdecimal() and (last if dash else first).isdecimal()):
        raise ConfigError(f"--partition-id {text!r} should be a number or a range A-B, e.g. 3 or 0-9")
    return int(first), int(last if dash else first)


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _time(seconds: float | None) -> str | None:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds") if seconds else None


def _date(seconds: float) -> str:
    return (_time(seconds) or "")[:10]
