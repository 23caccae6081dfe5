"""Accuracy on digits where a part of the clients is hostile, for every rule of `server.aggregator`.

    python benchmarks/hostile.py [--rounds N] [--seeds N] [--share 0.2] [--rules 'mean;median;...'] [--json]

A hostile client trains like the others and then sends the opposite of its update (sign-flip), a hundred times its
update (scaling), or an update of the same norm in a random direction (noise). Its messages are well formed. Every run
has `make demo`'s configuration; "named" counts the log's lines about clients that stand apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import statistics
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import amgt_fed_clients.app as client_app
import numpy as np

from amgt_fed import run
from amgt_fed.federated.client import LocalResult
from amgt_fed.layout import Float32Vector

CLIENTS = 20
RULES = (
    "mean",
    "clipped_mean",
    "median",
    "trimmed_mean:fraction=0.2",
    "krum:malicious=3",
    "multi_krum:malicious=3",
    "geometric_median",
)


def noise(update: Float32Vector) -> Float32Vector:
    drawn = np.random.default_rng(zlib.crc32(update.tobytes())).standard_normal(update.size)
    return (drawn * np.linalg.norm(update) / np.linalg.norm(drawn)).astype(np.float32)


ATTACKS: dict[str, Callable[[Float32Vector], Float32Vector]] = {
    "sign-flip": lambda update: -update,
    "scaling": lambda update: 100 * update,
    "noise": noise,
}


@contextlib.contextmanager
def hostile(clients: set[int], attack: Callable[[Float32Vector], Float32Vector]) -> Iterator[None]:
    """Within this, `clients` of in-process runs send the attack's update instead of their own."""
    current = threading.local()
    number, train = client_app.client_number, client_app.train_locally

    def remembered(*arguments: Any) -> int:
        current.client = number(*arguments)
        return int(current.client)

    def turned(task: Any, model: Any, data: Any, start: Float32Vector, *more: Any, **named: Any) -> LocalResult:
        result = train(task, model, data, start, *more, **named)
        if current.client not in clients:
            return result
        return replace(result, vector=(start - attack(start - result.vector)).astype(np.float32))

    with (
        mock.patch.object(client_app, "client_number", remembered),
        mock.patch.object(client_app, "train_locally", turned),
    ):
        yield


def measure(rule: str, attack: str, share: float, seed: int, rounds: int | None) -> dict[str, Any]:
    """One run: its accuracy, and how often hostile and honest clients were named as standing apart."""
    keys: dict[str, Any] = {} if rounds is None else {"rounds": rounds}
    bad = set(np.random.default_rng(seed).permutation(CLIENTS)[: round(share * CLIENTS)].tolist()) if attack else set()
    with tempfile.TemporaryDirectory() as folder, hostile(bad, ATTACKS.get(attack, lambda update: update)):
        out = Path(folder) / "run"
        result = run(out=str(out), seed=seed, baseline={"run": False}, server={"aggregator": rule}, **keys)
        rounds = result.rounds
    named = [client for record in rounds for client in record.outliers]
    return {
        "accuracy": rounds[-1].metrics["accuracy"],
        "named_hostile": sum(client in bad for client in named),
        "named_honest": sum(client not in bad for client in named),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.2, help="of the clients that are hostile")
    parser.add_argument("--rules", default=";".join(RULES), help="separated by semicolons")
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # thousands of lines about clients that stand apart; they are counted below
    rows = []
    for rule in arguments.rules.split(";"):
        for attack in ("", *arguments.attacks.split(",")):
            runs = [measure(rule, attack, arguments.share, seed, arguments.rounds) for seed in range(arguments.seeds)]
            rows.append(
                {
                    "rule": rule,
                    "attack": attack or "none",
                    "accuracy": statistics.fmean(found["accuracy"] for found in runs),
                    "worst": min(found["accuracy"] for found in runs),
                    "named_hostile": sum(found["named_hostile"] for found in runs),
                    "named_honest": sum(found["named_honest"] for found in runs),
                }
            )
            if not arguments.json:
                if len(rows) == 1:
                    print(f"{'rule':26} {'attack':10} {'accuracy':>8} {'worst':>7}  named: hostile, honest")
                row = rows[-1]
                print(
                    f"{row['rule']:26} {row['attack']:10} {row['accuracy']:8.1%} {row['worst']:7.1%}  "
                    f"{row['named_hostile']:7} {row['named_honest']:7}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
