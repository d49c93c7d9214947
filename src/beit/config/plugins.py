"""Code from outside of this package, chosen by name as `module:attribute`."""

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
    """Import a module that a user named, so that files may refer to what it defines.

    Raises:
        ConfigError: The module cannot be found, or fails.
    """
    _import(module, f"the module '{module}' cannot be imported")
    _imported.append(module)


def imported_outside() -> tuple[str, ...]:
    """The modules that the user named so far, for another process that needs them, too."""
    return tuple(_imported)


def check_loaded(name: str, what: str) -> None:
    """Raise ConfigError if a file names `module:attribute` and the module was not imported: no file
    may cause an import. `what` says what was looked for."""
    module = name.partition(":")[0]
    if module not in sys.modules:
        raise ConfigError(
            f"{what} '{name}' is code that was not imported",
            remedy=f"import {module} first, in Python or by `beit --import {module} VERB ...`",
        )


def find_outside(name: str, what: str, *, may_import: bool = True) -> object:
    """What `module:attribute` names.

    Args:
        name: The module and the attribute, joined by a colon.
        what: What is looked for, for the message, such as recipe.
        may_import: Import the module. False for a name from a file, which must not cause imports:
            the module must be imported already.

    Raises:
        ConfigError: It cannot be found, or the module fails.
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
    except (ImportError, TypeError, ValueError) as error:  # the latter two: not a module's name
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
    """What a function that was chosen by name returns.

    Args:
        function: The function.
        name: Its name as `module:attribute`, for the message.
        what: What it makes, for the message, such as recipe.

    Raises:
        ConfigError: The function raised something other than a BeitError.
    """
    try:
        return function()
    except BeitError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{what} '{name}' fails: {type(error).__name__}: {error}",
            remedy="mend the function; `beit --traceback VERB ...` shows where it broke",
        ) from error
