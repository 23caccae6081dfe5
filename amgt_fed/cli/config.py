"""`amgt-fed config`: every key; `amgt-fed tasks`: what can be trained."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="config")(config)
    app.command(name="tasks")(tasks)


def config(
    check: Annotated[Path | None, typer.Option("--check", help="A TOML file to check instead.")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the defaults as a TOML file to start from.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the keys as docs/configuration.md has them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the keys as JSON.")] = False,
) -> None:
    """Show every configuration key: its default, what is allowed, what it means."""
    from rich.console import Console
    from rich.table import Table

    from amgt_fed.config import RunConfig, describe_keys, from_toml, to_toml

    if check is not None:
        from_toml(check)
        print(f"{check}: valid")
        return
    if toml:
        print(to_toml(RunConfig()), end="")
        return
    if as_json:
        names = ("key", "allowed", "default", "meaning")
        print(json.dumps([dict(zip(names, row, strict=True)) for row in describe_keys()], indent=2))
        return
    if markdown:
        print(_markdown(), end="")
        return
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("key", "default", "meaning"):
        table.add_column(name, overflow="fold")
    for key, allowed, default, meaning in describe_keys():
        table.add_row(key, _shown(default), f"{meaning} [dim]({allowed})[/dim]")
    Console(highlight=False).print(table)


_PREFACE = """# Configuration

One schema, three ways in: a TOML file (`amgt-fed run --config FILE`), keys (`--set client.lr=0.01`), and Flower's
run configuration (`flwr run . --run-config "client.lr=0.01"`). An unknown key or a bad value is refused before anything
starts. `amgt-fed config --toml` prints a file to start from; `amgt-fed config --check FILE` checks one.

This page is what `amgt-fed config --markdown` prints.

| key | default | allowed | meaning |
|---|---|---|---|
"""


def _markdown() -> str:
    from amgt_fed.config import describe_keys

    rows = [
        f"| `{key}` | `{_shown(default)}` | {allowed} | {meaning} |\n"
        for key, allowed, default, meaning in describe_keys()
    ]
    return _PREFACE + "".join(rows)


def _shown(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default) or '""'


def tasks(as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False) -> None:
    """List the built-in tasks."""
    import importlib

    from amgt_fed.tasks import BUILT_IN

    rows = []
    for name, reference in BUILT_IN.items():
        module, _, attribute = reference.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        rows.append({"task": name, "about": (found.__doc__ or "").strip().splitlines()[0]})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(textwrap.fill(row["about"], 80, initial_indent=f"{row['task']:16} ", subsequent_indent=" " * 17))
    print("\nYour own: amgt-fed run --task my_module:MyTask (see examples/custom_task.py)")
