"""Engine `flower`: a stock SuperLink and one stock SuperNode per client, on loopback."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

from amgt_fed.engines.job import Job
from amgt_fed.engines.processes import LOOPBACK, Children, executable, free_ports
from amgt_fed.engines.superlink import SuperLink, is_healthy, superlink, wait_until
from amgt_fed.errors import EngineError
from amgt_fed.flower.cores import available_cores

NODE_MIB = 200  # an idle SuperNode and its SuperExec, shared pages counted once (measured: see docs/flower.md)
NODE_START_S = 30.0  # per node, on top of 30 s: 2.7 s of processor time each, on a machine that may be busy


def run_flower(job: Job) -> None:
    """Run the job on Flower's deployment runtime: SuperLink, `job.num_nodes` SuperNodes, `flwr run`.

    Each node costs two idle processes, and every message starts a Python process of its own, all nodes at once:
    `job.workers` has no effect. A round takes 6 s at the least, most of it Flower's polling.

    Raises:
        EngineError: Flower is not installed, memory is short, one of the processes died or did not start in time, or
            the ServerApp raised.
    """
    check_memory(job.num_nodes, available_mib())
    command = executable("flower-supernode", "flwr")
    with superlink(job) as (link, children):
        start_nodes(job, link, children, command)
        wait_until(lambda: online_nodes(link) >= job.num_nodes, f"{job.num_nodes} SuperNodes to join", children, 60.0)
        link.run()


def start_nodes(job: Job, link: SuperLink, children: Children, command: str) -> None:
    """Start the SuperNodes, a few at a time, and return when each one answers.

    Raises:
        EngineError: a node died or did not answer in time; names it and the end of its log.
    """
    ports = free_ports(job.num_nodes)
    # Started all at once, 20 nodes would each take as long as all of them together.
    batch = 2 * available_cores()
    for first in range(0, job.num_nodes, batch):
        partitions = range(first, min(first + batch, job.num_nodes))
        for partition in partitions:
            children.start(
                f"supernode-{partition}",
                [
                    command,
                    "--insecure",
                    "--superlink",
                    link.address,
                    "--host",
                    LOOPBACK,
                    "--port",
                    str(ports[partition]),
                    "--node-config",
                    f"partition-id={partition} num-partitions={job.num_nodes}",
                ],
            )
        for partition in partitions:
            wait_until(
                partial(is_healthy, ports[partition]),
                f"SuperNode {partition} to start",
                children,
                NODE_START_S * len(partitions),
            )


def online_nodes(link: SuperLink) -> int:
    """Count the SuperNodes that the SuperLink calls online."""
    return sum(node["status"] == "online" for node in link.query("supernode", "ls")["nodes"])


def available_mib() -> float:
    """Return the memory that can be had without swapping, in MiB; infinity where the system does not say."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return math.inf
    return int(found[1]) / 1024 if found else math.inf


def check_memory(num_nodes: int, free_mib: float) -> None:
    """Refuse a fleet whose idle processes alone do not fit into `free_mib`.

    Raises:
        EngineError: says how many nodes fit.
    """
    if num_nodes * NODE_MIB > free_mib:
        raise EngineError(
            f"engine 'flower' starts two processes for each of {num_nodes} clients, about {num_nodes * NODE_MIB} MiB "
            f"before any training, and {free_mib:.0f} MiB are free; use at most {int(free_mib // NODE_MIB)} clients, "
            "or --engine local, grpc or ray"
        )
