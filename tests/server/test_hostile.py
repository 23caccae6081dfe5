"""Hostile clients in whole runs: contained and named under a robust rule, and not under the mean."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hostile", ROOT / "benchmarks" / "hostile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_hundredfold_update_of_a_fifth_ruins_the_mean_and_is_named_by_a_robust_rule(benchmark: ModuleType) -> None:
    mean = benchmark.measure("mean", "scaling", share=0.2, seed=0, rounds=4)
    robust = benchmark.measure("multi_krum:malicious=3", "scaling", share=0.2, seed=0, rounds=4)
    assert mean["accuracy"] < 0.5
    assert mean["named_hostile"] == mean["named_honest"] == 0
    assert robust["accuracy"] > 0.6
    assert robust["named_hostile"] >= 4
    assert robust["named_honest"] <= 2
