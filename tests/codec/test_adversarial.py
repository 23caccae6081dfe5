"""A thousand of the adversarial vectors of `benchmarks/codec_budgets.py`: no budget is broken or wrongly refused."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from amgt_fed.codec import MaxBytes, MaxError, RelativeError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "codec_budgets.py"


@pytest.fixture(scope="module")
def budgets() -> ModuleType:
    spec = importlib.util.spec_from_file_location("codec_budgets", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("codec", ["amgt", "deadzone"])
def test_no_budget_is_broken_in_a_thousand_adversarial_vectors(budgets: ModuleType, codec: str) -> None:
    tried, wrong = budgets.piece(codec, seed=90_001, count=1_000, largest=40)
    assert not wrong, wrong[0]
    assert set(tried) == {(family, kind) for family in budgets.FAMILIES for kind in budgets.BUDGETS}
    assert min(tried.values()) > 10


def test_the_check_sees_an_excess_of_one_denormal(budgets: ModuleType) -> None:
    update = np.array([3e38, 1e-45, -7e-45], np.float32)
    off = update.copy()
    off[2] = np.float32(-8.5e-45)
    payload = bytes(20)
    assert budgets.is_met(MaxError(0.0), payload, update, update)
    assert not budgets.is_met(MaxError(0.0), payload, off, update)
    assert budgets.is_met(MaxError(2.0**-149), payload, off, update)
    assert not budgets.is_met(RelativeError(0.0), payload, off, update)
    assert budgets.is_met(MaxBytes(20), payload, off, update)
    assert not budgets.is_met(MaxBytes(19), payload, off, update)
