"""The README's table: AMGT-Fed beside dense FedAvg on the demo's task, measured.

    python benchmarks/demo.py [--seeds 3] [--rounds N] [--json]

Every seed runs both methods on the same partition, the same sampled clients and the same number of rounds, in the
configuration `make demo` uses. Bytes are the payload bytes of every message, up and down.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from amgt_fed import run
from amgt_fed.runs import RoundRecord, bytes_to_reach

TARGET = 0.95


def measure(seed: int, rounds: int | None) -> dict[str, dict[str, Any]]:
    keys: dict[str, object] = {} if rounds is None else {"rounds": rounds}
    with tempfile.TemporaryDirectory() as folder:
        result = run(seed=seed, out=Path(folder) / "run", **keys)
        baseline = result.summary.baseline
        assert baseline is not None
        return {
            "AMGT-Fed": _facts(result.rounds, result.summary.seconds),
            "FedAvg, dense": _facts(result.baseline_rounds, baseline["seconds"]),
        }


def _facts(rounds: list[RoundRecord], seconds: float) -> dict[str, Any]:
    reached = bytes_to_reach(rounds, "accuracy", TARGET)
    return {
        "accuracy": rounds[-1].metrics["accuracy"],
        "rounds_to_95": None if reached is None else reached[0],
        "bytes_to_95": None if reached is None else reached[1],
        "uplink_bytes": sum(record.uplink_bytes for record in rounds),
        "downlink_bytes": sum(record.downlink_bytes for record in rounds),
        "rounds": len(rounds),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs = {seed: measure(seed, arguments.rounds) for seed in range(arguments.seeds)}
    if arguments.json:
        print(json.dumps(runs, indent=2))
        return
    print(
        f"{'seed':4}  {'method':14} {'accuracy':>8}  {'rounds to 95 %':>14}  {'bytes to 95 %':>14}  {'all bytes':>12}"
    )
    ratios = []
    for seed, methods in runs.items():
        for name, facts in methods.items():
            total = facts["uplink_bytes"] + facts["downlink_bytes"]
            rounds, spent = facts["rounds_to_95"] or "never", facts["bytes_to_95"]
            shown = "never" if spent is None else f"{spent:,}"
            print(f"{seed:4}  {name:14} {facts['accuracy']:8.1%}  {rounds:>14}  {shown:>14}  {total:>12,}")
        ours, theirs = (facts["bytes_to_95"] for facts in methods.values())
        if ours and theirs:
            ratios.append(theirs / ours)
    if ratios:
        print(f"fewer bytes to 95 %: median {statistics.median(ratios):,.0f}x, smallest {min(ratios):,.0f}x")


if __name__ == "__main__":
    main()
