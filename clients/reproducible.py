"""Training that gives the same bits however many clients train at once in this process.

A model with dropout draws from torch's global generator, which all threads share. Most models do not, so a call first
runs freely beside the others; if any global generator moved meanwhile, it is thrown away and repeated alone, freshly
seeded, and from then on every call runs so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from amgt_fed.flower.generators import GeneratorWatch, seeded_generators

log = logging.getLogger("amgt_fed.client")

T = TypeVar("T")


class ReproducibleRunner:
    """Runs calls that may draw from the process's global random generators."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._free_calls = 0
        self._draws = False

    def __call__(self, work: Callable[[], T], seed: int) -> T:
        """The result of `work()`, which must not depend on anything it has changed itself: it may run twice."""
        if self._enter_free():
            watch = GeneratorWatch()
            try:
                result = work()
            finally:
                moved = watch.drawn_from()
                self._leave_free(moved)
            if not moved:
                return result
        with self._changed:
            # Free calls still under way may draw too; none begins any more.
            self._changed.wait_for(lambda: self._free_calls == 0)
        with seeded_generators(seed):
            return work()

    def _enter_free(self) -> bool:
        with self._changed:
            if not self._draws:
                self._free_calls += 1
            return not self._draws

    def _leave_free(self, moved: list[str]) -> None:
        with self._changed:
            self._free_calls -= 1
            if moved and not self._draws:
                self._draws = True
                log.info("training draws from %s, so clients in one process train one at a time", ", ".join(moved))
            self._changed.notify_all()
