"""The user's own methods, from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from amgt_fed.compare.methods import METHODS, Method
from amgt_fed.config.schema import Scalar
from amgt_fed.errors import ConfigError

_FIELDS = ("about", "paper", "base", "tune_server", "set")


def read_methods(path: Path) -> dict[str, Method]:
    """Read methods of the form

        [my-topk]
        about = "top 5 % up, dense down"
        base = "fedavg"
        tune_server = false
        set = { "codec.uplink" = "topk:fraction=0.05", "codec.error_feedback" = true }

    `base` is fedavg, amgt or a built-in method, whose keys then come first; `set` may also be tables of sections.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or a method is not of this form.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"methods file {path} is not valid TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"methods file {path} cannot be read: {error}") from error
    if not tables:
        raise ConfigError(f"methods file {path} holds no method; write e.g. [my-method]")
    return {name: _method(path, name, table) for name, table in tables.items()}


def _method(path: Path, name: str, table: Any) -> Method:
    if not isinstance(table, dict):
        raise ConfigError(f"methods file {path}: {name} = {table!r} is no table; write [{name}]")
    if unknown := sorted(table.keys() - set(_FIELDS)):
        raise ConfigError(f"methods file {path}: {name}.{unknown[0]} is unknown; a method has {', '.join(_FIELDS)}")
    base_name = table.get("base", "fedavg")
    if base_name not in METHODS:
        raise ConfigError(
            f"methods file {path}: {name}.base is {base_name!r}; give fedavg, amgt or another built-in method"
        )
    base = METHODS[base_name]
    keys = table.get("set", {})
    if not isinstance(keys, dict):
        raise ConfigError(f"methods file {path}: {name}.set is {keys!r}; give keys, e.g. {{ 'client.prox_mu' = 0.1 }}")
    tune_server = table.get("tune_server", base.tune_server)
    if not isinstance(tune_server, bool):
        raise ConfigError(f"methods file {path}: {name}.tune_server is {tune_server!r}; give true or false")
    return Method(
        name=name,
        about=str(table.get("about", f"{base_name} with other keys")),
        paper=str(table.get("paper", "")),
        overrides={**base.overrides, **dict(_flat(keys))},
        base=base.base,
        tune_server=tune_server,
        budget_scale=base.budget_scale,
    )


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}".replace("-", "_"), value
        else:
            raise ConfigError(f"{prefix}{key} = {value!r} is not a number, text, true or false")
