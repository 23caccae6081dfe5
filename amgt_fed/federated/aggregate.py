"""Streaming weighted mean of the clients' updates, in the memory of the model and not of the clients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec import decode
from amgt_fed.errors import RoundError
from amgt_fed.federated.messages import Aggregate, ClientUpdate
from amgt_fed.layout import Layout

MAX_EXAMPLES = 2**40  # a client that claims more is lying or broken; products below stay exact in float64
MAX_NUMBER = 1e100  # of a loss, norm or metric: sums over a million clients with MAX_EXAMPLES each stay finite


class Accumulator:
    """Adds updates as they arrive; the mean has the same bits whatever the order of arrival.

    Floating-point sums depend on their order, so an update is decoded and added as soon as every participant before
    it (in `expected`) has been added or given up; until then it waits as it came, compressed. One decoded update at
    a time exists.

    Args:
        layout: of the model.
        expected: the clients asked.
        clip_norm: largest l2 norm of one update; 0: not clipped.
        control: with control variates, sum_i n_i c_i / n before the round; the mean is then scaffold.py's m.
    """

    def __init__(
        self,
        layout: Layout,
        expected: Iterable[int],
        *,
        clip_norm: float = 0.0,
        control: NDArray[np.float64] | None = None,
    ) -> None:
        self._layout = layout
        self._control = control
        self._order = sorted(set(expected))
        self._place = {client: place for place, client in enumerate(self._order)}
        self._clip_norm = clip_norm
        self._next = 0
        self._waiting: dict[int, ClientUpdate | None] = {}
        self._sum = np.zeros(layout.size, np.float64)
        self._weights = 0
        self._squares = 0.0
        self._scale_known = True
        self._scalars: dict[str, float] = {}
        self._metrics: dict[str, tuple[float, int]] = {}  # weighted sum, and the weight of those who reported it
        self._participants: list[int] = []
        self._norms: dict[int, float] = {}
        self._late: dict[int, tuple[ClientUpdate, float]] = {}
        self._late_rounds: dict[int, int] = {}
        self._rejected: dict[int, Exception] = {}

    @property
    def rejected(self) -> dict[int, Exception]:
        """Clients whose payload could not be used so far, with the reason."""
        return dict(self._rejected)

    @property
    def added(self) -> int:
        """Updates decoded and added so far."""
        return len(self._participants)

    def add(self, client: int, update: ClientUpdate) -> None:
        """Take one client's update.

        Raises:
            RoundError: the client is not expected, answered already, or its numbers are impossible.
        """
        self._check_open(client)
        _check_numbers(client, update)
        self._waiting[client] = update
        self._drain()

    def add_late(self, client: int, update: ClientUpdate, discount: float) -> None:
        """Take an update that was made from an earlier model; it counts `discount` times.

        The discount makes the update smaller and leaves its weight in the mean, so that a round of late updates alone
        moves less far (Nguyen et al. 2022, arXiv 2106.06639, Algorithm 1). Late updates are added after the others, in
        the order of their rounds and clients.

        Raises:
            RoundError: the client is expected in this round or came late already, or its numbers are impossible.
        """
        if client in self._place or client in self._late:
            raise RoundError(f"client {client} gives a late update beside another of the same round")
        _check_numbers(client, update)
        self._late[client] = (update, discount)

    def give_up(self, client: int) -> None:
        """Note that `client` will not answer, so that those behind it need not wait.

        Raises:
            RoundError: the client is not expected or answered already.
        """
        self._check_open(client)
        self._waiting[client] = None
        self._drain()

    def aggregate(self) -> Aggregate:
        """The mean over everyone who answered; those who have not are given up.

        Raises:
            RoundError: no usable update came.
        """
        for client in self._order[self._next :]:
            self._waiting.setdefault(client, None)
        self._drain()
        late = sorted(self._late.items(), key=lambda item: (item[1][0].round, item[0]))
        self._late = {}
        for client, (update, discount) in late:
            self._take(client, update, discount)
        if not self._participants:
            reasons = "; ".join(f"client {client}: {error}" for client, error in list(self._rejected.items())[:3])
            raise RoundError(f"no usable update in this round{': ' + reasons if reasons else ''}")
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

    def _check_open(self, client: int) -> None:
        place = self._place.get(client)
        if place is None:
            raise RoundError(f"client {client} was not asked to take part in this round")
        if client in self._waiting or place < self._next:
            raise RoundError(f"client {client} has answered this round already")

    def _drain(self) -> None:
        while self._next < len(self._order) and self._order[self._next] in self._waiting:
            client = self._order[self._next]
            self._next += 1
            update = self._waiting.pop(client)
            if update is not None:
                self._take(client, update)

    def _take(self, client: int, update: ClientUpdate, discount: float | None = None) -> None:
        try:
            decoded: NDArray[np.floating[Any]] = decode(update.payload, self._layout)
            if update.fine:
                decoded = decoded.astype(np.float64) + decode(update.fine, self._layout)
        except ValueError as error:  # CodecError: the payload is damaged or of another model
            self._rejected[client] = error
            return
        if self._control is not None and not update.gradient_scale > 0:
            self._rejected[client] = RoundError(f"client {client} does not say how many gradients its update holds")
            return
        unit = 1.0 if self._control is None else 1.0 / update.gradient_scale
        square = float(np.dot(decoded.astype(np.float64), decoded)) if self._layout.size else 0.0
        scale = 1.0 if discount is None else discount
        if self._clip_norm and square > self._clip_norm**2:
            scale *= self._clip_norm / math.sqrt(square)
        weight = update.num_examples
        self._sum += np.multiply(decoded, weight * scale * unit, dtype=np.float64)
        self._squares += weight * square * (scale * unit) ** 2
        self._weights += weight
        self._participants.append(client)
        self._norms[client] = scale * math.sqrt(square)
        if discount is not None:
            self._late_rounds[client] = update.round
        self._scale_known &= update.gradient_scale > 0
        # What clipping and discount take away is an error of the round too: ||s q - D|| <= ||q - D|| + (1 - s) ||q||.
        clipped = (1.0 - scale) * math.sqrt(square)
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


def _check_numbers(client: int, update: ClientUpdate) -> None:
    if not 1 <= update.num_examples <= MAX_EXAMPLES:
        raise RoundError(f"client {client} claims {update.num_examples} examples; 1 to {MAX_EXAMPLES} are possible")
    for name in ("error_l2", "update_l2", "deviation_l2"):
        value = getattr(update, name)
        if not 0 <= value <= MAX_NUMBER:  # NaN fails every comparison
            raise RoundError(f"client {client} reports {name} = {value!r}; 0 to {MAX_NUMBER:g} are possible")
    for name, value in (("loss", update.loss), *update.metrics.items()):
        if not abs(value) <= MAX_NUMBER:
            raise RoundError(f"client {client} reports {name} = {value!r}; at most +-{MAX_NUMBER:g} is possible")
