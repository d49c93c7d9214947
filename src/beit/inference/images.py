"""The images that a finished model is run on: those of several places, as one sequence."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from beit.config.bulk import BulkConfig
from beit.config.data import AS_RECOGNISED
from beit.data.account import Account
from beit.data.dataset import Dataset, form_of, open_source
from beit.data.folders import open_every_image
from beit.data.layout import WHOLE
from beit.data.listing import LIST_EXTENSIONS
from beit.data.sources import FileSource, ImageSource, Record, account_of
from beit.errors import ConfigError, DataError, UnreadableError

CONTAINERS = (*LIST_EXTENSIONS, ".tar", ".parquet")
"""Endings of files that list or contain images instead of being one."""


class Place(NamedTuple):
    """The images of one place that was named; if it cannot be opened, it counts as one image."""

    name: str
    source: ImageSource | None
    folder: str = ""
    """Prefix of the names of its images."""
    alone: bool = False
    """Whether it is a single image, with the name of the place."""
    problem: str = ""
    """Why it cannot be opened."""

    def __len__(self) -> int:
        return 1 if self.source is None else len(self.source)

    def key(self, index: int) -> str:
        """The name of an image."""
        if self.source is None or self.alone:
            return self.name
        key = self.source.key(index)
        return str(Path(self.folder, key)) if self.folder else key


class Places:
    """The images of several places one after the other, as one source without labels."""

    classes: tuple[str, ...] = ()
    targets = None

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(places)
        self._ends = list(accumulate(map(len, places)))
        self.account = Account(
            data=", ".join(one.name for one in places),
            layout="images one after the other",
            images={WHOLE: len(self)},
            classes={WHOLE: {}},
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, index: int) -> tuple[Place, int]:
        at = bisect_right(self._ends, index)
        return self._places[at], index - (self._ends[at - 1] if at else 0)

    def key(self, index: int) -> str:
        place, inner = self._find(index)
        return place.key(inner)

    def name_below(self, index: int) -> str:
        """The name of an image below the folder that was named."""
        place, inner = self._find(index)
        if place.source is None or place.alone:
            return Path(place.name).name
        return place.source.key(inner)

    def read(self, index: int) -> Record:
        place, inner = self._find(index)
        if place.source is None:
            raise UnreadableError(place.problem)
        return place.source.read(inner)

    def size(self, index: int) -> int:
        place, inner = self._find(index)
        return -1 if place.source is None else place.source.size(inner)

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for place in self._places:
            named = place.name if place.alone else place.folder
            found = place.problem if place.source is None else place.source.fingerprint()
            digest.update(f"{len(place)} {named}\n{found}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def open_images(images: Sequence[str], config: BulkConfig) -> Places:
    """The images that were named one by one, or those of `config.data`.

    A named place that cannot be opened counts as one unreadable image; the others are still read.

    Raises:
        ConfigError: Images were given in both ways or in neither, or a name is empty.
        DataError: `config.data` has no images.
    """
    if bool(images) == bool(config.data):
        problem = (
            "images were given one by one and with --data" if images else "no images were given"
        )
        raise ConfigError(problem, remedy="name files or folders, or else --data DATA")
    if "" in images:
        raise ConfigError(
            "an empty name was given for an image", remedy="is a variable of the shell not set?"
        )
    return Places([_named(path) for path in images] if images else _data(config))


def _named(path: str) -> Place:
    """Every image below a folder, those of a list or a data set, or one file of any name."""
    place = Path(path)
    try:
        if form_of(path) == "folder":
            return Place(path, _below(path), folder=path)
        if place.is_file() and place.suffix.lower() not in CONTAINERS:
            return Place(path, FileSource(str(place.parent), [place.name]), alone=True)
        return Place(path, open_source(path))
    except DataError as error:
        return Place(path, None, problem=error.problem)


def _below(path: str) -> FileSource:
    source = open_every_image(path)
    source.account.log()
    return source


def _data(config: BulkConfig) -> list[Place]:
    """The images of data in any form; of a folder every one, whatever its subfolders mean."""
    if form_of(config.data) == "folder" and not config.split and config.reading == AS_RECOGNISED:
        return [Place(config.data, _below(config.data))]
    data = Dataset(config.data, config.reading)
    if config.split:
        part = data.part(config.split)
        part.source.account.log()
        return [Place(part.name, part.source)]
    parts = data.parts()
    account_of(config.data, parts).log()
    return [Place(name, source) for name, source in parts.items()]
