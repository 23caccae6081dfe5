"""Four ways to run the same two apps: local, grpc, ray, flower."""

from __future__ import annotations

import importlib

from amgt_fed.engines.job import Engine, Job

_ENGINES = {
    "local": "amgt_fed.engines.local:run_local",
    "grpc": "amgt_fed.engines.grpc:run_grpc",
    "ray": "amgt_fed.engines.ray:run_ray",
    "flower": "amgt_fed.engines.flower:run_flower",
}


def get_engine(name: str) -> Engine:
    """The engine of that name; only then is it imported, and what it needs with it."""
    module, _, function = _ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), function)
    return engine


__all__ = ["Engine", "Job", "get_engine"]
