"""What the page is told: of runs that go, that are over, that are damaged; and to whom."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from amgt_fed.dashboard.app import build_app
from amgt_fed.dashboard.shelf import Shelf
from amgt_fed.errors import StateError
from amgt_fed.runs import RunDirectory
from tests.dashboard.conftest import PARAMETERS, record

MakeRun = Callable[..., RunDirectory]


class Client:
    """Asks the application without a socket; keeps cookies."""

    def __init__(self, app: Starlette, base_url: str = "http://test") -> None:
        transport = httpx.ASGITransport(app=app)
        self._client = httpx.AsyncClient(transport=transport, base_url=base_url, follow_redirects=True)

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return asyncio.run(self._client.get(path, headers=headers))


@pytest.fixture
def client(tmp_path: Path, make_run: MakeRun) -> Client:
    make_run("first")
    return Client(build_app(Shelf([tmp_path / "runs"])))


def append(directory: RunDirectory, *rounds: int) -> None:
    with directory.rounds_path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(record(number))) + "\n" for number in rounds)


def test_a_run_s_row_adds_up_its_rounds(client: Client) -> None:
    (run,) = client.get("/api/runs").json()
    assert (run["id"], run["rounds"], run["planned"], run["finished"]) == ("first", 10, 20, False)
    assert (run["uplink"], run["downlink"], run["failures"]) == (1000, 600, 1)
    assert run["dense"] == 10 * 4 * 2 * 4 * PARAMETERS
    assert run["ratio"] == pytest.approx(run["dense"] / 1600)
    assert (run["metric"], run["value"]) == ("accuracy", pytest.approx(0.91))


def test_curves_come_in_rounds_bytes_and_seconds(client: Client) -> None:
    found = client.get("/api/runs/first/series").json()
    assert found["metrics"] == ["accuracy"]
    loss = found["series"]["loss"]
    assert loss["rounds"] == list(range(1, 11))
    assert loss["bytes"] == [160 * k for k in range(1, 11)]
    assert loss["seconds"] == [k / 2 for k in range(1, 11)]
    assert loss["value"] == pytest.approx([2 / k for k in range(1, 11)])
    assert "gap" not in found["series"]


def test_what_is_written_later_is_shown_and_what_is_taken_back_is_not(client: Client, make_run: MakeRun) -> None:
    make_run("second", rounds=3)
    directory = RunDirectory(make_run("first").path)
    before = client.get("/api/runs").json()
    assert [run["id"] for run in before] == ["first", "second"]
    append(directory, 11, 12)
    after = client.get("/api/runs").json()[0]
    assert (after["rounds"], after["version"] > before[0]["version"]) == (12, True)
    directory.cut_rounds(6)  # a resumed run
    append(directory, 6)
    assert client.get("/api/runs").json()[0]["rounds"] == 6
    assert client.get("/api/runs/first/series").json()["series"]["delta"]["rounds"] == [1, 2, 3, 4, 5, 6]


def test_a_line_that_is_still_being_written_waits(client: Client, tmp_path: Path) -> None:
    line = json.dumps(asdict(record(11)))
    path = tmp_path / "runs" / "first" / "rounds.jsonl"
    with path.open("a") as file:
        file.write(line[:40])
    assert client.get("/api/runs").json()[0]["rounds"] == 10
    with path.open("a") as file:
        file.write(line[40:] + "\n")
    assert client.get("/api/runs").json()[0]["rounds"] == 11


def test_a_damaged_run_says_so_and_leaves_the_others_alone(client: Client, make_run: MakeRun) -> None:
    make_run("second").rounds_path.write_text("{no json\n")
    runs = client.get("/api/runs").json()
    assert [bool(run["problem"]) for run in runs] == [False, True]
    assert runs[0]["rounds"] == 10


def test_nothing_new_is_nothing_sent(client: Client) -> None:
    first = client.get("/api/runs")
    again = client.get("/api/runs", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_hundred_thousand_rounds_are_quick_and_small(client: Client, make_run: MakeRun) -> None:
    make_run("long", rounds=100_000)
    client.get("/api/runs")
    began = time.perf_counter()
    answer = client.get("/api/runs/long/series")
    assert time.perf_counter() - began < 2
    assert len(answer.content) < 3_000_000
    assert client.get("/api/runs").json()[1]["rounds"] == 100_000


def test_clients_come_a_page_at_a_time_sorted_and_searched(client: Client, make_run: MakeRun) -> None:
    make_run("many", clients=10_000)
    page: dict[str, Any] = client.get("/api/runs/many/clients?page=2&sort=uplink_bytes&order=desc").json()
    assert (page["total"], page["page"], len(page["clients"])) == (10_000, 2, 50)
    assert page["clients"][0]["client"] == 9_899
    failed = client.get("/api/runs/many/clients?find=unplugged").json()
    assert [entry["client"] for entry in failed["clients"]] == [1]
    assert failed["clients"][0]["failures"] == 1


@pytest.mark.parametrize("query", ["sort=__class__", "order=up", "page=-1", "page=x"])
def test_a_wrong_question_is_told_what_is_right(client: Client, query: str) -> None:
    answer = client.get(f"/api/runs/first/clients?{query}")
    assert answer.status_code == 400
    assert query.split("=")[1] in answer.text


def test_no_such_run(client: Client) -> None:
    assert client.get("/api/runs/nobody/series").status_code == 404


def test_no_path_leads_out_of_the_page_s_own_files(client: Client) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd"):
        assert client.get(path).status_code == 404


def test_with_a_token_nothing_is_told_without_it(make_run: MakeRun) -> None:
    shelf = Shelf([make_run("first").path])
    client = Client(build_app(shelf, token="s3cret"))
    for path in ("/", "/api/runs", "/static/main.js", "/plotly.js", "/api/runs?token=wrong"):
        assert client.get(path).status_code == 401
    assert client.get("/?token=s3cret").url.query == b""
    assert client.get("/api/runs").json()[0]["id"] == "first"  # the cookie holds


def test_another_host_s_name_is_refused(make_run: MakeRun) -> None:
    app = build_app(Shelf([make_run("first").path]), hosts=["127.0.0.1"])
    assert Client(app, base_url="http://evil.example").get("/api/runs").status_code == 400
    assert Client(app, base_url="http://127.0.0.1:8050").get("/api/runs").status_code == 200


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"there is no folder .*missing"):
        Shelf([tmp_path / "missing"])
