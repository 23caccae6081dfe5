"""The local engine: ServerApp and ClientApps in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from amgt_fed.engines.job import Job
from amgt_fed.flower import compat
from amgt_fed.flower.apps import load_client_app, load_server_app
from amgt_fed.flower.local_grid import LocalGrid

RUN_ID = 1


def run_local(job: Job) -> None:
    """Run the ServerApp here, over a `LocalGrid` of `job.num_nodes` nodes, until it returns.

    What the ServerApp raises comes through as it is. `job.environment` is for child processes, so it is not used.
    Everything computes with one torch thread per worker, the ServerApp too; the former number is put back at the end.

    Raises:
        ConfigError: an app cannot be loaded, or `num_nodes` or `workers` is out of range.
    """
    with _one_thread_per_call():
        server_app = load_server_app(job.server_app)
        client_app = load_client_app(job.client_app)
        with LocalGrid(client_app, job.num_nodes, job.run_config, run_id=RUN_ID, workers=job.workers) as grid:
            server_app(grid, compat.new_context(RUN_ID, compat.SERVER_NODE_ID, {}, job.run_config))


@contextmanager
def _one_thread_per_call() -> Iterator[None]:
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    variable = os.environ.get("OMP_NUM_THREADS")
    # Read by torch if an app is the first to import it, which may be as late as inside a call.
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        if torch is not None:
            torch.set_num_threads(1)
        # numpy's linear algebra has threads of its own, and sums split over them round differently.
        with threadpool_limits(limits=1):
            yield
    finally:
        if variable is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = variable
        if torch is not None and before is not None:
            torch.set_num_threads(before)
