"""The rules that several configs share, each with its message."""

from __future__ import annotations

from beit.errors import ConfigError


def check_that(holds: bool, problem: str, remedy: str) -> None:
    """Raise ConfigError with the problem and its remedy unless the rule holds."""
    if not holds:
        raise ConfigError(problem, remedy=remedy)


def check_positive(config: object, *names: str) -> None:
    """Each named field must be greater than zero."""
    for name in names:
        value = getattr(config, name)
        check_that(value > 0, f"{name} is {value}", f"{name} must be greater than zero")


def check_share(config: object, *names: str) -> None:
    """Each named field must lie in [0, 1]."""
    for name in names:
        value = getattr(config, name)
        check_that(0 <= value <= 1, f"{name} is {value}", f"{name} is a share: from 0 to 1")


def check_multiple(name: str, sides: tuple[int, ...], of: int) -> None:
    """Each side in pixels must be a positive multiple of the patch or stride."""
    for side in sides:
        below = max(side // of, 1) * of
        check_that(
            side > 0 and side % of == 0,
            f"{name} {side} is not a multiple of {of}",
            f"use {below} or {below + of}",
        )
