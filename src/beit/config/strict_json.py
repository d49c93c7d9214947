"""JSON from outside, of which nothing is silently dropped."""

from __future__ import annotations

import json
from typing import Any


def parse_json(content: bytes | str) -> Any:
    """The value that a JSON text holds.

    Raises ValueError, and nothing else, for what is not JSON, is not UTF-8, is nested too deeply to
    be read, or names a key twice in one object: JSON readers differ on which of the two counts.
    """
    try:
        return json.loads(content, object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found
