"""amgt-server refuses what cannot work before it listens, and hands the ServerApp what it was given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from amgt_fed.errors import AMGTFedError
from server.cli import app

Run = Callable[..., None]

SERVER_APP = """
import json
from pathlib import Path
from flwr.serverapp import ServerApp
app = ServerApp()
broken = ServerApp()

@app.main()
def main(grid, context):
    Path(str(context.run_config["note"])).write_text(json.dumps([context.run_id, dict(context.run_config)]))

@broken.main()
def fail(grid, context):
    raise LookupError("nothing here")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "server_cli_toy.py").write_text(SERVER_APP)
    monkeypatch.syspath_prepend(str(tmp_path))

    def command(*arguments: str, address: str = "127.0.0.1:0") -> None:
        app(["run", "--address", address, *arguments], standalone_mode=False)

    return command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--address", "7070"], "HOST:PORT"),
        (["--address", "0.0.0.0:0", "--insecure"], "--insecure is for loopback only"),
        ([], "no certificates were given"),
        (["--ca", "x.crt"], "all three of --ca, --cert and --key"),
        (["--ca", "x.crt", "--cert", "x.crt", "--key", "x.key"], "cannot read the CA certificate x.crt"),
        (["--insecure", "--set", "rounds=0"], "rounds = 0 is not allowed"),
        (["--insecure", "--set", "client.lrr=1"], "did you mean 'client.lr'"),
        (["--insecure", "--set", "rounds"], "key=value"),
        (["--insecure", "--config", "absent.toml"], "absent.toml cannot be read"),
        (["--insecure", "--resume"], "give --out DIR"),
        (["--insecure", "--server-app", "server_cli_toy:none"], "no attribute 'none'"),
        (["--insecure", "--server-app", "server_cli_toy:app", "--config", "absent.json"], "absent.json cannot be read"),
        (["--insecure", "--server-app", "server_cli_toy:app", "--grace-s", "0"], "grace_s is 0"),
        (["--insecure", "--server-app", "server_cli_toy:broken"], "the ServerApp failed: LookupError: nothing here"),
        (["--insecure", "--server-app", "server_cli_toy:app", "--address", "203.0.113.1:0"], "loopback only"),
    ],
)
def test_each_mistake_is_one_line_that_names_the_value(run: Run, arguments: list[str], says: str) -> None:
    with pytest.raises(AMGTFedError) as caught:
        run(*arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_another_apps_configuration_is_taken_as_it_is_and_the_run_id_is_kept(
    run: Run, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, note = tmp_path / f"config.{suffix}", tmp_path / "note.json"
    table = {"note": str(note), "deep": {"a": 1, "b": "x", "c": False}}
    toml = f'note = "{note}"\n[deep]\na = 1\nb = "x"\nc = false\n'
    config.write_text(json.dumps(table) if suffix == "json" else toml)
    arguments = ["--insecure", "--config", str(config), "--set", "deep.a=2", "--server-app", "server_cli_toy:app"]
    ids = []
    for _ in range(2):
        run(*arguments, "--out", str(tmp_path / "out"), "--address-file", str(tmp_path / "address"))
        run_id, seen = json.loads(note.read_text())
        assert seen == {"note": str(note), "deep.a": 2, "deep.b": "x", "deep.c": False}
        ids.append(run_id)
    assert ids[0] == ids[1]
    run(*arguments)
    assert json.loads(note.read_text())[0] != ids[0]
    address = (tmp_path / "address").read_text()
    assert address.startswith("127.0.0.1:")
    assert not address.endswith(":0")
    assert f"listening at {address}" in capsys.readouterr().out


def test_a_configuration_that_flower_cannot_carry_is_refused(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("a = [1, 2]\n")
    with pytest.raises(AMGTFedError, match="a is a list; use bool, number or text"):
        run("--insecure", "--config", str(config), "--server-app", "server_cli_toy:app")
    config.write_text("a = \n")
    with pytest.raises(AMGTFedError, match=r"config\.toml is not valid"):
        run("--insecure", "--config", str(config), "--server-app", "server_cli_toy:app")


def test_a_damaged_run_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "link.json").write_text("{}")
    with pytest.raises(AMGTFedError, match=r"link\.json is damaged"):
        run("--insecure", "--server-app", "server_cli_toy:app", "--out", str(tmp_path))
