"""From a name in a label file to the one image that it names."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePath, PurePosixPath

from beit.data.listing import find_pictures
from beit.data.tables import as_text


class ImageNames:
    """Looks names up in a folder, relative to it.

    A name is an image if a file lies there as written; with backslashes also as with slashes.
    Otherwise it is looked for among the images below the folder: those whose path ends with the
    name, which may lack the extension. One that lies exactly there comes before those that lie
    deeper. The search reads the folder's tree once, and only if it is needed.
    """

    def __init__(self, folder: str) -> None:
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
            for path in find_pictures(str(self._folder)).paths:
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
