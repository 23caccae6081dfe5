"""`amgt-fed inspect FILE`: what a payload holds, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from amgt_fed.codec import Layout
from amgt_fed.codec.describe import Description, describe, is_readable
from amgt_fed.codec.frame import unwrap
from amgt_fed.codec.interface import gather, l2_norm
from amgt_fed.codec.registry import codec_of
from amgt_fed.errors import AMGTFedError, ConfigError


def register(app: typer.Typer) -> None:
    """Add `inspect` to a command line."""

    @app.command("inspect")
    def inspect(
        file: Annotated[Path, typer.Argument(help="A payload, as encode() returned it.")],
        layout: Annotated[
            Path | None,
            typer.Option(help='The model\'s tensors as JSON, {"name": [shape], ...}; shows what each one takes.'),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """Show what a payload holds: codec, sizes, measured error, and each tensor's share."""
        try:
            _show(file, layout, as_json)
        except AMGTFedError as error:
            typer.echo(f"amgt-fed: {error}", err=True)
            raise typer.Exit(2) from None


def _show(file: Path, layout: Path | None, as_json: bool) -> None:
    try:
        payload = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    frame = describe(payload)
    rows = _tensors(payload, read_layout(layout)) if layout is not None else []
    if as_json:
        fields = {name: getattr(frame, name) for name in Description.__slots__}
        typer.echo(json.dumps(fields | ({"tensors": rows} if rows else {}), indent=2))
        return
    console = Console()
    head = Table(title=str(file), show_header=False)
    for label, value in (
        ("format version", f"{frame.version}{'' if is_readable(frame) else ' (newer than this library reads)'}"),
        ("codec", frame.codec),
        ("model's schema", frame.schema),
        ("measured l2 error", f"{frame.error_l2:.6g}"),
        ("payload", f"{frame.payload_bytes} bytes, of which body {frame.body_bytes}"),
        ("checksum", frame.checksum),
    ):
        head.add_row(label, value)
    console.print(head)
    if rows:
        table = Table("tensor", "shape", "bytes", "bits/parameter", "rank", "non-zero", "l2")
        for row in rows:
            table.add_row(
                row["name"],
                "x".join(map(str, row["shape"])) or "scalar",
                f"{row['bytes']:.1f}",
                f"{8 * row['bytes'] / max(1, row['size']):.4f}",
                str(row["rank"]),
                f"{row['nonzero']} of {row['size']}",
                f"{row['l2']:.6g}",
            )
        console.print(table)


def read_layout(path: Path) -> Layout:
    """A layout from a JSON object of names and shapes.

    Raises:
        ConfigError: the file cannot be read, or is not such an object.
    """
    try:
        shapes = json.loads(path.read_text())
        if not isinstance(shapes, dict):
            raise TypeError
        return Layout.from_shapes({str(name): [int(side) for side in shape] for name, shape in shapes.items()})
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        if isinstance(error, AMGTFedError):
            raise
        raise ConfigError(f'{path} is not a layout; write a JSON object such as {{"fc.weight": [64, 512]}}') from None


def _tensors(payload: bytes, layout: Layout) -> list[dict[str, Any]]:
    frame = unwrap(payload, layout)
    opened = codec_of(frame.codec_id, frame.codec_name).open(frame.body, layout)
    decoded = gather(opened, layout)
    shares = opened.tensor_bytes() or tuple(len(frame.body) * s.size / max(1, layout.size) for s in layout.segments)
    ranks = opened.ranks() or (0,) * len(layout.segments)
    rows = []
    for segment, share, rank in zip(layout.segments, shares, ranks, strict=True):
        part = decoded[segment.offset : segment.stop]
        rows.append(
            {
                "name": segment.name,
                "shape": list(segment.shape),
                "size": segment.size,
                "bytes": share,
                "rank": rank,
                "nonzero": int(np.count_nonzero(part)),
                "l2": l2_norm(part),
            }
        )
    return rows
