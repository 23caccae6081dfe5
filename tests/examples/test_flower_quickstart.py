"""The quickstart app, plain and compressed: by its own two apps, and the lines docs/flower.md says change."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flower_mod", ROOT / "benchmarks" / "flower_mod.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_sixteen_rounds_take_a_fiftieth_of_the_bytes_at_nearly_the_same_accuracy(benchmark_script: ModuleType) -> None:
    plain, compressed = (
        benchmark_script.measure(compress=compress, seed=0, rounds=16, clients=4) for compress in (False, True)
    )
    total = [facts["uplink_bytes"] + facts["downlink_bytes"] for facts in (plain, compressed)]
    assert total[0] >= 50 * total[1]
    # One image of 359 is .28 points; three of them is what seeds differ by.
    assert compressed["accuracy"] >= plain["accuracy"] - 0.0085


def test_the_two_lines_of_the_page_are_the_two_lines_of_the_app() -> None:
    page = (ROOT / "docs" / "flower.md").read_text()
    folder = ROOT / "examples" / "flower_quickstart" / "digits_app"
    assert "ClientApp(mods=[compression_mod])" in page
    assert "ClientApp(mods=[compression_mod])" in (folder / "client_app.py").read_text()
    assert "CompressedStrategy(strategy)" in (folder / "server_app.py").read_text()
