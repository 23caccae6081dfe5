"""Streaming weighted mean of the clients' updates, in the memory of the model and not of the clients."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from amgt_fed.errors import RoundError
from amgt_fed.federated.gather import MAX_EXAMPLES, Gathering
from amgt_fed.federated.messages import Aggregate, ClientUpdate
from amgt_fed.layout import Layout


class Accumulator(Gathering):
    """Adds updates as they arrive, to the sum of all; one decoded update at a time exists.

    Args:
        layout: of the model.
        expected: the clients asked.
        clip_norm: largest l2 norm of one update; 0: not clipped.
        control: with control variates, sum_i n_i c_i / n before the round; the mean is then scaffold.py's m.
        max_examples: a client that claims to have trained on more is refused.
    """

    def __init__(
        self,
        layout: Layout,
        expected: Iterable[int],
        *,
        clip_norm: float = 0.0,
        control: NDArray[np.float64] | None = None,
        max_examples: int = MAX_EXAMPLES,
    ) -> None:
        super().__init__(layout, expected, max_examples=max_examples)
        self._control = control
        self._clip_norm = clip_norm
        self._sum = np.zeros(layout.size, np.float64)
        self._weights = 0
        self._squares = 0.0
        self._scale_known = True
        self._scalars: dict[str, float] = {}
        self._metrics: dict[str, tuple[float, int]] = {}  # weighted sum, and the weight of those who reported it
        self._participants: list[int] = []
        self._norms: dict[int, float] = {}
        self._late_rounds: dict[int, int] = {}

    @property
    def added(self) -> int:
        """Updates decoded and added so far."""
        return len(self._participants)

    def _aggregate(self) -> Aggregate:
        weighted = {name: total / self._weights for name, total in self._scalars.items()}
        # With control variates everything was added in gradient units; `unit` turns it back into the update's.
        unit = 1.0 if self._control is None else weighted["gradient_scale"]
        own = self._sum / self._weights
        mean = own if self._control is None else unit * (self._control + own)
        norm = math.sqrt(float(mean @ mean))
        # Koenig: sum w ||q - m||^2 = sum w ||q||^2 - ||m||^2; rounding may leave it a hair below 0.
        spread = unit * math.sqrt(max(self._squares / self._weights - float(own @ own), 0.0))
        return Aggregate(
            mean=mean.astype(np.float32),
            num_examples=self._weights,
            participants=tuple(self._participants),
            update_norm=norm,
            delta=unit * weighted["deviation_l2"],
            error_l2=unit * weighted["error_l2"],
            drift=spread / norm if norm > 0 else 0.0,
            loss=weighted["loss"],
            metrics={name: total / weight for name, (total, weight) in sorted(self._metrics.items())},
            norms=dict(self._norms),
            rounds=dict(self._late_rounds),
            gradient_scale=weighted["gradient_scale"] if self._scale_known else 0.0,
            control_shift=None if self._control is None else self._sum.copy(),
        )

    def _take(self, client: int, update: ClientUpdate, discount: float | None = None) -> None:
        found = self._decode(client, update, is_update=self._control is None)
        if found is None:
            return
        decoded, norm = found
        if self._control is not None and not update.gradient_scale > 0:
            self._rejected[client] = RoundError(f"client {client} does not say how many gradients its update holds")
            return
        unit = 1.0 if self._control is None else 1.0 / update.gradient_scale
        scale = 1.0 if discount is None else discount
        if self._clip_norm and norm > self._clip_norm:
            scale *= self._clip_norm / norm
        weight = update.num_examples
        self._sum += np.multiply(decoded, weight * scale * unit, dtype=np.float64)
        self._squares += weight * (norm * scale * unit) ** 2
        self._weights += weight
        self._participants.append(client)
        self._norms[client] = scale * norm
        if discount is not None:
            self._late_rounds[client] = update.round
        self._scale_known &= update.gradient_scale > 0
        # What clipping and discount take away is an error of the round too: ||s q - D|| <= ||q - D|| + (1 - s) ||q||.
        clipped = (1.0 - scale) * norm
        scalars = {
            "loss": update.loss,
            "error_l2": unit * update.error_l2,
            "deviation_l2": unit * (update.deviation_l2 + clipped),
            "gradient_scale": update.gradient_scale,
        }
        for name, value in scalars.items():
            self._scalars[name] = self._scalars.get(name, 0.0) + weight * value
        for name, value in update.metrics.items():
            total, reported = self._metrics.get(name, (0.0, 0))
            self._metrics[name] = (total + weight * value, reported + weight)
