"""Training gives the same bits however many clients train at once, drawing or not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from clients.reproducible import ReproducibleRunner


def test_calls_that_draw_give_the_bits_of_a_call_alone_for_their_seed() -> None:
    def draw() -> tuple[float, float]:
        return float(torch.rand(())), float(np.random.random())

    alone = [ReproducibleRunner()(draw, seed) for seed in range(8)]
    assert len(set(alone)) == 8
    runner = ReproducibleRunner()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: runner(draw, seed), range(8)))
    assert together == alone


def test_calls_that_do_not_draw_run_beside_one_another() -> None:
    runner, meeting = ReproducibleRunner(), threading.Barrier(3, timeout=20)
    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(lambda seed: runner(meeting.wait, seed), range(3))) == [0, 1, 2]


def test_the_generators_stand_afterwards_where_they_stood_once_it_is_known_that_calls_draw() -> None:
    runner = ReproducibleRunner()
    runner(lambda: torch.rand(3), 0)
    before = torch.get_rng_state()
    runner(lambda: torch.rand(3), 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_call_raises_comes_through_and_the_next_one_runs() -> None:
    runner = ReproducibleRunner()
    for drawing in (False, True):

        def failing(drawing: bool = drawing) -> None:
            if drawing:
                torch.rand(())
            raise LookupError("mine")

        try:
            runner(failing, 0)
        except LookupError as error:
            found = str(error)
        assert found == "mine"
    assert runner(lambda: 5, 0) == 5
