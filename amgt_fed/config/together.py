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

    if config.server.aggregator != "mean":
        if config.client.scaffold:
            raise ConfigError(
                f"client.scaffold = true needs server.aggregator = mean, not {config.server.aggregator!r}: the sum of "
                "all control variates is the sum of all updates"
            )
        if config.convergence.certify_every:
            raise ConfigError(
                f"convergence.certify_every is {config.convergence.certify_every}, and server.aggregator is "
                f"{config.server.aggregator!r}, for hostile clients: a certificate believes every client's gradient. "
                "Set server.aggregator = mean, or certify_every = 0"
            )
    federation = config.federation
    late = federation.mode == "async" or federation.max_staleness > 0
    if late and config.client.scaffold:
        raise ConfigError(
            "client.scaffold = true needs federation.mode = sync and max_staleness = 0: a late update was made against "
            "another common control variate"
        )
    if late and config.codec.uplink.startswith("subspace"):
        raise ConfigError(
            f"codec.uplink is {config.codec.uplink!r}, whose rounds each have a subspace of their own; it needs "
            "federation.mode = sync and max_staleness = 0"
        )
    if federation.mode == "async" and federation.over_selection != 1:
        raise ConfigError(
            f"federation.over_selection is {federation.over_selection!r}, which is for rounds; in mode async set "
            "concurrency above buffer_size instead"
        )


def _needs(value: object, needed: object, key: str, why: str) -> None:
    if value != needed:
        raise ConfigError(f"{key} is {value!r}, and client.scaffold = true needs {needed!r}: {why}")
