"""The one configuration schema, and the ways into it: TOML, `--set a.b=c`, Flower's run config, keywords."""

from amgt_fed.config.convergence import ConvergenceConfig
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
    FederationConfig,
    LinkConfig,
    PartitionConfig,
    RunConfig,
    ServerConfig,
)
from amgt_fed.config.together import check_together

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
    "check_together",
    "describe_keys",
    "from_flat",
    "from_toml",
    "keys_of_toml",
    "merge",
    "parse_override",
    "to_flat",
    "to_toml",
]
