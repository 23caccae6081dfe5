"""The command line's root: commands, and errors as one line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from amgt_fed.cli import compare, config, dashboard, doctor, inspect, paper, run, runs
from amgt_fed.cli.errors import reporting

app = typer.Typer(
    name="amgt-fed",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with [bold]amgt-fed run[/bold]: digits over 20 clients, beside dense FedAvg, in under three minutes.",
)
for module in (run, runs, compare, dashboard, paper, inspect, config, doctor):
    module.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        import amgt_fed

        print(amgt_fed.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        # Eager: looked at before a missing command is complained of.
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Federated training with the AMGT optimizer, compressed updates and a convergence certificate."""
    del version, debug  # the latter is read from the arguments by `main`: it may stand after the command as well


def main() -> None:
    """Run the command line; exit code 0 is success, 2 an error the user can mend, 130 an interrupt."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    with reporting(debug=debug):
        # Not standalone: typer would print a wrong option as a box of several lines.
        code = app(
            [argument for argument in arguments if argument != "--debug"], prog_name="amgt-fed", standalone_mode=False
        )
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
