"""JSON from outside: nothing in it is silently dropped, and every fault is one typed error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from beit.errors import BeitError

_BETWEEN_ENTRIES = re.compile(r"[\s,]*")


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: The text is not JSON, is not UTF-8, is nested too deeply, or repeats a key in
            one object: JSON readers differ on which of the two counts. No other error is raised.
    """
    try:
        return json.loads(content, object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_list(content: str) -> list[tuple[int, Any]]:
    """The entries of a JSON list, each with the line where it begins, counted from 1.

    Raises:
        ValueError: It is no list, or `parse_json` does not read it. No other error is raised.
    """
    values = parse_json(content)
    if not isinstance(values, list):
        raise ValueError("it is no list")
    decoder, line, before, end = json.JSONDecoder(), 1, 0, content.index("[") + 1
    found = []
    for value in values:
        between = _BETWEEN_ENTRIES.match(content, end)
        assert between is not None
        line += content.count("\n", before, between.end())
        found.append((line, value))
        before = between.end()
        _, end = decoder.raw_decode(content, before)
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


def read_json(path: Path, error: type[BeitError], remedy: str) -> Any:
    """The value in a JSON file.

    Args:
        path: File to read.
        error: Type of the error to raise.
        remedy: What the user can do about it; part of the error.

    Raises:
        BeitError: Of type `error`: the file cannot be read or is not JSON.
    """
    return _parse(path, read_bytes(path, error, remedy), error, remedy)


def read_object(path: Path, error: type[BeitError], remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: File to read.
        error: Type of the error to raise.
        remedy: What the user can do about it; part of the error.

    Raises:
        BeitError: Of type `error`: the file cannot be read or holds no JSON object.
    """
    return parse_object(path, read_bytes(path, error, remedy), error, remedy)


def read_bytes(path: Path, error: type[BeitError], remedy: str) -> bytes:
    """The content of a file.

    Args:
        path: File to read.
        error: Type of the error to raise.
        remedy: What the user can do about it; part of the error.

    Raises:
        BeitError: Of type `error`: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror}", remedy=remedy) from cause


def parse_object(path: Path, data: bytes, error: type[BeitError], remedy: str) -> dict[str, Any]:
    """The object in the content of a JSON file.

    Args:
        path: The file, as the error names it.
        data: Its content.
        error: Type of the error to raise.
        remedy: What the user can do about it; part of the error.

    Raises:
        BeitError: Of type `error`: the content is not a JSON object.
    """
    values = _parse(path, data, error, remedy)
    if not isinstance(values, dict):
        raise error(f"{path} holds no JSON object", remedy=remedy)
    return values


def _parse(path: Path, data: bytes, error: type[BeitError], remedy: str) -> Any:
    try:
        return parse_json(data)
    except ValueError as cause:
        raise error(f"{path} is not JSON: {cause}", remedy=remedy) from cause


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines.

    Lines that are cut off or damaged, as by a process that died while writing, are skipped. A file
    that cannot be read has none.
    """
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError):
            row = parse_json(line)
            if isinstance(row, dict):
                yield row
