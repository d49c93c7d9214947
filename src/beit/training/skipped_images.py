"""Images of which a run has something to say: each once, in a file of the run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from beit.batch import Unreadable
from beit.errors import DataError
from beit.training.run_folder import RunFolder
from beit.training.run_logger import whole_rows

FIRST_TAKEN = "animated, or with several pages: the first image was taken"
NAMED = 5
"""So many unreadable images are named in the log; a folder of broken ones must not fill it."""


class Noted:
    """Keys of images, each with a reason; those of the run before it went on among them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.known: dict[str, str] = {}
        self.look()

    def __len__(self) -> int:
        return len(self.known)

    def look(self) -> None:
        """Learn what the file holds: several processes write to it."""
        if self.file.exists():
            self.known |= {
                str(row["key"]): str(row.get("reason", ""))
                for row in whole_rows(self.file)
                if "key" in row
            }

    def note(self, found: Mapping[str, str]) -> list[str]:
        """Write down the ones not noted before; returns their keys."""
        new = [key for key in found if key not in self.known]
        if new:
            with self.file.open("a") as file:
                for key in new:
                    self.known[key] = found[key]
                    file.write(json.dumps({"key": key, "reason": found[key]}) + "\n")
        return new


def allowed_unreadable(limit: float, images: int) -> int:
    """How many images may be unreadable, of `limit` as a share: one at least, unless it is 0."""
    return max(1, math.floor(limit * images)) if limit else 0


class SkippedImages:
    """The images that cannot be read, limited by a setting, and those that are the first of
    several in their file. The log names the first ones, the files of the run all."""

    def __init__(
        self, folder: RunFolder, say: Callable[[str], None], *, images: int, limit: float
    ) -> None:
        self.unreadable = Noted(folder.unreadable)
        self.several = Noted(folder.several)
        self._say = say
        self._images, self._allowed = images, allowed_unreadable(limit, images)
        # Only what is met since this start counts against the limit: what was met before a run went
        # on may be mended by now.
        self._met: dict[str, str] = {}

    def add(self, unreadable: Iterable[Unreadable], several: Iterable[str]) -> None:
        """Note the ones not seen before.

        Raises DataError once more are unreadable than the limit allows.
        """
        self._add_several(several)
        found = {entry.key: entry.reason for entry in unreadable}
        if not found:
            return
        before = len(self.unreadable)
        for number, key in enumerate(self.unreadable.note(found), start=before + 1):
            if number <= NAMED:
                self._say(f"{key} cannot be read and is left out: {found[key]}")
            elif number == NAMED + 1:
                self._say(f"more images cannot be read; {self.unreadable.file} names all")
        self._met |= found
        if len(self._met) > self._allowed:
            raise self._too_many()

    def _add_several(self, keys: Iterable[str]) -> None:
        before, new = len(self.several), self.several.note(dict.fromkeys(keys, FIRST_TAKEN))
        if new and not before:
            self._say(f"{new[0]} is {FIRST_TAKEN}; {self.several.file} names all such files")

    def _too_many(self) -> DataError:
        first = "; ".join(f"{key}: {why}" for key, why in list(self._met.items())[:3])
        return DataError(
            f"{len(self._met)} of {self._images} images cannot be read, --bad-limit allows "
            f"{self._allowed}: {first}",
            remedy="`beit data check` on the same data names all of them; repair or remove them or "
            "raise --bad-limit, and go on with --resume (for changed images also with "
            "--accept-changed-data)",
        )

    def counts(self) -> dict[str, float]:
        """How many there are of each kind that there is."""
        counted = {"unreadable": self.unreadable, "several": self.several}
        return {name: float(len(noted)) for name, noted in counted.items() if len(noted)}

    def sum_up(self) -> None:
        """Say at the end how many were left out."""
        self.unreadable.look()
        if number := len(self.unreadable):
            self._say(
                f"images that could not be read and were left out: {number}; "
                f"{self.unreadable.file} names them"
            )
