"""Code that this package does not have, chosen by name as `module:attribute`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

from beit.errors import BeitError, ConfigError, nearest

Made = TypeVar("Made")
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_imported: list[str] = []


def names_outside(name: str) -> bool:
    """Whether a name has the form `module:attribute`; `hf:NAME` is a dataset or a model."""
    return _NAME.fullmatch(name) is not None and not name.startswith("hf:")


def import_outside(module: str) -> None:
    """Import a module that a user named, so that files may speak of what it defines.

    Raises ConfigError if it cannot be found, or fails.
    """
    _import(module, f"the module '{module}' cannot be imported")
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
            f"{what} '{name}' is code that was not imported",
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
    there = _import(module, f"{what} '{name}' cannot be found")
    if not hasattr(there, attribute):
        own = [each for each, value in vars(there).items()
               if getattr(value, "__module__", "") == module]  # fmt: skip
        raise ConfigError(
            f"{what} '{name}' cannot be found: module '{module}' has no '{attribute}'",
            remedy=nearest(attribute, own) if own else "name a module that defines it",
        )
    found: object = getattr(there, attribute)
    return found


def _import(module: str, problem: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except BeitError:
        raise
    except (ImportError, TypeError, ValueError) as error:  # the latter two: it is no module's name
        raise ConfigError(
            f"{problem}: {error}",
            remedy=f"leave .py out: {module.removesuffix('.py')}"
            if module.endswith(".py")
            else "name a module that is installed, or put its folder on PYTHONPATH "
            "(`PYTHONPATH=. beit ...`)",
        ) from error
    except Exception as error:
        raise ConfigError(
            f"{problem}: {type(error).__name__}: {error}",
            remedy="mend the module; `beit --traceback VERB ...` shows where it broke",
        ) from error


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
