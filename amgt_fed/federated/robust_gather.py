"""Gathers a round's updates for a rule that needs all of them, keeping them compressed until then."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from amgt_fed.federated.gather import MAX_EXAMPLES, Gathering, decoded_update
from amgt_fed.federated.messages import Aggregate, ClientUpdate
from amgt_fed.federated.robust import Matrix, Rule
from amgt_fed.layout import Layout

_ROOM_BYTES = 1 << 27  # for decoded blocks, where two models are less
_FAR = 3.0  # times the median distance from the aggregate
_AGAINST = -0.3  # cosine of the angle to the aggregate


@dataclass(frozen=True, slots=True)
class _Kept:
    """An update that can be used, still compressed; `scale` is what clipping and discount left of it."""

    client: int
    update: ClientUpdate
    norm: float
    scale: float
    is_late: bool


class _Blocks:
    """`robust.Updates` over compressed updates: as many coordinates at once as the room allows."""

    def __init__(self, kept: list[_Kept], layout: Layout, room_bytes: int) -> None:
        self._kept = kept
        self._layout = layout
        self.count = len(kept)
        self.size = layout.size
        self._length = max(1, max(room_bytes, 16 * layout.size) // (8 * max(1, self.count)))
        self._whole: Matrix | None = None

    def blocks(self) -> Iterator[tuple[slice, Matrix]]:
        """See `robust.Updates`."""
        if self._length >= self.size:
            if self._whole is None:
                self._whole = self._columns(slice(0, self.size))
            yield slice(0, self.size), self._whole
            return
        for start in range(0, self.size, self._length):
            where = slice(start, min(start + self._length, self.size))
            yield where, self._columns(where)

    def _columns(self, where: slice) -> Matrix:
        found = np.empty((self.count, where.stop - where.start))
        for row, kept in zip(found, self._kept, strict=True):
            np.multiply(decoded_update(kept.update, self._layout)[where], kept.scale, out=row, dtype=np.float64)
        return found


class RobustGathering(Gathering):
    """Applies a robust rule to a round's updates.

    Every payload is decoded once as it comes, so that a damaged one is refused at once, and again for the rule, a block
    of coordinates at a time: the memory is that of two models or 128 MiB, whichever is more, for any number of clients.

    Losses and metrics are medians: a mean of them would be what one client says it is.

    Args:
        layout: of the model.
        expected: the clients asked.
        rule: how to aggregate.
        clip_norm: largest l2 norm of one update, before the rule; 0: not clipped.
        max_examples: a client that claims to have trained on more is refused.
        room_bytes: for decoded blocks.
    """

    def __init__(
        self,
        layout: Layout,
        expected: Iterable[int],
        rule: Rule,
        *,
        clip_norm: float = 0.0,
        max_examples: int = MAX_EXAMPLES,
        room_bytes: int = _ROOM_BYTES,
    ) -> None:
        super().__init__(layout, expected, max_examples=max_examples)
        self._rule = rule
        self._clip_norm = clip_norm
        self._room_bytes = room_bytes
        self._kept: list[_Kept] = []

    @property
    def fewest(self) -> int:
        """Updates without which there is no result."""
        return self._rule.fewest

    @property
    def added(self) -> int:
        """Updates that can be used so far."""
        return len(self._kept)

    def _take(self, client: int, update: ClientUpdate, discount: float | None = None) -> None:
        found = self._decode(client, update)
        if found is None:
            return
        _, norm = found
        scale = 1.0 if discount is None else discount
        if self._clip_norm and norm > self._clip_norm:
            scale *= self._clip_norm / norm
        self._kept.append(_Kept(client, update, norm, scale, discount is not None))

    def _aggregate(self) -> Aggregate:
        updates = _Blocks(self._kept, self._layout, self._room_bytes)
        combined = self._rule.combine(updates)
        mean = combined.vector.astype(np.float32)
        norm = math.sqrt(float(combined.vector @ combined.vector))
        along = np.zeros(len(self._kept))
        for where, block in updates.blocks():
            along += block @ combined.vector[where]
        norms = np.array([kept.scale * kept.norm for kept in self._kept])
        squares = np.maximum(norms**2 - 2 * along + norm**2, 0.0)
        errors = np.array([kept.update.deviation_l2 + (1.0 - kept.scale) * kept.norm for kept in self._kept])
        # By coordinate: the result moves there by no more than the largest move of any update there, so as a whole by
        # no more than the root of the sum of all squares.
        delta = math.sqrt(float(errors @ errors)) if combined.weights is None else float(combined.weights @ errors)
        told = sorted({name for kept in self._kept for name in kept.update.metrics})
        return Aggregate(
            mean=mean,
            num_examples=sum(kept.update.num_examples for kept in self._kept),
            participants=tuple(kept.client for kept in self._kept),
            update_norm=norm,
            delta=delta,
            error_l2=float(np.median([kept.update.error_l2 for kept in self._kept])),
            drift=math.sqrt(float(squares.mean())) / norm if norm > 0 else 0.0,
            loss=float(np.median([kept.update.loss for kept in self._kept])),
            metrics={
                name: float(
                    np.median([kept.update.metrics[name] for kept in self._kept if name in kept.update.metrics])
                )
                for name in told
            },
            norms={kept.client: float(size) for kept, size in zip(self._kept, norms, strict=True)},
            rounds={kept.client: kept.update.round for kept in self._kept if kept.is_late},
            gradient_scale=0.0,
            outliers=self._outliers(np.sqrt(squares), along, norms * norm),
        )

    def _outliers(self, apart: Matrix, along: Matrix, products: Matrix) -> Mapping[int, str]:
        if len(apart) < 3:  # two updates lie as far from their middle as each other
            return {}
        usual = float(np.median(apart))
        found = {}
        for kept, distance, dot, product in zip(self._kept, apart, along, products, strict=True):
            if usual > 0 and distance > _FAR * usual:
                found[kept.client] = f"its update lies {distance / usual:.3g} times as far from the rest as others do"
            elif product > 0 and dot < _AGAINST * product:
                found[kept.client] = f"its update points away from the rest (cosine {dot / product:.2f})"
        return found
