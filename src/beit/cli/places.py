"""Report a path with nothing at it before seconds are spent on loading the code that reads it.

Only what can be nothing but a path on this machine is checked here. Addresses, hub ids, patterns
and names of functions are left to the code that reads them, and so is a name without a folder,
which may be that of a released file.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from functools import partial

from beit.atomic_io import from_home
from beit.errors import no_images_at, no_model_at

PARAMETERS = ("artifact", "artifacts", "model", "source", "tokenizers")
"""Parameters of verbs that name models; `serve` takes NAME=MODEL."""
OPTIONS = ("artifact", "init", "tokenizer", "data")
"""Options of configs that name models or images."""
ELSEWHERE = ("timm/",)
PATTERN = frozenset("{}*?[]:,")


def check_places(bound: partial[None]) -> None:
    """Raise CheckpointError or DataError for a path that a call of a verb would not find."""
    values = inspect.signature(bound.func).bind(*bound.args, **bound.keywords).arguments
    for name, value in values.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            check_options({name: getattr(value, name, "") for name in OPTIONS})
        elif name in PARAMETERS:
            _check_models(*_texts(value))
        elif name in ("data", "images"):
            _check_images(*_texts(value))


def check_options(values: Mapping[str, object]) -> None:
    """Do the same for options, given by name."""
    for name, value in values.items():
        (_check_images if name == "data" else _check_models)(*_texts(value))


def _check_models(*places: str) -> None:
    for place in places:
        if not (_is_there(place) or _is_there(place.partition("=")[2] or place)):
            raise no_model_at(place)


def _check_images(*places: str) -> None:
    """Raise only if all are missing: verbs process those that are there."""
    if places and not any(_is_there(place, bare=True) for place in places):
        raise no_images_at(places[0])


def _texts(value: object) -> Sequence[str]:
    found = [value] if isinstance(value, str) else value if isinstance(value, tuple) else ()
    return [each for each in found if isinstance(each, str) and each]


def _is_there(place: str, *, bare: bool = False) -> bool:
    """Whether something is there, or may be there as far as can be told here."""
    if PATTERN.intersection(place) or place.startswith(ELSEWHERE):
        return True
    if not bare and "/" not in place:
        return True
    try:
        return from_home(place).exists()
    except OSError:  # a name that is too long
        return True
