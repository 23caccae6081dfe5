"""The directory that `flwr run` is pointed at: a pyproject.toml that names the two apps and carries the run's settings.

The apps themselves are not copied. SuperLink, SuperNodes and Ray's actors are children of this process and import
what it can import, so every engine runs the very same modules; a bundle that carries the code to other machines is
what `flwr run .` in the checkout makes.
"""

from __future__ import annotations

from pathlib import Path

import tomli_w

from amgt_fed.engines.job import Job
from amgt_fed.errors import ConfigError, EngineError

PUBLISHER = "amgt-fed"
CONNECTION = "engine"
INT64 = range(-(2**63), 2**63)  # what Flower's protobuf of a run configuration can hold


def stage_app(directory: Path, job: Job) -> None:
    """Write `directory/pyproject.toml` for a job; `directory` is created.

    Raises:
        EngineError: a value of the run configuration is of a type or size that Flower cannot carry.
        ConfigError: the job has no nodes, or a negative number of workers.
    """
    if job.num_nodes < 1 or job.workers < 0:
        raise ConfigError(
            f"{job.num_nodes} nodes on {job.workers} workers; give at least 1 node, and 0 or more workers"
        )
    for key, value in job.run_config.items():
        if not isinstance(value, bool | int | float | str) or (isinstance(value, int) and value not in INT64):
            raise EngineError(
                f"run configuration {key} = {value!r} cannot be carried by Flower; "
                "it takes true/false, 64-bit integers, floats and strings"
            )
    project = {
        "project": {
            "name": "amgt-fed-run",
            "version": "0.0.0",
            "description": "One run of AMGT-Fed",
            "license": "Apache-2.0",
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": PUBLISHER,
                    "components": {"serverapp": job.server_app, "clientapp": job.client_app},
                    # The keys keep their dots: Flower joins nested tables with dots, and leaves these as they are.
                    "config": dict(job.run_config),
                }
            }
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pyproject.toml").write_text(tomli_w.dumps(project))


def stage_home(directory: Path, address: str) -> None:
    """Write a private FLWR_HOME whose one connection, `CONNECTION`, is the SuperLink at `address` on loopback."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = {"superlink": {"default": CONNECTION, CONNECTION: {"address": address, "insecure": True}}}
    (directory / "config.toml").write_text(tomli_w.dumps(settings))
