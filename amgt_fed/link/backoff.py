"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Iterator


def delays(first_s: float, longest_s: float, generator: random.Random) -> Iterator[float]:
    """Yield waits in seconds that double from `first_s` up to `longest_s`, each drawn from its upper half.

    The jitter keeps a fleet that lost its server at one moment from coming back at one moment.

    Args:
        first_s: the first wait lies in (first_s / 2, first_s].
        longest_s: no wait is longer.
        generator: of its own, for the process's generators belong to training.
    """
    ceiling = first_s
    while True:
        ceiling = min(ceiling, longest_s)
        yield ceiling * (1.0 - generator.random() / 2)
        ceiling *= 2
