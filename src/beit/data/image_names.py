"""From a name in a label file to the one image that it names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from beit.data.listing import find_images, quoted
from beit.data.tables import as_text, cell_lines
from beit.errors import DataError
from beit.terminal import printable


class ImageNames:
    """Looks names up in a folder, relative to it.

    A name is an image if a file lies there as written; with backslashes also as with slashes.
    Otherwise it is looked for among the images below the folder: those whose path ends with the
    name, which may lack the extension. One that lies exactly there comes before those that lie
    deeper. The search reads the folder's tree once, and only if it is needed.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._folder = Path(folder)
        self._absolute = self._folder.absolute()
        self._below: dict[str, list[str]] | None = None

    def as_written(self, name: str) -> str | None:
        """The path of a file that lies where its name says; None if none does."""
        read = as_text(name)
        slashed = (name.replace("\\", "/"), read.replace("\\", "/"))
        for text in dict.fromkeys((name, read, *slashed)):
            try:
                if text and os.path.isfile(self._folder / text):  # noqa: PTH113 - as in listing
                    return self._relative(text)
            except ValueError:  # what no name can hold
                return None
        return None

    def _relative(self, name: str) -> str:
        path = PurePath(name)
        if path.is_absolute() and path.is_relative_to(self._absolute):
            return str(path.relative_to(self._absolute))
        return str(PurePosixPath(name))  # without ./ and //

    def find(self, name: str) -> list[str]:
        """The images that a name may mean: one, none, or several where it is ambiguous."""
        there = self.as_written(name)
        if there is not None:
            return [there]
        wanted = _alike(str(PurePosixPath(as_text(name).replace("\\", "/"))))
        last = wanted.rpartition("/")[2]
        if not last or last in (".", "..") or wanted.startswith("/"):
            return []
        found = [
            path
            for path in self._index().get(last, ())
            if f"/{_alike(path)}".endswith(f"/{wanted}")
            or f"/{_without_extension(_alike(path))}".endswith(f"/{wanted}")
        ]
        here = [
            path for path in found if wanted in (_alike(path), _without_extension(_alike(path)))
        ]
        return here or found

    def names_image(self, name: str) -> bool:
        """Whether at least one image may be meant."""
        return bool(self.find(name))

    def _index(self) -> dict[str, list[str]]:
        """Images below the folder by their last name, with and without extension."""
        if self._below is None:
            self._below = {}
            for path in find_images(str(self._folder)).paths:
                last = _alike(path).rpartition("/")[2]
                for name in dict.fromkeys((last, _without_extension(last))):
                    self._below.setdefault(name, []).append(path)
        return self._below


def _alike(path: str) -> str:
    """Composed letters: é as one code point, which macOS writes as two."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def _without_extension(path: str) -> str:
    stem, dot, extension = path.rpartition(".")
    return stem if dot and "/" not in extension and not stem.endswith("/") else path


class FoundImages(NamedTuple):
    """What the names of a column mean."""

    images: list[str]
    """One for every cell."""
    note: str
    """What was decided; may be empty."""


def find_named_images(
    path: str, lines: Sequence[int], cells: Sequence[str], names: ImageNames
) -> FoundImages:
    """The image of every cell of a column.

    Where no name is found, the first folders that all names share are taken off, if all images lie
    there without them.

    Args:
        path: The label file, for messages.
        lines: Where the cells stand in it.
        cells: Names of images.
        names: The folder they are looked up in.

    Returns:
        One image per cell.

    Raises:
        DataError: If a name means no image, or more than one.
    """
    found = [names.find(cell) for cell in cells]
    note = ""
    if not any(found):
        shared = _elsewhere(cells, names)
        if shared:
            found = [names.find(_below(cell, shared)) for cell in cells]
            note = f"names are read without '{printable(shared)}/', which is not here"
    missing = [(line, cell or "an empty cell")
               for line, cell, images in zip(lines, cells, found, strict=True)
               if not images]  # fmt: skip
    several = [(line, f"{cell}: {quoted(images)}")
               for line, cell, images in zip(lines, cells, found, strict=True)
               if len(images) > 1]  # fmt: skip
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(cells)} images in {path} do not exist: "
            + cell_lines(missing),
            remedy=_where_to_look(missing[0][1], names),
        )
    if several:
        raise DataError(
            f"{len(several)} names in {path} may be more than one image: {cell_lines(several)}",
            remedy="name the folder of the images with --image-folder, or write their extension",
        )
    return FoundImages([images[0] for images in found], note)


def _elsewhere(cells: Sequence[str], names: ImageNames) -> str:
    """The folders of another machine that all names begin with, where all are found without them;
    empty without any."""
    parts = [PurePosixPath(cell.replace("\\", "/")).parts[:-1] for cell in cells]
    folder = PurePosixPath()
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        folder /= level[0]
        # Where exactly they say below it: a search would take cat/1.jpg for dog/1.jpg.
        if all(names.as_written(_below(cell, str(folder))) for cell in cells):
            return str(folder)
    return ""


def _below(cell: str, folder: str) -> str:
    return str(PurePosixPath(cell.replace("\\", "/")).relative_to(folder))


def _where_to_look(name: str, names: ImageNames) -> str:
    if "://" in name:
        return "addresses are not read: download the images"
    alike = names.find(str(PurePosixPath(name).with_suffix(""))) if name.strip("./") else []
    there = f"{quoted(alike)} is there; " if alike else ""
    return (
        f"{there}write paths relative to {names.folder}, or absolute ones, or name the folder that "
        "they count from with --image-folder; or remove these lines"
    )
