from __future__ import annotations

from pathlib import Path

import pytest

from amgt_fed.errors import ConfigError
from amgt_fed.flower.apps import load_client_app, load_server_app


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good_toy_app.py").write_text(
        "from flwr.clientapp import ClientApp\nfrom flwr.serverapp import ServerApp\n"
        "app = ClientApp()\nserver = ServerApp()\nnumber = 3\n"
    )
    (tmp_path / "needy_toy_app.py").write_text("import surely_not_installed\n")
    (tmp_path / "broken_toy_app.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("modules")
def test_apps_in_the_current_directory_are_found() -> None:
    assert type(load_client_app("good_toy_app:app")).__name__ == "ClientApp"
    assert type(load_server_app("good_toy_app:server")).__name__ == "ServerApp"


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("good_toy_app", "package.module:attribute"),
        (":app", "package.module:attribute"),
        ("good_toy_app:", "package.module:attribute"),
        ("no_such_toy_app:app", "there is no module 'no_such_toy_app'"),
        ("good_toy_app.sub:app", "good_toy_app"),
        ("needy_toy_app:app", "needs the module 'surely_not_installed'"),
        ("broken_toy_app:app", "ZeroDivisionError: division by zero"),
        ("good_toy_app:missing", "has no attribute 'missing'"),
        ("good_toy_app:number", "is a int; a ClientApp is needed"),
        ("good_toy_app:server", "is a ServerApp; a ClientApp is needed"),
    ],
)
def test_each_way_to_fail_has_its_own_line(reference: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_client_app(reference)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
