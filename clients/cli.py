"""The command `amgt-client`: a warm process that takes part in rounds until the run is over."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from amgt_fed.cli.notify import Watchdog, watchdog_interval_s
from amgt_fed.cli.service import run_service
from amgt_fed.errors import AMGTFedError, EngineError

from .connection import connection
from .nodes import chosen_partitions, hosted_nodes, state_root

log = logging.getLogger("amgt_fed.client")

OWN_APP = f"{__package__}.app:app"

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
    server: Annotated[
        str | None, typer.Option("--server", "-s", help="HOST:PORT of the amgt-server; by default the bundle's.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle", "-b", help="This device's file from `amgt-server fleet enroll`: who it is, and where."
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Plaintext; on loopback only.")] = False,
    ca: Annotated[Path | None, typer.Option("--ca", help="The fleet's CA certificate (PEM).")] = None,
    cert: Annotated[Path | None, typer.Option("--cert", help="This device's certificate (PEM).")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Its private key (PEM).")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="This node's name; by default the certificate's common name.")
    ] = None,
    partition_id: Annotated[
        int | None,
        typer.Option(
            "--partition-id", min=0, help="Which client of the federation this node is; by default the bundle's."
        ),
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
    uplink_budget: Annotated[
        str | None,
        typer.Option(
            "--uplink-budget", metavar="bytes=N", help="Largest update this link bears; or bits=B a parameter."
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Compute threads; 0: the libraries' choice.")] = 0,
    max_message_mib: Annotated[int, typer.Option("--max-message-mib", min=1, help="Largest message taken.")] = 1024,
    alive_file: Annotated[
        Path | None, typer.Option("--alive-file", help="Touched every few seconds while connections are served.")
    ] = None,
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
    from amgt_fed.link import LinkLimits

    link = connection(server, bundle, insecure=insecure, ca=ca, cert=cert, key=key)
    link.address.resolve()
    root_dir = state_root(state_dir)
    partitions = chosen_partitions(partition_id, num_partitions, nodes, link.bundle)
    hosted = hosted_nodes(partitions, num_partitions, name, link.tls, root_dir, data_dir, device, uplink_budget)
    loaded = load_client_app(client_app)
    limits = LinkLimits(
        max_message_bytes=max_message_mib * 1024 * 1024,
        receive_budget_bytes=max(max_message_mib * 1024 * 1024, LinkLimits().receive_budget_bytes),
    )
    log.info("%s for server %s, app %s", ", ".join(node.name for node in hosted[:5]), link.address, client_app)
    host = ClientHost(
        loaded, link.address, link.tls, hosted, limits=limits, stay=not once, certificates=link.certificates
    )
    try:
        with Watchdog(host.call_soon, watchdog_interval_s(), alive_file):
            host.run()
    except AMGTFedError:
        raise
    except Exception as error:
        raise EngineError(f"the client failed: {type(error).__name__}: {error}") from error


def main() -> None:
    """Run the command line.

    Exit code 0 is success, 2 an error the user can mend, 77 a device the server has shut out, 130 and 143 a signal.
    """
    run_service(lambda arguments: app(arguments, prog_name="amgt-client"))
