"""Images that a run skips or uses in part: each is named once, in a file of the run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from beit.batch import Batch, SkipLog
from beit.errors import DataError
from beit.training.run_folder import RunFolder, read_reasons

FIRST_TAKEN = "animated, or with several pages: the first image was taken"
NAMED = 5
"""How many unreadable images the log names; a folder of broken ones must not fill it."""


class ImageList:
    """Keys of images, each with a reason; including those from before the run was resumed."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._known = read_reasons(file)

    def __len__(self) -> int:
        return len(self._known)

    def reload(self) -> None:
        """Read the file again, as several processes write to it."""
        self._known |= read_reasons(self.file)

    def add(self, found: Mapping[str, str]) -> list[str]:
        """Write down those that are new; returns their keys."""
        new = [key for key in found if key not in self._known]
        if new:
            with self.file.open("a") as file:
                for key in new:
                    self._known[key] = found[key]
                    file.write(json.dumps({"key": key, "reason": found[key]}) + "\n")
        return new


def allowed_unreadable(limit: float, images: int) -> int:
    """How many images may be unreadable, by `limit` as a fraction: at least one, unless it is 0."""
    return max(1, math.floor(limit * images)) if limit else 0


class SkippedImages:
    """The images that cannot be read, limited by a setting, and those that are the first of several
    in their file. The log names the first few, the files of the run name all."""

    def __init__(
        self, folder: RunFolder, log: Callable[[str], None], *, images: int, limit: float
    ) -> None:
        self.unreadable = ImageList(folder.unreadable)
        self.several = ImageList(folder.several)
        self._log = log
        self._images, self._allowed = images, allowed_unreadable(limit, images)
        # Only images met since this start count against the limit: those met before the run was
        # resumed may have been repaired.
        self._met: dict[str, str] = {}

    def add(self, said: Batch | SkipLog) -> None:
        """Log and write down those that are new.

        Raises:
            DataError: More images are unreadable than the limit allows.
        """
        first = not self.several
        new = self.several.add(dict.fromkeys(said.multi_frame, FIRST_TAKEN))
        if new and first:
            self._log(f"{new[0]} is {FIRST_TAKEN}; {self.several.file} names all such files")
        found = {entry.key: entry.reason for entry in said.unreadable}
        before = len(self.unreadable)
        for number, key in enumerate(self.unreadable.add(found), start=before + 1):
            if number <= NAMED:
                self._log(f"{key} cannot be read and is skipped: {found[key]}")
            elif number == NAMED + 1:
                self._log(f"more images cannot be read; {self.unreadable.file} names all")
        self._met |= found
        if len(self._met) > self._allowed:
            listed = "; ".join(f"{key}: {why}" for key, why in list(self._met.items())[:3])
            raise DataError(
                f"{len(self._met)} of {self._images} images cannot be read, --bad-limit allows "
                f"{self._allowed}: {listed}",
                remedy="`beit data check` on the same data names all of them; repair or remove "
                "them or raise --bad-limit, and continue with --resume (for changed images also "
                "with --accept-changed-data)",
            )

    def counts(self) -> dict[str, float]:
        """How many there are of each kind; a kind without any is left out."""
        counted = {"unreadable": self.unreadable, "several": self.several}
        return {name: float(len(images)) for name, images in counted.items() if images}

    def sum_up(self) -> None:
        """Log how many were skipped in the whole run."""
        self.unreadable.reload()
        if number := len(self.unreadable):
            self._log(
                f"images that could not be read and were skipped: {number}; "
                f"{self.unreadable.file} names them"
            )
