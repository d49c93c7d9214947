"""Code that this package does not have, chosen by name as `module:attribute`."""

from __future__ import annotations

import importlib
import re
import sys

from beit.errors import ConfigError

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def names_outside(name: str) -> bool:
    """Whether a name has the form `module:attribute`; `hf:NAME` is a dataset or a model."""
    return _NAME.fullmatch(name) is not None and not name.startswith("hf:")


def find_outside(name: str, what: str, *, may_import: bool = True) -> object:
    """What `module:attribute` names. A module is imported only for what a user typed; a name out of
    a file is to be found in what was imported already.

    Raises ConfigError if it cannot be found; `what` says what was looked for.
    """
    module, _, attribute = name.partition(":")
    if not may_import and module not in sys.modules:
        raise ConfigError(
            f"{what} '{name}' is code that is not loaded, and no file may have it loaded",
            remedy=f"import {module} before, in Python",
        )
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{what} '{name}' cannot be found: {error}",
            remedy="name an importable module and a function in it, as module:function",
        ) from error
    return found
