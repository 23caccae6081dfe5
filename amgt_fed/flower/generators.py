"""The random generators that belong to the whole process: Python's, numpy's, torch's.

Clients that draw from them cannot run in parallel threads and be reproducible, for one client's draws shift the
other's. `GeneratorWatch` tells after the fact whether a call drew; `seeded_generators` is how code that must draw
(a model's initial weights, dropout) does so reproducibly in any thread.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_lock = threading.RLock()

# Both Mersenne Twisters hold 624 words and a position, which stands at the end only right after seeding
# (or after a multiple of 624 words, which no ordinary call stops at).
_FRESHLY_SEEDED = 624


class GeneratorWatch:
    """Remember where the process's generators stand, to ask later whether anyone has drawn from them."""

    def __init__(self) -> None:
        with _lock:
            self._before = _states()

    def drawn_from(self) -> list[str]:
        """Name the generators that moved since; one that was only seeded, and not drawn from, has not moved.

        While another thread is inside `seeded_generators` the answer is none: it puts everything back.
        """
        if not _lock.acquire(blocking=False):
            return []
        try:
            after = _states()
        finally:
            _lock.release()
        return [
            name
            for name, state in after.items()
            if not _equal(state, self._before.get(name)) and not _is_freshly_seeded(name, state)
        ]


@contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """Seed every global generator, for one thread at a time, and put all back as they were at the end.

    Code inside sees the same draws whatever else runs in the process, as long as everyone who draws does so inside
    such a block. Blocks exclude one another, so keep them short: around building a model rather than around training
    it, unless training itself draws.

    Args:
        seed: any integer; taken modulo 2**32, which is what numpy accepts.
    """
    with _lock:
        before = _states()
        _seed(seed % 2**32)
        try:
            yield
        finally:
            _restore(before)


def _states() -> dict[str, Any]:
    states: dict[str, Any] = {"random": random.getstate(), "numpy.random": np.random.get_state(legacy=False)}
    # torch is not imported on its behalf: an app that does not use it should not pay a second and 200 MB for it.
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "get_rng_state"):
        states["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                states[f"torch.cuda:{device}"] = torch.cuda.get_rng_state(device)
    return states


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


def _restore(states: dict[str, Any]) -> None:
    for name, state in states.items():
        if name == "random":
            random.setstate(state)
        elif name == "numpy.random":
            np.random.set_state(state)
        elif name == "torch":
            sys.modules["torch"].set_rng_state(state)
        else:
            sys.modules["torch"].cuda.set_rng_state(state, int(name.partition(":")[2]))


def _equal(state: Any, other: Any) -> bool:
    if isinstance(state, tuple):
        return bool(state == other)
    if isinstance(state, dict):
        if other is None:
            return False
        one, two = state["state"], other["state"]
        return bool(one["pos"] == two["pos"] and np.array_equal(one["key"], two["key"]))
    return other is not None and bool((state == other).all())


def _is_freshly_seeded(name: str, state: Any) -> bool:
    if name == "random":
        return bool(state[1][-1] == _FRESHLY_SEEDED)
    if name == "numpy.random":
        return bool(state["state"]["pos"] == _FRESHLY_SEEDED)
    torch = sys.modules["torch"]
    if name == "torch":
        fresh = torch.Generator()
        fresh.manual_seed(torch.initial_seed())
        return bool((fresh.get_state() == state).all())
    # CUDA's generator counts what it gave out; the count is the last eight bytes of its state.
    return not bool(state[-8:].any())
