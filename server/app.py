"""The ServerApp: reads the context, calls the federation."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from amgt_fed.config import from_flat, merge

from .federation import run_federation

log = logging.getLogger("amgt_fed.server")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the context's run configuration describes."""
    config = from_flat(context.run_config)
    if not config.out:  # `flwr run`: the working directory is Flower's, so the run goes to the user's data home
        home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        config = merge(config, {"out": str(Path(home) / "amgt-fed" / "runs" / f"{config.task}-{context.run_id}")})
        _log_to_stdout()
        log.info("this run is kept in %s", config.out)
    summary = run_federation(grid, config)
    log.info("%d rounds, %s: %s", summary.rounds, summary.status, dict(summary.metrics))


def _log_to_stdout() -> None:
    """Show the course of the run in `flwr run --stream`, which carries what an app prints and no other logger."""
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stdout))
