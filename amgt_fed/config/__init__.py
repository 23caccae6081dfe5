"""The one configuration schema, and the ways into it: TOML, `--set a.b=c`, Flower's run config, keywords."""

from amgt_fed.config.load import (
    describe_keys,
    from_flat,
    from_toml,
    keys_of_toml,
    merge,
    parse_override,
    to_flat,
    to_toml,
)
from amgt_fed.config.schema import (
    BaselineConfig,
    ClientConfig,
    CodecConfig,
    ConvergenceConfig,
    FederationConfig,
    LinkConfig,
    PartitionConfig,
    RunConfig,
    ServerConfig,
)

__all__ = [
    "BaselineConfig",
    "ClientConfig",
    "CodecConfig",
    "ConvergenceConfig",
    "FederationConfig",
    "LinkConfig",
    "PartitionConfig",
    "RunConfig",
    "ServerConfig",
    "describe_keys",
    "from_flat",
    "from_toml",
    "keys_of_toml",
    "merge",
    "parse_override",
    "to_flat",
    "to_toml",
]
