"""Configs as trees: to JSON and back, changed by name, compared."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard, TypeVar

from beit.config import (
    artifact,
    data,
    evaluate,
    masking,
    model,
    runs,
    segment_run,
    segmentation,
    tokenizer,
    training,
)
from beit.config.following import following
from beit.config.plugins import check_loaded
from beit.config.validation import checked, field_types
from beit.errors import ConfigError, nearest
from beit.terminal import shown

Config = TypeVar("Config")
Json = dict[str, Any]

_MODULES = (
    artifact,
    data,
    evaluate,
    masking,
    model,
    runs,
    segment_run,
    segmentation,
    tokenizer,
    training,
)
TYPES: dict[str, type] = {
    name: value
    for module in _MODULES
    for name, value in vars(module).items()
    if dataclasses.is_dataclass(value) and isinstance(value, type)
}


OLD_NAMES = {
    "neighbour_pictures": ("knn_images",),
    "subset_seed": ("split_seed",),
    "tap": ("early_layer", "out_index"),
    "taps": ("out_indices",),
    "auxiliary_tap": ("auxiliary_level",),
    "token_bank": ("token_cache",),
    "teacher_bank": ("teacher_cache",),
}
"""Former names of options, which older configs on disk still have; `tap` meant either of two."""
DROPPED = {"attention"}
"""Former options, which such configs may still have, and which change no result."""


def to_json(config: object) -> Json:
    """The whole tree as JSON values. Every node names its type; for a type from outside of this
    package, also its module."""
    assert dataclasses.is_dataclass(config)
    values: Json = {"type": type_name(type(config))}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        values[item.name] = to_json(value) if dataclasses.is_dataclass(value) else _plain(value)
    return values


def type_name(kind: type) -> str:
    """How JSON names a type of config: one from outside of this package with its module."""
    known = TYPES.get(kind.__name__) is kind
    return kind.__name__ if known else f"{kind.__module__}:{kind.__qualname__}"


def _descendants(kind: type[Any]) -> Iterator[type[Any]]:
    children: list[type[Any]] = kind.__subclasses__()
    for child in children:
        yield child
        yield from _descendants(child)


def _find_type(name: str, expected: type[Config]) -> type[Any]:
    """The config type of this name, from this package or from a module that was imported already:
    what a file says is never a reason to import anything."""
    kinds = (expected, *_descendants(expected))
    outside = {type_name(kind): kind for kind in kinds if ":" in type_name(kind)}
    kind = TYPES.get(name) or outside.get(name)
    if kind is not None and issubclass(kind, expected):
        return kind
    if ":" in name:
        check_loaded(name, expected.__name__)
    allowed = [key for key, value in TYPES.items() if issubclass(value, expected)]
    raise ConfigError(
        f"{shown(name)} is not a known {expected.__name__}",
        remedy=nearest(name, [*allowed, *outside]),
    )


def _plain(value: object) -> object:
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def from_json(values: object, expected: type[Config]) -> Config:
    """The config that `to_json` wrote; unknown types and keys are refused by name.

    The type may be left out where the expected one has no alternatives.

    Raises:
        ConfigError: The values are not such a config.
    """
    if not isinstance(values, dict):
        raise ConfigError(
            f"{shown(values)} stands where a {expected.__name__} is expected",
            remedy=f'write it as an object: {{"type": "{expected.__name__}", ...}}',
        )
    if "type" in values or inspect.isabstract(expected) or expected.__subclasses__():
        stated = values.get("type", "")
        kind = _find_type(stated if isinstance(stated, str) else shown(stated), expected)
    else:
        kind = expected
    name = kind.__name__
    hints = field_types(kind)
    arguments: dict[str, object] = {}
    for written, value in values.items():
        key = next((new for new in OLD_NAMES.get(written, ()) if new in hints), written)
        if key == "type" or (key in DROPPED and key not in hints):
            continue
        if key not in hints:
            raise ConfigError(f"{name} has no option {shown(key)}", remedy=nearest(key, hints))
        node = next((option for option in _options(hints[key]) if _is_config(option)), None)
        arguments[key] = (
            from_json(value, node)
            if node is not None and isinstance(value, dict)
            else checked(key, value, hints[key])
        )
    try:
        built: Config = kind(**arguments)
    except TypeError as error:  # an abstract type, or an option without a default is missing
        raise ConfigError(
            f"{name} cannot be made: {error}", remedy="complete the options"
        ) from error
    return built


def _options(hint: object) -> tuple[Any, ...]:
    """What an annotation allows: the members of a union, or itself."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if union else (hint,)


def _is_config(hint: object) -> TypeGuard[type[Any]]:
    """Whether an annotation is a type of config."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def leaves(
    config: object, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
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
    """The config with options changed by name, wherever in the tree they stand, and what follows
    them (`beit.config.following`).

    A node is replaced whole when the value is itself a config: `masking=UniformMasking()`.

    Raises:
        ConfigError: A name does not exist (the message gives the nearest one that does), or a value
            breaks a rule of the config.
    """
    fields = dataclasses.fields(config)  # type: ignore[arg-type]
    branches = [
        item.name for item in fields if dataclasses.is_dataclass(getattr(config, item.name))
    ]
    nodes = {key: value for key, value in options.items() if dataclasses.is_dataclass(value)}
    for name in nodes:
        if name not in branches:
            raise ConfigError(f"there is no node '{name}'", remedy=nearest(name, branches))
    config = _replaced(config, {(name,): node for name, node in nodes.items()})
    known = {path[-1]: path for path, _ in leaves(config)}
    for name in options:
        if name not in known and name not in nodes:
            raise ConfigError(f"there is no option '{name}'", remedy=nearest(name, known))
    follow = {rule.follower: value for rule, value in following(by_name(config), options)}
    changes = {
        known[name]: value for name, value in (follow | dict(options)).items() if name in known
    }
    return _replaced(config, changes)


def by_name(config: object) -> dict[str, object]:
    """Every value of the tree that is not itself a config, by its name alone."""
    return {path[-1]: value for path, value in leaves(config)}


def _replaced(config: Config, changes: Mapping[tuple[str, ...], object]) -> Config:
    """The config with all changes made at once, since its rules hold for the values together."""
    hints = field_types(type(config))
    values: dict[str, object] = {}
    for name in dict.fromkeys(path[0] for path in changes):
        below = {path[1:]: value for path, value in changes.items() if path[0] == name}
        whole = () in below
        values[name] = (
            checked(name, below[()], hints[name])
            if whole
            else _replaced(getattr(config, name), below)
        )
    changed: Config = dataclasses.replace(config, **values)  # type: ignore[type-var]
    return changed


def differences(old: object, new: object) -> dict[str, tuple[object, object]]:
    """Options whose values differ between two configs of one kind, as (old, new)."""
    before, after = (dict([*leaves(config), *_kinds(config)]) for config in (old, new))
    return {
        ".".join(path): (before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    }


def _kinds(config: object, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The type of every node of the tree, as the option `type` of its path."""
    yield (*prefix, "type"), type_name(type(config))
    assert dataclasses.is_dataclass(config)
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from _kinds(value, (*prefix, item.name))
