"""On updates of nets trained here the pipeline is never above the plain dead zone, by tensor or as a whole."""

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from amgt_fed.codec import Layout, RelativeError, decode, get_codec

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "codec_updates.py"


@pytest.fixture(scope="module")
def updates() -> ModuleType:
    spec = importlib.util.spec_from_file_location("codec_updates", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("net", ["cnn-151k", "mlp", "lstm", "transformer"])
def test_the_pipeline_is_never_above_the_dead_zone(updates: ModuleType, net: str) -> None:
    made = [next(iter(updates.make_updates((net,), (optimizer,), local_epochs=1))) for optimizer in ("sgd", "amgt")]
    for update, nmse in itertools.product(made, (0.3, 0.03)):
        budget = RelativeError(nmse)
        mine = get_codec("amgt").encode(update.vector, update.layout, budget)
        plain = get_codec("deadzone").encode(update.vector, update.layout, budget)
        assert np.array_equal(decode(mine.payload, update.layout), mine.decoded)
        assert mine.nmse <= nmse
        assert len(mine.payload) <= 1.01 * len(plain.payload)
        for segment, values in update.layout.views(update.vector):
            if not values.any():
                continue
            alone = Layout.from_shapes({segment.name: segment.shape})
            sizes = [len(get_codec(c).encode(values.copy(), alone, budget).payload) for c in ("amgt", "deadzone")]
            assert sizes[0] <= 1.01 * sizes[1], (update.name, segment.name, nmse)
