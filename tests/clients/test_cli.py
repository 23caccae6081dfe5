"""amgt-client refuses what cannot work before it connects, and names its nodes so that they are known again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amgt_fed.errors import AMGTFedError
from clients.cli import app
from tests.reference.certificates import Authority

Run = Callable[..., list[tuple[str, dict[str, object]]]]

TOY = "from flwr.clientapp import ClientApp\napp = ClientApp()\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command up to the point where it would connect; returns the nodes' names and configurations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    (tmp_path / "client_cli_toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    hosted: list[tuple[str, dict[str, object]]] = []

    class Host:
        def __init__(self, app: Any, address: Any, tls: Any, nodes: Any, **options: Any) -> None:
            hosted.extend((node.name, dict(node.node_config)) for node in nodes)

        def run(self) -> None:
            pass

        def call_soon(self, callback: Callable[[], None]) -> None:
            callback()

    monkeypatch.setattr("amgt_fed.flower.client_host.ClientHost", Host)

    def command(*arguments: str, server: str = "127.0.0.1:7070") -> list[tuple[str, dict[str, object]]]:
        hosted.clear()
        app(["run", "--server", server, "--client-app", "client_cli_toy:app", *arguments], standalone_mode=False)
        return list(hosted)

    return command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--server", "nowhere", "--insecure"], "HOST:PORT"),
        (["--server", "no-such-host.invalid:1", "--ca", "a", "--cert", "b", "--key", "c"], "cannot read"),
        (["--server", "192.0.2.1:7070", "--insecure"], "--insecure is for loopback only"),
        ([], "no certificates were given"),
        (["--insecure", "--partition-id", "5", "--num-partitions", "5"], "they count from 0 to 4"),
        (["--insecure", "--nodes", "3-1"], "A-B with A <= B"),
        (["--insecure", "--nodes", "x"], "A-B with A <= B"),
        (["--insecure", "--nodes", "0-1", "--partition-id", "0"], "either --partition-id or --nodes"),
        (["--insecure", "--client-app", "client_cli_toy:none"], "no attribute 'none'"),
    ],
)
def test_each_mistake_is_one_line_that_names_the_value(run: Run, arguments: list[str], says: str) -> None:
    with pytest.raises(AMGTFedError) as caught:
        run(*arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_host_is_told_before_anything_is_tried(run: Run, tmp_path: Path) -> None:
    issued = (authority := Authority(tmp_path)).issue("pi")
    tls = ["--ca", str(authority.certificate), "--cert", str(issued.certificate), "--key", str(issued.key)]
    with pytest.raises(AMGTFedError, match=r"host 'no-such-host\.invalid' is unknown"):
        run(*tls, server="no-such-host.invalid:7070")


def test_the_name_is_given_or_the_certificates_or_the_partitions_or_drawn_once(run: Run, tmp_path: Path) -> None:
    issued = (authority := Authority(tmp_path)).issue("pi-7")
    tls = ["--ca", str(authority.certificate), "--cert", str(issued.certificate), "--key", str(issued.key)]

    def names(*arguments: str) -> list[str]:
        return [name for name, _ in run(*arguments)]

    assert names("--insecure", "--name", "lab", "--partition-id", "1") == ["lab"]
    assert names(*tls, "--partition-id", "1") == ["pi-7"]
    assert names(*tls, "--nodes", "2-3") == ["pi-7/2", "pi-7/3"]
    assert names("--insecure", "--nodes", "0-2") == ["node-0", "node-1", "node-2"]
    assert names("--insecure", "--partition-id", "4") == ["node-4"]
    (drawn,) = names("--insecure")
    assert drawn.startswith("node-")
    assert names("--insecure") == [drawn]
    assert names("--insecure", "--state-dir", str(tmp_path / "other")) != [drawn]


def test_the_node_configuration_tells_the_app_what_it_may_use(run: Run, tmp_path: Path) -> None:
    state = str(tmp_path / "home" / "amgt-fed")
    assert run("--insecure", "--partition-id", "1", "--num-partitions", "3", "--data-dir", "d", "--device", "cpu") == [
        (
            "node-1",
            {
                "partition-id": 1,
                "num-partitions": 3,
                "state-dir": state,
                "data-dir": str(tmp_path / "d"),
                "device": "cpu",
            },
        )
    ]
    assert run("--insecure", "--partition-id", "0", "--state-dir", "-") == [("node-0", {"partition-id": 0})]


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        app(["run", "--help"], prog_name="amgt-client")
    assert "--partition-id" in capsys.readouterr().out
