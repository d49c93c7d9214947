"""Code that this package does not have, chosen by name as `module:attribute`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from typing import TypeVar

from beit.errors import BeitError, ConfigError

Made = TypeVar("Made")
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_imported: list[str] = []


def names_outside(name: str) -> bool:
    """Whether a name has the form `module:attribute`; `hf:NAME` is a dataset or a model."""
    return _NAME.fullmatch(name) is not None and not name.startswith("hf:")


def import_outside(module: str) -> None:
    """Import a module that a user named, so that files may speak of what it defines.

    Raises ConfigError if it cannot be found.
    """
    try:
        importlib.import_module(module)
    except (ImportError, TypeError, ValueError) as error:  # the latter two: it is no module's name
        raise ConfigError(
            f"the module '{module}' cannot be imported: {error}",
            remedy="name a module that is installed, or put its folder on PYTHONPATH "
            "(`PYTHONPATH=. beit ...`)",
        ) from error
    _imported.append(module)


def imported_outside() -> tuple[str, ...]:
    """The modules that the user named so far, for a process that is to know them, too."""
    return tuple(_imported)


def check_loaded(name: str, what: str) -> None:
    """Raise ConfigError if the module of `module:attribute`, which a file names, was not imported:
    no file may have it imported."""
    module = name.partition(":")[0]
    if module not in sys.modules:
        raise ConfigError(
            f"{what} '{name}' is code that is not loaded, and no file may have it loaded",
            remedy=f"import {module} first, in Python or by `beit --import {module} VERB ...`",
        )


def find_outside(name: str, what: str, *, may_import: bool = True) -> object:
    """What `module:attribute` names. A module is imported only for what a user typed; a name out of
    a file is to be found in what was imported already.

    Raises ConfigError if it cannot be found; `what` says what was looked for.
    """
    module, _, attribute = name.partition(":")
    if not may_import:
        check_loaded(name, what)
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{what} '{name}' cannot be found: {error}",
            remedy="name a module and a function in it, as module:function; Python must find the "
            "module: install it, or put its folder on PYTHONPATH (`PYTHONPATH=. beit ...`)",
        ) from error
    return found


def call_outside(function: Callable[[], Made], name: str, what: str) -> Made:
    """What a function chosen by name returns. Raises ConfigError that names it if it breaks."""
    try:
        return function()
    except BeitError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{what} '{name}' fails: {type(error).__name__}: {error}",
            remedy="mend the function; `beit --traceback VERB ...` shows where it broke",
        ) from error
