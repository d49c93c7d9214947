"""How a config is checked: every value against the annotation of its field, ranges included.

An annotation is the whole declaration of a field: its type, the members of a Literal, the length of
a tuple and, with the types named here, its range. What no single field can say stands in the
config's own `__post_init__`, which begins with that of its base.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import re
import types
import typing
from typing import Annotated, Any, NamedTuple

from beit.errors import ConfigError, nearest
from beit.terminal import shown

LARGEST_INT = 2**63 - 1
"""The largest integer that a tensor of int64 and every JSON reader can hold."""


class Range(NamedTuple):
    """Smallest and largest value of a number, or of each number in a tuple."""

    low: float
    high: float
    above: bool = False
    """Whether the smallest value itself is excluded."""
    below: bool = False
    """Whether the largest value itself is excluded."""

    def holds(self, value: float) -> bool:
        """Whether a number is in the range; NaN never is."""
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low = f"above {self.low:,}" if self.above else f"of at least {self.low:,}"
        if self.high >= LARGEST_INT:
            return low
        return f"{low} and {f'below {self.high:,}' if self.below else f'at most {self.high:,}'}"


class Entries(NamedTuple):
    """Types of the entries of a dictionary that have known names; any may be missing."""

    types: dict[str, Any]


class NotFinite:
    """Marks a float that may be infinite or NaN, as a measured value may be."""


Measured = Annotated[float, NotFinite()]
PositiveInt = Annotated[int, Range(1, LARGEST_INT)]
NonNegativeInt = Annotated[int, Range(0, LARGEST_INT)]
PositiveFloat = Annotated[float, Range(0, math.inf, above=True)]
NonNegativeFloat = Annotated[float, Range(0, math.inf)]
Fraction = Annotated[float, Range(0, 1)]
PositiveFraction = Annotated[float, Range(0, 1, above=True)]
Crop = Annotated[float, Range(0.05, 1)]
"""Fraction of the side that a centre crop keeps."""
FractionBelowOne = Annotated[float, Range(0, 1, below=True)]
# These decide how much memory is allocated: far above every published model, far below what would
# end the process.
Width = Annotated[int, Range(1, 65_536)]
"""Channels, or the length of a vector."""
Depth = Annotated[int, Range(1, 1_024)]
"""Blocks in a row."""
Side = Annotated[int, Range(1, 65_536)]
"""Pixels along one side."""
Sides = Annotated[tuple[int, int], Range(1, 65_536)]
"""Height and width in pixels."""


UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)\s*")


def seconds_of(text: str) -> float:
    """The seconds of a time such as 90s, 15m, 1h or 1h30m. Raises ConfigError for other text."""
    found = TIME.findall(text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in found)
    require(
        TIME.sub("", text) == "" and MIN_TIME <= seconds <= MAX_TIME,
        f"time is {shown(text)}",
        "write 90s, 15m, 1h, 1h30m or 2d: from 30 seconds to 60 days",
    )
    return seconds


MIN_TIME, MAX_TIME = 30, 60 * 86400


class Config:
    """Base of all configs: an instance whose values break their annotations cannot be made, be it
    by a constructor, `dataclasses.replace`, an option by name or JSON."""

    def __post_init__(self) -> None:
        """Bring every value to its annotated type. Raises ConfigError for one that breaks it."""
        for name, hint in field_types(type(self)).items():
            value = getattr(self, name)
            right = checked(name, value, hint)
            if right is not value:
                object.__setattr__(self, name, right)


_FIELD_TYPES: dict[type[Any], dict[str, Any]] = {}


def field_types(kind: type[Any]) -> dict[str, Any]:
    """The annotation of every field of a config."""
    known = _FIELD_TYPES.get(kind)
    if known is None:
        hints = typing.get_type_hints(kind, include_extras=True)
        known = {item.name: hints[item.name] for item in dataclasses.fields(kind)}
        _FIELD_TYPES[kind] = known
    return known


def checked(name: str, value: object, hint: Any) -> object:
    """The value as an annotation requires it: lists become tuples, whole numbers become floats.

    Args:
        name: What the message calls the value.
        value: The value to check.
        hint: The annotation, with the ranges of `Annotated`.

    Raises:
        ConfigError: The value is of another type or length, out of range, or not finite.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _checked_by_rules(name, value, arguments[0], arguments[1:])
    if origin in (types.UnionType, typing.Union):
        return _checked_union(name, value, arguments)
    if origin is typing.Literal:
        if isinstance(value, str) and value in arguments:
            return value
        remedy = nearest(shown(value), [str(entry) for entry in arguments])
        raise ConfigError(f"{name} is {shown(value)}", remedy=remedy)
    if origin is tuple and isinstance(value, list | tuple):
        return _checked_tuple(name, value, arguments)
    if hint is Any:
        return value
    kind = origin or hint
    right = _as(kind, value)
    if right is None:
        expected = kind.__name__ if isinstance(kind, type) else str(kind)
        raise ConfigError(f"{name} is {shown(value)}", remedy=f"use a value of type {expected}")
    if kind is dict and arguments:
        for key, entry in right.items():
            checked(f"a key of {name}", key, arguments[0])
            checked(f"{name}.{key}", entry, arguments[1])
    if kind is float and not math.isfinite(right):
        raise ConfigError(f"{name} is {right}", remedy="use a finite number")
    if kind is int and abs(right) > LARGEST_INT:
        raise ConfigError(f"{name} is {shown(right)}", remedy="use a number of at most 63 bits")
    return right


def _checked_by_rules(name: str, value: object, hint: Any, rules: tuple[Any, ...]) -> object:
    if isinstance(value, float) and any(isinstance(rule, NotFinite) for rule in rules):
        return value
    value = checked(name, value, hint)
    for rule in rules:
        if isinstance(rule, Range):
            _check_range(name, value, rule)
        elif isinstance(rule, Entries) and isinstance(value, dict):
            for key in rule.types.keys() & value.keys():
                checked(f"{name}.{key}", value[key], rule.types[key])
    return value


def _checked_tuple(
    name: str, value: list[Any] | tuple[Any, ...], hints: tuple[Any, ...]
) -> tuple[Any, ...]:
    length = len(value)
    elements = hints[:1] * length if hints[-1] is Ellipsis else hints
    if len(elements) != length:
        remedy = f"give {len(elements)} values"
        raise ConfigError(f"{name} is {shown(value)}, of length {length}", remedy=remedy)
    parts = []
    for place, (entry, hint) in enumerate(zip(value, elements, strict=True)):
        try:
            parts.append(checked(name, entry, hint))
        except ConfigError as error:
            problem = f"{name} is {shown(value)}: entry {place} is {shown(entry)}"
            raise ConfigError(problem, remedy=error.remedy) from error
    unchanged = isinstance(value, tuple) and all(a is b for a, b in zip(parts, value, strict=True))
    return value if unchanged else tuple(parts)  # type: ignore[return-value]


def _as(kind: type[Any], value: object) -> Any:
    """The value as this type; None if it cannot be. Numbers of other libraries, such as NumPy's,
    become Python's, and a path becomes its text."""
    if isinstance(value, bool):
        return value if kind is bool else None
    if type(value) is kind:
        return value
    if kind is int and isinstance(value, numbers.Integral):
        return int(value)
    if kind is float and isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if isinstance(value, kind) else None


def _checked_union(name: str, value: object, options: tuple[Any, ...]) -> object:
    if value is None and type(None) in options:
        return None
    others = [option for option in options if option is not type(None)]
    for option in others[:-1]:
        try:
            return checked(name, value, option)
        except ConfigError:
            continue
    return checked(name, value, others[-1])


def _check_range(name: str, value: object, limits: Range) -> None:
    numbers_in = value if isinstance(value, tuple) else (value,)
    if all(number is None or limits.holds(number) for number in numbers_in):
        return
    raise ConfigError(f"{name} is {shown(value)}", remedy=f"use a value {limits}")


def require(holds: bool, problem: str, remedy: str) -> None:
    """Check a rule.

    Args:
        holds: Whether the rule holds.
        problem: What was given and which rule it breaks, for the message.
        remedy: What the user can do, for the message.

    Raises:
        ConfigError: The rule does not hold.
    """
    if not holds:
        raise ConfigError(problem, remedy=remedy)


def check_multiple(name: str, sides: tuple[int, ...], of: int) -> None:
    """Check that each side is a positive multiple of a number, such as the patch or the stride.

    Args:
        name: What the message calls the sides.
        sides: In pixels.
        of: The number, in pixels.

    Raises:
        ConfigError: One of the sides is not.
    """
    for side in sides:
        below = max(side // of, 1) * of
        require(
            side > 0 and side % of == 0,
            f"{name} {side} is not a multiple of {of}",
            f"use {below} or {below + of}",
        )
