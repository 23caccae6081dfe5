from __future__ import annotations

import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from amgt_fed.flower.generators import GeneratorWatch, seeded_generators

DRAWS: dict[str, Callable[[], object]] = {
    "random": random.random,
    "numpy.random": lambda: np.random.standard_normal(3),
    "torch": lambda: torch.nn.functional.dropout(torch.ones(4), 0.5),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("seeded", [False, True])
def test_a_draw_is_seen_and_named_whether_or_not_it_was_seeded(name: str, seeded: bool) -> None:
    watch = GeneratorWatch()
    if seeded:
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
    DRAWS[name]()
    assert watch.drawn_from() == [name]


def test_seeding_alone_is_no_draw() -> None:
    watch = GeneratorWatch()
    random.seed(12345)
    np.random.seed(12345)
    torch.manual_seed(12345)
    np.random.default_rng(1).random()
    torch.rand(2, generator=torch.Generator().manual_seed(1))
    assert watch.drawn_from() == []


def test_a_seeded_block_repeats_and_leaves_no_trace() -> None:
    watch = GeneratorWatch()
    draws = []
    for seed in (5, 5, 6, -1):
        with seeded_generators(seed):
            draws.append((random.random(), float(np.random.rand()), torch.rand(2).tolist()))
    assert draws[0] == draws[1] != draws[2]
    assert watch.drawn_from() == []


def test_seeded_blocks_in_many_threads_do_not_disturb_one_another() -> None:
    def draw(seed: int) -> list[float]:
        with seeded_generators(seed):
            return [float(torch.rand(())) + random.random() + float(np.random.rand()) for _ in range(50)]

    serial = [draw(seed) for seed in range(8)]
    parallel: list[list[float]] = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda s=s: parallel.__setitem__(s, draw(s))) for s in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parallel == serial


def test_the_generators_come_back_after_an_error_too() -> None:
    watch = GeneratorWatch()

    def fail() -> None:
        with seeded_generators(1):
            random.random()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert watch.drawn_from() == []
