"""Into and out of the schema; every refusal names the key, the value, what is allowed and the nearest valid key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from amgt_fed.config.schema import RunConfig, Scalar
from amgt_fed.errors import ConfigError


def describe_keys() -> Iterator[tuple[str, str, Scalar, str]]:
    """Yield (dotted key, allowed values, default, meaning) for every key of the schema."""
    for key, field in _fields(RunConfig):
        yield key, _allowed(key), field.get_default(call_default_factory=True), field.description or ""


def from_flat(flat: Mapping[str, Scalar]) -> RunConfig:
    """Build a configuration from dotted keys, as Flower's run config and `--set` give them.

    Raises:
        ConfigError: an unknown key or a bad value.
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        parts = key.replace("-", "_").split(".")
        table = nested
        for part in parts[:-1]:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                raise _unknown_key(key)
            table = inner
        table[parts[-1]] = value
    return _validate(nested)


def from_toml(path: Path) -> RunConfig:
    """Read a TOML file.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or holds an unknown key or a bad value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error}") from error
    try:
        return _validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration file {path} is not valid TOML: {error}") from error


def to_toml(config: RunConfig) -> str:
    """Write every key, resolved; `from_toml` reads the same configuration back."""
    return tomli_w.dumps(config.model_dump())


def to_flat(config: RunConfig) -> dict[str, Scalar]:
    """Dotted keys and scalar values: Flower's form of a run configuration."""
    return dict(_flatten(config.model_dump()))


def merge(config: RunConfig, overrides: Mapping[str, Scalar]) -> RunConfig:
    """A copy of `config` with dotted keys replaced.

    Raises:
        ConfigError: an unknown key or a bad value.
    """
    return from_flat({**to_flat(config), **{key.replace("-", "_"): value for key, value in overrides.items()}})


def parse_override(text: str) -> tuple[str, Scalar]:
    """Read one `--set a.b=c`: the value is TOML where it parses as such, text otherwise.

    Raises:
        ConfigError: there is no `=`, or the value is a table or a list.
    """
    key, separator, raw = text.partition("=")
    key = key.strip()
    if not separator or not key:
        raise ConfigError(f"--set {text!r} is not of the form key=value, e.g. --set client.lr=0.01")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    if not isinstance(value, bool | int | float | str):
        raise ConfigError(f"--set {text!r}: the value must be a number, true, false or text")
    return key, value


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _allowed(key: str) -> str:
    """What the schema says a key's value may be, in words."""
    schema = RunConfig.model_json_schema()
    node: dict[str, Any] = schema
    for part in key.split("."):
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        node = node.get("properties", {}).get(part, {})
    if "enum" in node:
        return ", ".join(map(str, node["enum"]))
    names = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
    words = names.get(node.get("type", ""), "a table")
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = " and ".join(f"{sign} {node[name]:g}" for name, sign in bounds.items() if name in node)
    return f"{words} {limits}".strip()


def _unknown_key(key: str) -> ConfigError:
    known = [name for name, _ in _fields(RunConfig)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    # `lr` alone is close to nothing; its own last part is what the user meant.
    near = near or [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    hint = f"; did you mean {near[0]!r}?" if near else "; `amgt-fed config` lists all keys"
    return ConfigError(f"unknown configuration key {key!r}{hint}")


def _validate(nested: Mapping[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(nested)
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown_key(key)
    cause = first.get("ctx", {}).get("error")
    if cause is not None:  # one of our own validators; its text is complete
        return ConfigError(f"{key}: {cause}" if key else str(cause))
    known = {name for name, _ in _fields(RunConfig)}
    if key not in known and key.rsplit(".", 1)[0] in known:  # a scalar union reports its alternatives below the key
        key = key.rsplit(".", 1)[0]
    if first["type"] in ("model_type", "model_attributes_type"):
        return ConfigError(f"{key} is a section, not a value; set one of its keys, e.g. {_example(key)}")
    return ConfigError(f"{key} = {first['input']!r} is not allowed; give {_allowed(key)}")


def _example(section: str) -> str:
    return next((name for name, _ in _fields(RunConfig) if name.startswith(f"{section}.")), section)
