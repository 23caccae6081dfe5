"""Flower's quickstart shape of app as it is, and with CompressedStrategy and compression_mod: accuracy and bytes.

    python benchmarks/flower_mod.py [--seeds 3] [--rounds N] [--clients N] [--json]

Runs the app of examples/flower_quickstart, its own two apps, with and without `compress`, in one process.
Bytes are those of every record of every message, as Flower's count_bytes counts them; accuracy is on the 359 test
images after the last round.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import re
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Message

from amgt_fed.flower import compat
from amgt_fed.flower.compression_traffic import content_bytes
from amgt_fed.flower.local_grid import LocalGrid

APP = Path(__file__).parents[1] / "examples" / "flower_quickstart"


class CountingGrid(LocalGrid):
    """Counts what goes each way."""

    uplink_bytes = 0
    downlink_bytes = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        out = list(messages)
        self.downlink_bytes += sum(content_bytes(message.content) for message in out)
        replies = list(super().send_and_receive(out, timeout=timeout))
        self.uplink_bytes += sum(content_bytes(reply.content) for reply in replies if reply.has_content())
        failed = [reply.error.reason for reply in replies if reply.has_error()]
        if failed:
            raise SystemExit(f"a client failed: {failed[0]}")
        return replies


def measure(compress: bool, seed: int, rounds: int | None, clients: int) -> dict[str, Any]:
    """Run the app once."""
    if str(APP) not in sys.path:
        sys.path.insert(0, str(APP))
    from digits_app import client_app, server_app

    config = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    config |= {"compress": compress, "seed": seed}
    if rounds is not None:
        config["num-server-rounds"] = rounds
    logging.getLogger("flwr").setLevel(logging.ERROR)
    printed = io.StringIO()
    started = time.perf_counter()
    with CountingGrid(client_app.app, clients, config, workers=1) as grid, contextlib.redirect_stdout(printed):
        server_app.app(grid, compat.new_context(1, compat.SERVER_NODE_ID, {}, config))
    accuracy = re.search(r"accuracy ([\d.]+) %", printed.getvalue())
    assert accuracy is not None, printed.getvalue()
    return {
        "accuracy": float(accuracy.group(1)) / 100,
        "uplink_bytes": grid.uplink_bytes,
        "downlink_bytes": grid.downlink_bytes,
        "rounds": config["num-server-rounds"],
        "clients": clients,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, help="instead of the app's own number")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = {
        seed: {
            name: measure(compress, seed, arguments.rounds, arguments.clients)
            for name, compress in (("plain", False), ("compressed", True))
        }
        for seed in range(arguments.seeds)
    }
    for variants in rows.values():
        ours, theirs = (sum(variants[n][f"{w}link_bytes"] for w in ("up", "down")) for n in ("compressed", "plain"))
        variants["compressed"]["times_fewer_bytes"] = theirs / ours
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"{'seed':4}  {'app':10}  {'accuracy':>8}  {'bytes up':>11}  {'bytes down':>11}  {'fewer':>6}  {'seconds':>7}"
    )
    for seed, variants in rows.items():
        for name, facts in variants.items():
            fewer = f"{facts['times_fewer_bytes']:5.0f}x" if "times_fewer_bytes" in facts else ""
            print(
                f"{seed:4}  {name:10}  {facts['accuracy']:8.2%}  {facts['uplink_bytes']:>11,}  "
                f"{facts['downlink_bytes']:>11,}  {fewer:>6}  {facts['seconds']:7.1f}"
            )


if __name__ == "__main__":
    main()
