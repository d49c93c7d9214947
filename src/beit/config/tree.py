"""Configs as trees: to JSON and back, changed by name, compared."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from beit.config import data, masking, model, runs, tokenizer, training
from beit.errors import ConfigError, nearest

Config = TypeVar("Config")
Json = dict[str, Any]

_MODULES = (data, masking, model, runs, tokenizer, training)
TYPES: dict[str, type] = {
    name: value
    for module in _MODULES
    for name, value in vars(module).items()
    if dataclasses.is_dataclass(value) and isinstance(value, type)
}


def to_json(config: object) -> Json:
    """The whole tree as JSON values; every node names its type."""
    assert dataclasses.is_dataclass(config)
    values: Json = {"type": type(config).__name__}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        values[item.name] = to_json(value) if dataclasses.is_dataclass(value) else _plain(value)
    return values


def _plain(value: object) -> object:
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def from_json(values: Json, expected: type[Config]) -> Config:
    """The config that `to_json` wrote; unknown types and keys are refused by name."""
    name = values.get("type", "")
    if name not in TYPES or not issubclass(TYPES[name], expected):
        allowed = [key for key, value in TYPES.items() if issubclass(value, expected)]
        raise ConfigError(
            f"'{name}' is no {expected.__name__} this version knows",
            remedy=nearest(str(name), allowed),
        )
    kind = TYPES[name]
    known = {item.name for item in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    arguments: dict[str, object] = {}
    for key, value in values.items():
        if key == "type":
            continue
        if key not in known:
            raise ConfigError(f"{name} has no option '{key}'", remedy=nearest(key, known))
        nested = isinstance(value, dict)
        arguments[key] = from_json(value, object) if nested else _typed(key, value, hints[key])
    built: Config = kind(**arguments)
    return built


def _typed(name: str, value: object, hint: object) -> object:
    """The value as the annotation has it: lists become tuples, whole numbers become floats."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for option in arguments:
            try:
                return _typed(name, value, option)
            except ConfigError:
                continue
    elif origin is typing.Literal:
        if value in arguments:
            return value
        remedy = nearest(str(value), [str(entry) for entry in arguments])
        raise ConfigError(f"{name} is {value!r}", remedy=remedy)
    elif origin is tuple and isinstance(value, list | tuple):
        element = arguments[0]
        if arguments[-1] is Ellipsis or len(arguments) == len(value):
            return tuple(_typed(name, entry, element) for entry in value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint):
        if not (isinstance(value, bool) and hint is not bool):
            return value
    wanted = hint.__name__ if isinstance(hint, type) else str(hint)
    raise ConfigError(f"{name} is {value!r}", remedy=f"use a value of type {wanted}")


def leaves(config: object, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every value of the tree that is not itself a config, with its path."""
    assert dataclasses.is_dataclass(config)
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        path = (*prefix, item.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, path)
        else:
            yield path, value


def override(config: Config, options: Mapping[str, object]) -> Config:
    """The config with options changed by name, wherever in the tree they stand.

    A node is replaced whole when the value is itself a config: `masking=UniformMasking()`.

    Raises ConfigError for a name that does not exist, with the nearest one that does.
    """
    known = {path[-1]: path for path, _ in leaves(config)}
    branches = {
        item.name: (item.name,)
        for item in dataclasses.fields(config)  # type: ignore[arg-type]
        if dataclasses.is_dataclass(getattr(config, item.name))
    }
    for name, value in options.items():
        path = (branches if dataclasses.is_dataclass(value) else known).get(name)
        if path is None:
            raise ConfigError(f"there is no option '{name}'", remedy=nearest(name, known))
        config = _replace(config, path, value)
    return config


def _replace(config: Config, path: tuple[str, ...], value: object) -> Config:
    name = path[0]
    if len(path) > 1:
        value = _replace(getattr(config, name), path[1:], value)
    elif not dataclasses.is_dataclass(value):
        value = _typed(name, value, typing.get_type_hints(type(config))[name])
    changed: Config = dataclasses.replace(config, **{name: value})  # type: ignore[type-var]
    return changed


def differences(old: object, new: object) -> dict[str, tuple[object, object]]:
    """Options whose values differ between two configs of one kind, as (old, new)."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return {
        ".".join(path): (before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    }
