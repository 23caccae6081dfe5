"""Into and out of the schema; every refusal names the key, the value, what is allowed and the nearest valid key."""

from __future__ import annotations

import difflib
import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from amgt_fed.config.schema import RunConfig, Scalar
from amgt_fed.errors import ConfigError

_OPTIONS = "options"  # the one section whose keys are the task's own


def describe_keys() -> Iterator[tuple[str, str, Scalar, str]]:
    """Yield (dotted key, allowed values, default, meaning) for every key of the schema."""
    for key, field in _fields(RunConfig):
        yield key, _allowed(key), field.get_default(call_default_factory=True), field.description or ""


def from_flat(flat: Mapping[str, Scalar]) -> RunConfig:
    """Build a configuration from dotted keys, as Flower's run config and `--set` give them.

    A hyphen may stand for an underscore, except in the task's own `options`.

    Raises:
        ConfigError: an unknown key or a bad value.
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        parts = _normal(key).split(".")
        table = nested
        for depth, part in enumerate(parts[:-1], start=1):
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                section = ".".join(parts[:depth])
                raise _section(section, inner) if section in _sections() else _unknown_key(key)
            table = inner
        table[parts[-1]] = value
    return _validate(nested)


def from_toml(path: Path) -> RunConfig:
    """Read a TOML file.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or holds an unknown key or a bad value.
    """
    return _validate(_read(path))


def keys_of_toml(path: Path) -> dict[str, Scalar]:
    """The dotted keys a TOML file gives, and no others: what it leaves out may come from elsewhere.

    Raises:
        ConfigError: the file cannot be read or is no TOML. Keys and values are checked by `from_flat`.
    """
    return dict(_flatten(_read(path)))


def _read(path: Path) -> dict[str, Any]:
    try:
        return _normal_keys(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration file {path} is not valid TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error}") from error


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
    return from_flat({**to_flat(config), **{_normal(key): value for key, value in overrides.items()}})


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


def _normal(key: str) -> str:
    section, dot, _ = key.partition(".")
    return key if dot and section == _OPTIONS else key.replace("-", "_")


def _normal_keys(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    normal: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in normal:
            raise ConfigError(f"{prefix}{name} is given twice, with a hyphen and with an underscore; leave one away")
        keep = not isinstance(value, dict) or (not prefix and name == _OPTIONS)
        normal[name] = value if keep else _normal_keys(value, f"{prefix}{name}.")
    return normal


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
    if "pattern" in node:
        return str(node["description"])
    if node.get("minLength"):
        return "text that is not empty"
    if "anyOf" in node:
        return " or ".join(_in_words(option) for option in node["anyOf"])
    return _in_words(node)


def _in_words(node: Mapping[str, Any]) -> str:
    if "const" in node:
        return str(node["const"])
    names = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
    words = names.get(node.get("type", ""), "a table")
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = " and ".join(f"{sign} {_number(node[name])}" for name, sign in bounds.items() if name in node)
    return f"{words} {limits}".strip()


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) and value < 1e15 else f"{value:g}"


def _unknown_key(key: str) -> ConfigError:
    known = [name for name, _ in _fields(RunConfig) if name != _OPTIONS]
    # `lr` alone is close to nothing; its own last part is what the user meant.
    near = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.8) or near
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "; `amgt-fed config` lists all keys"
    return ConfigError(f"unknown configuration key {key!r}{hint}")


def _validate(nested: Mapping[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(nested)
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key, value = ".".join(location), first["input"]
    shown = reprlib.repr(value)
    if first["type"] == "extra_forbidden":
        while isinstance(value, dict) and value:  # a section that is not there: name the key as it was given
            name, value = next(iter(value.items()))
            key = f"{key}.{name}"
        return _unknown_key(key)
    if first["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return _section(key, value)
    if location[:1] == [_OPTIONS] and len(location) > 1:  # a union reports its alternatives below the key
        return ConfigError(f"{_OPTIONS}.{location[1]} = {shown} is not allowed; give a number, text, true or false")
    cause = first.get("ctx", {}).get("error")
    if cause is not None:  # one of our own validators; its text is complete
        return ConfigError(f"{key}: {cause}" if key else str(cause))
    return ConfigError(f"{key} = {shown} is not allowed; give {_allowed(key)}")


def _sections() -> set[str]:
    return {name.rsplit(".", 1)[0] for name, _ in _fields(RunConfig) if "." in name} | {_OPTIONS}


def _section(section: str, value: object) -> ConfigError:
    example = next((name for name, _ in _fields(RunConfig) if name.startswith(f"{section}.")), f"{section}.NAME")
    return ConfigError(
        f"{section} = {reprlib.repr(value)} is not allowed: it is a section; set one of its keys, e.g. {example}"
    )
