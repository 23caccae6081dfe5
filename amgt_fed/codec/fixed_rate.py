"""Codecs whose own parameters, and no budget, decide what is kept."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from amgt_fed.codec.interface import Body, Codec
from amgt_fed.layout import Float32Vector, Layout


class FixedRate(Codec):
    """A codec that cannot aim at a budget: `encode` checks it afterwards, and refuses with what was reached."""

    def compress(
        self,
        update: Float32Vector,
        layout: Layout,
        *,
        max_error: float,
        max_bytes: int | None,
        state: Any,
        rng: np.random.Generator | None,
    ) -> Body:
        """What `reduce` gives, whatever the budget."""
        return self.reduce(update, layout, state, rng)

    @abstractmethod
    def reduce(self, update: Float32Vector, layout: Layout, state: Any, rng: np.random.Generator | None) -> Body:
        """Turn a finite vector into a body; arguments as `Codec.compress`."""
