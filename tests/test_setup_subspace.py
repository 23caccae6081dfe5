"""A run in a subspace is set up whole, or refused with the key that does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from amgt_fed.codec.subspace import SubspaceCodec
from amgt_fed.errors import ConfigError
from amgt_fed.setup import build, resolve
from amgt_fed.subspace import Subspace
from amgt_fed.tasks import train_locally

BOTH = {"task": "digits", "codec.uplink": "subspace:rank=8", "codec.downlink": "subspace:rank=8"}


def test_local_training_stays_in_the_rounds_subspace() -> None:
    setup = build(resolve({**BOTH, "client.steps": 3}))
    flat = setup.fresh_model()
    start = flat.read()
    result = train_locally(setup.task, flat, setup.task.client_data(0), start, setup.local_settings(5), seed=1)
    update = start - result.vector
    space = Subspace(8, 5)
    coefficients = space.reduce(update, flat.layout)
    small = {segment.name: segment for segment in space.reduced(flat.layout).segments}
    for segment in flat.layout.segments:
        found = space.directions(segment.name, segment.shape)
        moved = update[segment.offset : segment.stop]
        assert moved.any()
        if found is not None:
            part = coefficients[small[segment.name].offset : small[segment.name].stop]
            assert np.linalg.norm(found.expand(part) - moved) < 1e-3 * np.linalg.norm(moved)


def test_no_residual_is_kept_for_it_would_lie_outside_the_next_subspace() -> None:
    setup = build(resolve(BOTH))
    assert isinstance(setup.compression().codec, SubspaceCodec)
    assert not setup.compression().error_feedback
    assert not setup.downlink().error_feedback


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"client.optimizer": "sgd"}, "client.optimizer"),
        ({"server.optimizer": "momentum"}, "server.optimizer"),
        ({"codec.uplink": "amgt"}, "set both"),
        ({"codec.downlink": "subspace:rank=4"}, "both the same"),
    ],
)
def test_keys_that_do_not_go_with_it_are_refused(keys: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build(resolve({**BOTH, **keys}))
