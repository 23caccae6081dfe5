"""Each task without a federation: the same model and optimizer, all training data in one place.

python benchmarks/centralised.py --data-dir DIR [--task NAME ...] [--set KEY=VALUE ...] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from amgt_fed.config import merge, parse_override
from amgt_fed.errors import AMGTFedError
from amgt_fed.setup import build, resolve
from amgt_fed.tasks import BUILT_IN, evaluate, train_locally

# Passes over all data; a score no longer improves much after them.
EPOCHS = {
    "beijing-air": 5,
    "digits": 20,
    "digits-logreg": 60,
    "fashion-mnist": 3,
    "har": 10,
    "heart-disease": 100,
    "mnist": 3,
    "paper-quadratic": 60,
    "shakespeare": 1,
}


def score(task: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Train on everything, with the step size falling by (10) each epoch; score once, after the last epoch."""
    started = time.perf_counter()
    epochs = EPOCHS.get(task, 10)
    setup = build(merge(resolve({"task": task, **keys}), {"client.epochs": 1}))
    flat = setup.fresh_model()
    data, test = setup.task.train_set, setup.task.test_data()
    if test is None:
        raise SystemExit(f"task {task} has no test data")
    vector = flat.read()
    for epoch in range(1, epochs + 1):
        vector = train_locally(setup.task, flat, data, vector, setup.local_settings(epoch), epoch).vector
    flat.load_(vector)
    loss, metrics, _ = evaluate(setup.task, flat, test)
    return {
        "task": task,
        "parameters": flat.layout.size,
        "train": len(data),  # type: ignore[arg-type]
        "epochs": epochs,
        "loss": loss,
        "metric": type(setup.task).primary_metric,
        "value": metrics[type(setup.task).primary_metric],
        "metrics": metrics,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--task", action="append", help="again for another; all of them without")
    parser.add_argument("--data-dir", type=Path, help="directory of the larger data sets; or set AMGT_DATA")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. options.model=lstm")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keys: dict[str, Any] = dict(parse_override(text) for text in arguments.set)
    if arguments.data_dir is not None:
        keys["data_dir"] = str(arguments.data_dir)
    for task in arguments.task or sorted(BUILT_IN):
        row = score(task, keys)
        if arguments.json:
            print(json.dumps(row), flush=True)
            continue
        scores = ", ".join(f"{name} {value:.4g}" for name, value in row["metrics"].items())
        print(f"{task:16} {row['parameters']:>8,} parameters, {row['epochs']:>3} epochs: {scores}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except AMGTFedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
