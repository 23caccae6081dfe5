"""What a peer may ask for. Beyond these a message is refused before memory is taken for it."""

from __future__ import annotations

from amgt_fed.layout import Layout

WIRE_VERSION = 1

MAX_ROUND = 10_000_000
MAX_METRICS = 64
MAX_NAME = 64
MAX_REASON = 500
MAX_STEPS = 1_000_000


def max_message_bytes(layout: Layout) -> int:
    """Largest plan or update for a model: the dense model, doubled, and room for the rest.

    A codec may expand a hostile or incompressible update a little; none of ours doubles it.
    """
    return 8 * layout.size + 65_536
