"""The page in a browser: it draws, follows a run, and can be used with the keyboard, in the dark, on a phone."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from amgt_fed.runs import RunDirectory
from tests.dashboard.conftest import record

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = playwright.expect


@pytest.fixture
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as started:
        try:
            launched = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"needs Chromium: {str(error).splitlines()[0]}")
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    problems: list[str] = []

    def open_at(address: str, **options: Any) -> Any:
        page = browser.new_context(**options).new_page()
        page.on("console", lambda line: problems.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#chart-metric .main-svg")
        return page

    yield open_at
    assert problems == []


def test_it_draws_two_runs_and_follows_one(
    make_run: Callable[..., RunDirectory], start_dashboard: Callable[..., str], open_page: Callable[..., Any]
) -> None:
    first, _ = make_run("first", clients=120), make_run("second <i>", rounds=5)
    page = open_page(start_dashboard(first.path.parent))
    assert page.locator("#runs tbody tr").count() == 2
    assert page.locator("#runs tbody th").nth(1).inner_text() == "second <i>"
    assert page.locator("#chart-metric .scatterlayer .trace").count() == 2
    assert "accuracy against round" in page.locator("#chart-metric .plot").get_attribute("aria-label")

    with first.rounds_path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record(11))) + "\n")
    expect(page.locator("#runs tbody tr").first.locator("td").nth(2)).to_have_text("11 / 20")

    page.get_by_label("show second").uncheck()
    expect(page.locator("#chart-metric .scatterlayer .trace")).to_have_count(1)
    page.get_by_label("bytes", exact=True).check()
    expect(page.locator("#chart-metric .xtitle")).to_have_text("bytes up and down")

    page.locator("#chart-loss summary").click()
    page.wait_for_selector("#chart-loss details table tbody tr")

    expect(page.locator("#clients-place")).to_have_text("1 to 50 of 120")
    page.get_by_role("button", name="Next").press("Enter")
    expect(page.locator("#clients-place")).to_have_text("51 to 100 of 120")
    page.get_by_role("button", name="failures").press("Enter")
    page.get_by_role("button", name="failures").press("Enter")
    expect(page.locator("#clients-table tbody tr").first.locator("td").last).to_have_text("<b>sensor unplugged</b>")


def test_dark_and_narrow(
    make_run: Callable[..., RunDirectory], start_dashboard: Callable[..., str], open_page: Callable[..., Any]
) -> None:
    page = open_page(
        start_dashboard(make_run("first").path), color_scheme="dark", viewport={"width": 360, "height": 700}
    )
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_label("Theme").select_option("light")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter(e => !e.labels?.length && "
        "!e.getAttribute('aria-label') && !e.innerText.trim()).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_off_loopback_the_address_carries_a_token(
    make_run: Callable[..., RunDirectory], start_dashboard: Callable[..., str], tmp_path: Path
) -> None:
    address = start_dashboard(make_run("first").path, "--host", "0.0.0.0").replace("0.0.0.0", "127.0.0.1")
    base, token = address.split("?token=")
    assert len(token) >= 32
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{base}api/runs", timeout=5)
