"""Keys that do not go together. Checked when a run is set up, for in a file alone a task's defaults are missing."""

from __future__ import annotations

from amgt_fed.config.schema import RunConfig
from amgt_fed.errors import ConfigError


def check_together(config: RunConfig) -> None:
    """Refuse a complete configuration whose keys contradict each other.

    Raises:
        ConfigError: names both keys, the values and why.
    """
    if config.client.scaffold:
        _needs(config.client.optimizer, "sgd", "client.optimizer", "the sum of its steps is a gradient")
        _needs(config.server.optimizer, "average", "server.optimizer", "clients read the round's mean off the step")
        _needs(config.server.clip_norm, 0.0, "server.clip_norm", "a clipped update is not the one the client sent")


def _needs(value: object, needed: object, key: str, why: str) -> None:
    if value != needed:
        raise ConfigError(f"{key} is {value!r}, and client.scaffold = true needs {needed!r}: {why}")
