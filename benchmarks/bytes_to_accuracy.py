"""Bytes and rounds to tuned FedAvg's final score: AMGT-Fed beside dense FedAvg and STC, every rate tuned.

    python benchmarks/bytes_to_accuracy.py [--tasks digits] [--seeds 0,1,2] [--rounds N] [--quick] [--json] --out DIR

Asked again with the same --out, it goes on where it was. Targets: a. 1000 times fewer bytes than FedAvg in at most 1.5
times its rounds; b. at most half of STC's bytes; c. 100 times fewer bytes in no more rounds than FedAvg.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amgt_fed.compare import Plan, compare, pick_methods
from amgt_fed.compare.results import BASELINE, MethodResult, TaskResult


def mean_bytes(method: MethodResult) -> float | None:
    found = method.reached(BASELINE)
    return statistics.fmean(one.bytes for one in found) if found and len(found) == len(method.runs) else None


def verdicts(task: TaskResult) -> list[dict[str, Any]]:
    """One entry for each AMGT-Fed method; None where a seed did not reach FedAvg's score."""
    stc = [count for one in task.methods if one.method.startswith("stc") and (count := mean_bytes(one)) is not None]
    entries = []
    for method in task.methods:
        if not method.method.startswith("amgt"):
            continue
        fewer, rounds = method.ratios[BASELINE], method.round_ratios[BASELINE]
        ours = mean_bytes(method)
        share = ours / min(stc) if ours is not None and stc else None
        met = {
            "a": fewer is not None and rounds is not None and fewer >= 1000 and rounds <= 1.5,
            "b": share is not None and share <= 0.5,
            "c": fewer is not None and rounds is not None and fewer >= 100 and rounds <= 1,
        }
        facts = {"task": task.task, "method": method.method, "fewer_bytes": fewer, "rounds_ratio": rounds}
        entries.append({**facts, "share_of_stc": share, "met": met})
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default="digits")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default="fedavg,stc,stc-small,amgt,amgt-small")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--quick", action="store_true", help="one seed, three methods, 30 rounds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    quick = arguments.quick
    plan = Plan(
        methods=pick_methods(["fedavg", "stc", "amgt"] if quick else arguments.methods.split(",")),
        tasks=tuple(arguments.tasks.split(",")),
        seeds=(0,) if quick else tuple(int(seed) for seed in arguments.seeds.split(",")),
        rounds=min(30, arguments.rounds) if quick else arguments.rounds,
        tune_rounds=8 if quick else 0,
        data_dir=arguments.data_dir,
    )
    results = compare(plan, arguments.out, jobs=arguments.jobs, resume=True)
    entries = [entry for task in results.tasks for entry in verdicts(task)]
    if arguments.json:
        print(json.dumps({"targets": entries, "results": asdict(results)}, indent=2))
        return
    print("| task | method | fewer bytes than FedAvg | rounds over FedAvg's | share of STC's bytes | a | b | c |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for entry in entries:
        numbers = (entry["fewer_bytes"], entry["rounds_ratio"], entry["share_of_stc"])
        shown = ["not reached" if number is None else f"{number:.3g}" for number in numbers]
        met = ["met" if entry["met"][name] else "missed" for name in "abc"]
        print(f"| {' | '.join([entry['task'], entry['method'], *shown, *met])} |")


if __name__ == "__main__":
    main()
