"""What every way of aggregating has in common: who is expected, in which order updates count, and what is refused."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
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
_ROUNDING = 1e-3  # relative: norms are measured on float32 vectors, on two machines


class Gathering(ABC):
    """Takes updates as they arrive; what comes of them has the same bits whatever the order of arrival.

    Floating-point sums depend on their order, so an update is taken as soon as every participant before it (in
    `expected`) has been taken or given up; until then it waits as it came, compressed.

    Args:
        layout: of the model.
        expected: the clients asked.
        max_examples: a client that claims to have trained on more is refused.
    """

    def __init__(self, layout: Layout, expected: Iterable[int], *, max_examples: int = MAX_EXAMPLES) -> None:
        self._layout = layout
        self._order = sorted(set(expected))
        self._place = {client: place for place, client in enumerate(self._order)}
        self._max_examples = max_examples
        self._next = 0
        self._waiting: dict[int, ClientUpdate | None] = {}
        self._late: dict[int, tuple[ClientUpdate, float]] = {}
        self._rejected: dict[int, Exception] = {}

    @property
    def rejected(self) -> dict[int, Exception]:
        """Clients whose payload could not be used so far, with the reason."""
        return dict(self._rejected)

    @property
    def fewest(self) -> int:
        """Updates without which there is no result."""
        return 1

    @property
    @abstractmethod
    def added(self) -> int:
        """Updates decoded and taken so far."""

    def add(self, client: int, update: ClientUpdate) -> None:
        """Take one client's update.

        Raises:
            RoundError: the client is not expected, answered already, or its numbers are impossible.
        """
        self._check_open(client)
        check_numbers(client, update, self._max_examples)
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
        check_numbers(client, update, self._max_examples)
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
        """What comes of everyone who answered; those who have not are given up.

        Raises:
            RoundError: no usable update came, or too few for the rule.
        """
        for client in self._order[self._next :]:
            self._waiting.setdefault(client, None)
        self._drain()
        late = sorted(self._late.items(), key=lambda item: (item[1][0].round, item[0]))
        self._late = {}
        for client, (update, discount) in late:
            self._take(client, update, discount)
        if not self.added:
            reasons = "; ".join(f"client {client}: {error}" for client, error in list(self._rejected.items())[:3])
            raise RoundError(f"no usable update in this round{': ' + reasons if reasons else ''}")
        return self._aggregate()

    @abstractmethod
    def _take(self, client: int, update: ClientUpdate, discount: float | None = None) -> None:
        """Use an update, or note in `_rejected` why it cannot be."""

    @abstractmethod
    def _aggregate(self) -> Aggregate:
        """The result, of at least one update."""

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

    def _decode(
        self, client: int, update: ClientUpdate, *, is_update: bool = True
    ) -> tuple[NDArray[np.floating[Any]], float] | None:
        """`checked_update`, or None with the reason in `_rejected`."""
        try:
            return checked_update(client, update, self._layout, is_update=is_update)
        except (ValueError, RoundError) as error:  # CodecError is a ValueError
            self._rejected[client] = error
            return None


def check_numbers(client: int, update: ClientUpdate, max_examples: int = MAX_EXAMPLES) -> None:
    """Refuse what a client says of its update where it cannot be.

    Raises:
        RoundError: names the client, the number and what is possible.
    """
    if not 1 <= update.num_examples <= max_examples:
        raise RoundError(f"client {client} claims {update.num_examples} examples; 1 to {max_examples} are possible")
    for name in ("error_l2", "update_l2", "deviation_l2"):
        value = getattr(update, name)
        if not 0 <= value <= MAX_NUMBER:  # NaN fails every comparison
            raise RoundError(f"client {client} reports {name} = {value!r}; 0 to {MAX_NUMBER:g} are possible")
    for name, value in (("loss", update.loss), *update.metrics.items()):
        if not abs(value) <= MAX_NUMBER:
            raise RoundError(f"client {client} reports {name} = {value!r}; at most +-{MAX_NUMBER:g} is possible")


def checked_update(
    client: int, update: ClientUpdate, layout: Layout, *, is_update: bool = True
) -> tuple[NDArray[np.floating[Any]], float]:
    """What an update decodes to, shape (layout.size,), and the l2 norm of that.

    Args:
        client: for the errors.
        update: as it came.
        layout: of the model.
        is_update: the payload is q of `ClientUpdate`, so the claimed norms must fit it.

    Raises:
        CodecError: a payload is damaged or of another model.
        RoundError: the claimed error cannot be that of what came.
    """
    decoded = decoded_update(update, layout)
    norm = math.sqrt(float(np.dot(decoded.astype(np.float64), decoded))) if layout.size else 0.0
    # ||q - D|| lies between the difference and the sum of ||q|| and ||D||, whatever the codec did.
    least, most = abs(norm - update.update_l2), norm + update.update_l2
    slack = _ROUNDING * most
    if is_update and not least - slack <= update.deviation_l2 <= most + slack:
        raise RoundError(
            f"client {client} claims an error of {update.deviation_l2:g} for an update of norm {update.update_l2:g} "
            f"that arrived with norm {norm:g}; {least:g} to {most:g} are possible"
        )
    return decoded, norm


def decoded_update(update: ClientUpdate, layout: Layout) -> NDArray[np.floating[Any]]:
    """What an update's payloads decode to, shape (layout.size,).

    Raises:
        CodecError: a payload is damaged or of another model.
    """
    decoded: NDArray[np.floating[Any]] = decode(update.payload, layout)
    if update.fine:
        decoded = decoded.astype(np.float64) + decode(update.fine, layout)
    return decoded
