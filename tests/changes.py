"""Every way in which one value of a JSON document may be wrong."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

Path = tuple[str | int, ...]

DEEP: Any = json.loads("[" * 400 + "]" * 400)
WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 7, 10**9, 10**18, 2**63, 10**400,
    0.5, -0.5, 1e300, math.nan, math.inf,
    "", "9", "\x1b[31m\ud800\u202e[/b]\n\x00", "x" * 100_000, "os:path", "type",
    [], [None], [0, -1],
    [1.5] * 5, [[1], [2]], list(range(2000)), {}, {"type": "VisionTransformerConfig"},
    {"kind": [], "type": {}}, DEEP,
)  # fmt: skip
MISSING = object()
LONG = 2.0


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every node and leaf of a document, the document itself first."""
    yield path
    inner = value if isinstance(value, dict) else {}
    if isinstance(value, list):
        inner = dict(enumerate(value))
    for key, entry in inner.items():
        yield from places(entry, (*path, key))


def changed(document: Any, path: Path, value: Any) -> Any:
    """A copy with another value at a place, or without it."""
    if not path:
        return value
    result = copy.deepcopy(document)
    around = result
    for key in path[:-1]:
        around = around[key]
    if value is MISSING:
        del around[path[-1]]
    else:
        around[path[-1]] = value
    return result


def changes(document: Any, below: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Where, to what, and the whole document with that one change, at a place or below it."""
    for path in places(document):
        if path[: len(below)] != below:
            continue
        values: list[Any] = [*WRONG] + ([MISSING] if path else [])
        current = document
        for key in path:
            current = current[key]
        if isinstance(current, list) and current:
            values += [current[:-1], current + current, current[::-1], current[:1] * len(current)]
        if isinstance(current, dict):
            values += [{**current, "surplus": 1}, {**current, "type": "Novel"}]
        if isinstance(current, int | float) and not isinstance(current, bool):
            values += [current + 1, current * 2, -current, str(current)]
        for value in values:
            yield path, value, changed(document, path, value)


def takes_long(work: Callable[[], object]) -> bool:
    """Whether it needs more than `LONG` seconds of the processor each of three times.

    What a value makes slow always does; a machine that other work shares is slow now and then.
    """

    def seconds() -> float:
        start = time.process_time()
        with suppress(Exception):  # refusing may be slow, too
            work()
        return time.process_time() - start

    return all(seconds() > LONG for _ in range(3))
