"""The command `amgt-client`: a warm process that takes part in rounds until the run is over."""

from __future__ import annotations

import logging
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amgt_fed.cli.service import run_service, security
from amgt_fed.errors import AMGTFedError, ConfigError, EngineError

if TYPE_CHECKING:
    from amgt_fed.flower.client_host import HostedNode
    from amgt_fed.link import Tls

log = logging.getLogger("amgt_fed.client")

OWN_APP = f"{__package__}.app:app"
APPS_CHOICE = "-"
NAME_FILE = "name"

app = typer.Typer(
    name="amgt-client",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root() -> None:
    """A client of a fleet: connects to an amgt-server and answers its messages with a ClientApp."""


@app.command()
def run(
    server: Annotated[str, typer.Option("--server", "-s", help="HOST:PORT of the amgt-server.")],
    insecure: Annotated[bool, typer.Option("--insecure", help="Plaintext; on loopback only.")] = False,
    ca: Annotated[Path | None, typer.Option("--ca", help="The fleet's CA certificate (PEM).")] = None,
    cert: Annotated[Path | None, typer.Option("--cert", help="This device's certificate (PEM).")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Its private key (PEM).")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="This node's name; by default the certificate's common name.")
    ] = None,
    partition_id: Annotated[
        int | None, typer.Option("--partition-id", min=0, help="Which client of the federation this node is.")
    ] = None,
    num_partitions: Annotated[
        int | None, typer.Option("--num-partitions", min=1, help="How many clients there are.")
    ] = None,
    nodes: Annotated[
        str | None, typer.Option("--nodes", metavar="A-B", help="Host partitions A to B in this one process.")
    ] = None,
    state_dir: Annotated[
        str | None,
        typer.Option("--state-dir", help="Where residuals and the node's name are kept; `-` leaves it to the app."),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="This node's data, for the task.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; by default the run's.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Compute threads; 0: the libraries' choice.")] = 0,
    max_message_mib: Annotated[int, typer.Option("--max-message-mib", min=1, help="Largest message taken.")] = 1024,
    once: Annotated[
        bool, typer.Option("--once", help="Exit when the run is over instead of waiting for the next.")
    ] = False,
    client_app: Annotated[
        str, typer.Option("--client-app", help="Another Flower ClientApp, as module:attribute.")
    ] = OWN_APP,
) -> None:
    """Connect, stay connected, and answer messages."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    from amgt_fed.flower.apps import load_client_app
    from amgt_fed.flower.client_host import ClientHost
    from amgt_fed.link import Address, LinkLimits

    address = Address.parse(server)
    tls = security(address, insecure=insecure, ca=ca, cert=cert, key=key)
    address.resolve()
    root_dir = _state_root(state_dir)
    partitions = _partitions(partition_id, num_partitions, nodes)
    hosted = _hosted(partitions, num_partitions, name, tls, root_dir, data_dir, device)
    loaded = load_client_app(client_app)
    limits = LinkLimits(
        max_message_bytes=max_message_mib * 1024 * 1024,
        receive_budget_bytes=max(max_message_mib * 1024 * 1024, LinkLimits().receive_budget_bytes),
    )
    log.info("%s for server %s, app %s", ", ".join(node.name for node in hosted[:5]), address, client_app)
    try:
        ClientHost(loaded, address, tls, hosted, limits=limits, stay=not once).run()
    except AMGTFedError:
        raise
    except Exception as error:
        raise EngineError(f"the client failed: {type(error).__name__}: {error}") from error


def main() -> None:
    """Run the command line; exit code 0 is success, 2 an error the user can mend, 130 and 143 a signal."""
    run_service(lambda arguments: app(arguments, prog_name="amgt-client"))


def _state_root(state_dir: str | None) -> Path | None:
    if state_dir == APPS_CHOICE:
        return None
    if state_dir is not None:
        return Path(state_dir).expanduser().resolve()
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "amgt-fed"


def _partitions(partition_id: int | None, num_partitions: int | None, nodes: str | None) -> list[int | None]:
    if nodes is None:
        chosen: list[int | None] = [partition_id]
    elif partition_id is not None:
        raise ConfigError("give either --partition-id or --nodes")
    elif (match := re.fullmatch(r"(\d+)-(\d+)", nodes)) is None or int(match[1]) > int(match[2]):
        raise ConfigError(f"--nodes {nodes!r} should read A-B with A <= B, e.g. 0-9")
    else:
        chosen = list(range(int(match[1]), int(match[2]) + 1))
    last = chosen[-1]
    if last is not None and num_partitions is not None and last >= num_partitions:
        raise ConfigError(f"partition {last} is not one of {num_partitions}: they count from 0 to {num_partitions - 1}")
    return chosen


def _hosted(
    partitions: list[int | None],
    num_partitions: int | None,
    name: str | None,
    tls: Tls | None,
    root_dir: Path | None,
    data_dir: Path | None,
    device: str | None,
) -> list[HostedNode]:
    from amgt_fed.flower.client_host import HostedNode

    shared: dict[str, bool | int | float | str] = {}
    if num_partitions is not None:
        shared["num-partitions"] = num_partitions
    if root_dir is not None:
        shared["state-dir"] = str(root_dir)
    if data_dir is not None:
        shared["data-dir"] = str(data_dir.resolve())
    if device is not None:
        shared["device"] = device
    hosted = []
    for partition in partitions:
        own = {**shared} if partition is None else {**shared, "partition-id": partition}
        base = name or (tls.common_name if tls is not None else None)
        if base is not None and len(partitions) > 1:
            base = f"{base}/{partition}"
        hosted.append(HostedNode(base or _own_name(partition, root_dir), own))
    return hosted


def _own_name(partition: int | None, root: Path | None) -> str:
    """Told by the partition, or drawn once and kept in the state directory."""
    if partition is not None:
        return f"node-{partition}"
    drawn = f"node-{secrets.token_hex(6)}"
    if root is None:
        return drawn
    path = root / NAME_FILE
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    root.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(drawn, encoding="utf-8")
    temporary.replace(path)
    return drawn
