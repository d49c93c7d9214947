"""The models of a server by name. What requests name is looked up here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from beit.errors import ConfigError
from beit.serve.http_errors import MODEL_NEEDED, NO_SUCH_MODEL, WRONG_MODEL, Refused

NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)
Described = list[dict[str, Any]]
"""Name, kind, version, abilities, classes and size of each model, as clients are told."""


def read_names(references: Sequence[str]) -> dict[str, str]:
    """NAME=ARTIFACT to artifacts by name; a single one may go without a name, and is `model`.

    Errors: ConfigError.
    """
    if not references:
        raise ConfigError("no artifact was given", remedy="beit serve runs/classifier")
    if len(references) == 1 and NAME.fullmatch(references[0]) is None:
        return {"model": references[0]}
    found: dict[str, str] = {}
    for reference in references:
        parts = NAME.fullmatch(reference)
        if parts is None:
            raise ConfigError(
                f"'{reference}' has no name, and several artifacts are served",
                remedy="write NAME=ARTIFACT; names have letters, digits, '.', '_' and '-'",
            )
        if parts[1] in found:
            raise ConfigError(f"two artifacts are called '{parts[1]}'", remedy="rename one")
        found[parts[1]] = parts[2]
    return found


def find_model(described: Described, ability: str, name: str | None) -> dict[str, Any]:
    """The model that does this. Raises Refused if none does, or several and no name."""
    named = [model for model in described if name is None or model["name"] == name]
    if name is not None and not named:
        raise Refused(NO_SUCH_MODEL)
    able = [model for model in named if ability in model["abilities"]]
    if not able:
        raise Refused(WRONG_MODEL)
    if len(able) > 1:
        raise Refused(MODEL_NEEDED)
    return able[0]
