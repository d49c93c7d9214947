"""JSON objects from disk, or one typed error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beit.errors import BeitError


def read_object(path: Path, error: type[BeitError], remedy: str) -> dict[str, Any]:
    """The object in a file. Raises `error` if the file cannot be read or holds none."""
    return parse_object(path, read_bytes(path, error, remedy), error, remedy)


def read_bytes(path: Path, error: type[BeitError], remedy: str) -> bytes:
    """The content of a file. Raises `error` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror}", remedy=remedy) from cause


def parse_object(path: Path, data: bytes, error: type[BeitError], remedy: str) -> dict[str, Any]:
    """The object in the content of a file. Raises `error` if it holds none."""
    try:
        values: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise error(f"{path} is not JSON: {cause}", remedy=remedy) from cause
    if not isinstance(values, dict):
        raise error(f"{path} holds no JSON object", remedy=remedy)
    return values
