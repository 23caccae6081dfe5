import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from amgt_fed.cli.inspect import register
from amgt_fed.codec import Layout, MaxBytes, encode

SHAPES = {"fc.weight": (20, 30), "fc.bias": (20,)}


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)

    @app.command("other")
    def other() -> None:
        """Keep `inspect` a subcommand."""

    return app


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    layout = Layout.from_shapes(SHAPES)
    x = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    path = tmp_path / "update.amgt"
    path.write_bytes(encode(x, layout, MaxBytes(200)).payload)
    (tmp_path / "layout.json").write_text(json.dumps(SHAPES))
    return path


def test_the_frame_is_shown_without_a_layout(app: typer.Typer, payload: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(payload)])
    assert result.exit_code == 0
    assert "amgt" in result.output
    assert Layout.from_shapes(SHAPES).digest[:4].hex() in result.output
    assert f"{payload.stat().st_size} bytes" in result.output


def test_tensors_add_up_to_the_body(app: typer.Typer, payload: Path) -> None:
    result = CliRunner().invoke(
        app, ["inspect", str(payload), "--json", "--layout", str(payload.parent / "layout.json")]
    )
    shown = json.loads(result.output)
    assert [t["name"] for t in shown["tensors"]] == list(SHAPES)
    assert 0.7 * shown["body_bytes"] < sum(t["bytes"] for t in shown["tensors"]) <= shown["body_bytes"]


def test_what_is_not_a_payload_or_not_this_models_is_one_clear_line(app: typer.Typer, payload: Path) -> None:
    other = payload.parent / "other.json"
    other.write_text('{"w": [3]}')
    text = payload.parent / "text.txt"
    text.write_text("hello, this is text and no payload")
    for arguments, expected in (
        ([str(payload.parent / "missing")], "cannot read"),
        ([str(text)], "not an AMGT payload"),
        ([str(payload), "--layout", str(other)], "schema"),
        ([str(payload), "--layout", str(text)], "not a layout"),
    ):
        result = CliRunner().invoke(app, ["inspect", *arguments])
        assert result.exit_code == 2
        assert expected in result.output
        assert result.output.count("\n") == 1
