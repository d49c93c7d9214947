"""The entries of a configuration of others, each of the type that it has to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from beit.errors import CheckpointError

LARGEST = 1 << 24


@dataclass(frozen=True)
class Entries:
    """A JSON object from elsewhere. What is absent or null is None, or what is stated for that.

    Raises CheckpointError for values of another type or out of every range.
    """

    file: Path
    content: dict[str, Any]

    def refuse(self, problem: str, remedy: str) -> NoReturn:
        raise CheckpointError(f"{self.file} {problem}", remedy=remedy)

    def has(self, name: str) -> bool:
        return self.content.get(name) is not None

    def integer(self, name: str) -> int | None:
        value = self.content.get(name)
        if value is not None and (type(value) is not int or not 0 <= value <= LARGEST):
            self._wrong(name, "a whole number")
        return value if value is None else int(value)

    def number(self, name: str) -> float | None:
        value = self.content.get(name)
        return None if value is None else self._number(name, value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.content.get(name)
        if value is not None and not isinstance(value, bool):
            self._wrong(name, "true or false")
        return default if value is None else bool(value)

    def text(self, name: str) -> str:
        value = self.content.get(name)
        if value is not None and not isinstance(value, str):
            self._wrong(name, "a text")
        return value or ""

    def numbers(self, name: str) -> tuple[float, ...] | None:
        value = self.content.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not value or len(value) > LARGEST:
            self._wrong(name, "a list of numbers")
        return tuple(self._number(name, each) for each in value)

    def integers(self, name: str) -> tuple[int, ...] | None:
        value = self.content.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or any(type(each) is not int for each in value):
            self._wrong(name, "a list of whole numbers")
        return tuple(value)

    def texts(self, name: str) -> tuple[str, ...] | None:
        value = self.content.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or any(not isinstance(each, str) for each in value):
            self._wrong(name, "a list of texts")
        return tuple(value)

    def table(self, name: str) -> Entries | None:
        value = self.content.get(name)
        if value is not None and not isinstance(value, dict):
            self._wrong(name, "an object")
        return None if value is None else Entries(self.file, value)

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(name, "a number")
        if not abs(value) < LARGEST or not math.isfinite(value):
            self._wrong(name, "a number of a plausible size")
        return float(value)

    def _wrong(self, name: str, kind: str) -> NoReturn:
        self.refuse(f"says {name} = {self.content[name]!r:.80}, which is not {kind}", "correct it")
