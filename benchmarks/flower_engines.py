"""What Flower's two runtimes cost under AMGT-Fed: memory and start of SuperNodes, and seconds a round, by engine.

    python benchmarks/flower_engines.py [--nodes 4] [--rounds 3] [--json]

The round is the real one on `digits`, three local steps a client, every client in every round.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from pathlib import Path

from amgt_fed.api import run
from amgt_fed.engines import flower
from amgt_fed.engines.job import Job
from amgt_fed.engines.processes import executable
from amgt_fed.engines.superlink import superlink, wait_until

SETTLE_S = 3.0


def idle_mib() -> float:
    """Memory of all SuperNodes and their SuperExecs on this machine, in MiB; shared pages counted once (Pss)."""
    total = 0.0
    nodes = [process for process in Path("/proc").iterdir() if process.name.isdigit() and is_of_a_node(process)]
    for process in nodes:
        found = re.search(r"^Pss:\s+(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE)
        total += int(found[1]) / 1024 if found else 0.0
    return total


def is_of_a_node(process: Path) -> bool:
    """Whether a process is a SuperNode or the SuperExec it has started."""
    try:
        if b"flower-supernode" in (process / "cmdline").read_bytes():
            return True
        parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
        return b"flower-supernode" in Path("/proc", parent, "cmdline").read_bytes()
    except OSError:
        return False


def measure_nodes(count: int) -> dict[str, float]:
    """Start a SuperLink and `count` idle SuperNodes."""
    with tempfile.TemporaryDirectory() as directory:
        job = Job({}, count, Path(directory))
        began = time.monotonic()
        with superlink(job) as (link, children):
            link_s = time.monotonic() - began
            flower.start_nodes(job, link, children, executable("flower-supernode", "flwr"))
            wait_until(lambda: flower.online_nodes(link) >= count, "the nodes to join", children, 120.0)
            nodes_s = time.monotonic() - began - link_s
            time.sleep(SETTLE_S)  # the SuperExecs are still importing
            return {"superlink_s": link_s, "nodes_s": nodes_s, "mib_per_node": idle_mib() / count}


def measure_rounds(engine: str, clients: int, rounds: int) -> dict[str, float | str]:
    """Run the real apps and read what their own record says."""
    with tempfile.TemporaryDirectory() as directory:
        began = time.monotonic()
        result = run(
            engine=engine,
            out=str(Path(directory, "run")),
            rounds=rounds,
            partition={"num_clients": clients},
            federation={"clients_per_round": clients},
            client={"steps": 3},
            baseline={"run": False},
        )
        return {
            "run_s": time.monotonic() - began,
            "first_round_s": result.rounds[0].seconds,
            "later_round_s": statistics.median(record.seconds for record in result.rounds[1:]),
            "model_sha256": result.summary.model_sha256,
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    nodes = measure_nodes(options.nodes)
    engines = {name: measure_rounds(name, options.nodes, options.rounds) for name in ("local", "grpc", "ray", "flower")}
    if options.json:
        print(json.dumps({"nodes": nodes, "engines": engines}))
        return
    print(f"SuperLink started in {nodes['superlink_s']:.1f} s, {options.nodes} SuperNodes in {nodes['nodes_s']:.1f} s;")
    print(f"an idle SuperNode with its SuperExec holds {nodes['mib_per_node']:.0f} MiB")
    print(f"\n{'engine':8}{'run':>8}{'round 1':>10}{'later':>8}   model")
    for name, row in engines.items():
        times = f"{row['run_s']:>6.1f} s{row['first_round_s']:>8.1f} s{row['later_round_s']:>6.2f} s"
        print(f"{name:8}{times}   {str(row['model_sha256'])[:12]}")


if __name__ == "__main__":
    main()
