"""How long a run would take over slower links than this machine's memory.

The model: in each round every participant takes in its share of the round's bytes, trains, and sends its share, all
participants at the same time and each over a link of its own:

    seconds = latency + down / rate + compute + latency + up / rate

`down` and `up` are the round's bytes over its participants. `compute` is the run's median measured round over its
participants: the runs of a comparison train one client after the other, in one thread.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import accumulate

from amgt_fed.runs import RoundRecord

LINKS = {"50 kbit/s": 50e3, "1 Mbit/s": 1e6, "10 Mbit/s": 10e6, "100 Mbit/s": 100e6}
"""Bits per second, the same both ways."""
LATENCY_S = 0.05


def seconds_on(rounds: Sequence[RoundRecord], bits_per_second: float) -> list[float]:
    """The time at the end of each round, in seconds from the start of the first."""
    if not rounds:
        return []
    compute = statistics.median(record.seconds / max(record.num_clients, 1) for record in rounds)
    return list(
        accumulate(
            2 * LATENCY_S
            + compute
            + 8 * (record.uplink_bytes + record.downlink_bytes) / max(record.num_clients, 1) / bits_per_second
            for record in rounds
        )
    )
