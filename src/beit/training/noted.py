"""Pictures of which a run has something to say: each once, in a file of the run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from beit.batch import Unreadable
from beit.errors import DataError
from beit.training.journal import whole_rows
from beit.training.run_folder import RunFolder

FIRST_TAKEN = "animated, or with several pages: the first picture was taken"


class Noted:
    """Keys of pictures, each with a reason; those of the run before it went on among them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.known: dict[str, str] = {}
        if file.exists():
            self.known = {row["key"]: row["reason"] for row in whole_rows(file)}

    def __len__(self) -> int:
        return len(self.known)

    def note(self, found: Mapping[str, str]) -> list[str]:
        """Write down the ones not noted before; returns their keys."""
        new = [key for key in found if key not in self.known]
        if new:
            with self.file.open("a") as file:
                for key in new:
                    self.known[key] = found[key]
                    file.write(json.dumps({"key": key, "reason": found[key]}) + "\n")
        return new


class UnreadablePictures(Noted):
    """Pictures that could not be read, limited by a setting."""

    def __init__(self, folder: RunFolder, *, pictures: int, limit: float) -> None:
        super().__init__(folder.unreadable)
        self._allowed = max(1, math.floor(limit * pictures)) if limit else 0
        self._pictures = pictures

    def add(self, found: Iterable[Unreadable]) -> None:
        """Note the ones not seen before.

        Raises DataError once there are more than the limit allows.
        """
        if self.note({entry.key: entry.reason for entry in found}) and len(self) > self._allowed:
            first = "; ".join(f"{key}: {why}" for key, why in list(self.known.items())[:3])
            raise DataError(
                f"{len(self)} of {self._pictures} pictures cannot be read ({first})",
                remedy=f"see {self.file}; repair or remove them, or raise --bad-limit",
            )


class FirstOfSeveral(Noted):
    """Pictures that are the first of several in their file; the log names the first of them."""

    def __init__(self, folder: RunFolder, say: Callable[[str], None]) -> None:
        super().__init__(folder.several)
        self._say = say

    def add(self, keys: Iterable[str]) -> None:
        """Note the ones not seen before."""
        before, new = len(self), self.note(dict.fromkeys(keys, FIRST_TAKEN))
        if new and not before:
            self._say(f"{new[0]} is {FIRST_TAKEN}; {self.file} names all such files")
