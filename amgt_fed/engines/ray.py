"""Engine `ray`: Flower's simulation runtime, which runs the clients in Ray actors."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from amgt_fed.engines.job import Job
from amgt_fed.engines.superlink import superlink
from amgt_fed.errors import EngineError
from amgt_fed.flower.cores import available_cores


def run_ray(job: Job) -> None:
    """Run the job in Flower's simulation runtime: `job.workers` Ray actors, one core and one thread each.

    A private Ray is started for the run and stopped after it; an existing cluster (RAY_ADDRESS) is not used. When the
    run fails, Ray's own logs are kept in `run_dir/logs/ray`.

    Raises:
        EngineError: Ray or Flower is not installed, one of their processes died, or the ServerApp raised.
    """
    if importlib.util.find_spec("ray") is None:
        raise EngineError("engine 'ray' needs Ray, which is not installed; run: pip install 'amgt-fed[ray]'")
    workers = job.workers or available_cores()
    # Ray's sockets live under this directory, and their names may not pass 107 characters: a run directory is too deep.
    short = Path(tempfile.mkdtemp(prefix="amgt-ray-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
    environment = {
        "RAY_TMPDIR": str(short),
        "RAY_ADDRESS": "",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    federation = (
        f"num-supernodes={job.num_nodes} client-resources-num-cpus=1 client-resources-num-gpus=0.0 "
        f'init-args-num-cpus={workers} init-args-log-to-driver=false init-args-logging-level="error"'
    )
    try:
        with superlink(job, "--simulation", environment=environment, scratch=[short]) as (link, _):
            link.run("--federation-config", federation)
    except BaseException:
        keep_logs(short, job.run_dir / "logs" / "ray")
        raise
    finally:
        shutil.rmtree(short, ignore_errors=True)


def keep_logs(ray_directory: Path, target: Path) -> None:
    """Copy the logs of Ray's sessions to `target`, replacing those of an earlier run."""
    for logs in ray_directory.glob("ray/session_2*/logs"):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(logs, target, ignore_dangling_symlinks=True)
