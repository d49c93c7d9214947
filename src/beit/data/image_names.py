"""From a name in a label file to the one image that it names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath

from beit.data.label_studio import names_before
from beit.data.listing import find_images
from beit.errors import DataError
from beit.terminal import counted, first_few, quoted


def as_text(cell: str) -> str:
    """The text of a cell; bytes that are not UTF-8 are read as Windows-1252, else as Latin-1."""
    if cell.isascii():
        return cell
    try:
        cell.encode()
    except UnicodeEncodeError:
        data = cell.encode("utf-8", "surrogateescape")
        try:
            return data.decode("cp1252")
        except UnicodeDecodeError:
            return data.decode("latin-1")
    return cell


def cell_lines(rows: Sequence[tuple[int, str]]) -> str:
    """Lines with their cells, for a message: "line 4 ('p03.jpg') and 2 more"."""
    return first_few(
        [f"line {line} ({quoted([text])})" if text else f"line {line}" for line, text in rows]
    )


def composed(text: str) -> str:
    """The text with composed characters (NFC): é as one code point, which macOS writes as two."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _stem(path: str) -> str:
    stem, dot, extension = path.rpartition(".")
    return stem if dot and "/" not in extension and not stem.endswith("/") else path


class ImageNames:
    """Looks up the names of images, relative to a folder.

    A name means the file at exactly that path, if there is one; backslashes are also tried as
    slashes. Otherwise it means the images below the folder whose path ends with the name, with or
    without extension. An image at exactly that path comes before deeper ones, and the case of
    letters is ignored only if no image matches it. The folder's tree is listed once, and only if
    it must be searched; not at all if the images to search are given as `among`.
    """

    def __init__(self, folder: str, among: Sequence[str] | None = None) -> None:
        self.folder, self._among = folder, among
        self._below: dict[str, list[str]] | None = None

    def as_written(self, name: str) -> str | None:
        """The path of the file that lies exactly where a name says; None if there is none."""
        read = as_text(name)
        for text in dict.fromkeys((name, read, _slashed(name), _slashed(read))):
            try:
                # Strings: to make a Path object for each of a million rows is as slow as the disk.
                if text and os.path.isfile(os.path.join(self.folder, text)):  # noqa: PTH113, PTH118
                    return self._relative(text)
            except ValueError:  # characters that no file name can hold
                return None
        return None

    def _relative(self, name: str) -> str:
        if os.path.isabs(name):  # noqa: PTH117
            path, folder = PurePath(name), Path(self.folder).absolute()
            return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
        return "/".join(part for part in name.split("/") if part not in ("", "."))

    def find(self, name: str) -> list[str]:
        """The images that a name may mean: one, none, or several where it is ambiguous."""
        there = self.as_written(name)
        if there is not None:
            return [there]
        searched = composed(str(PurePosixPath(_slashed(as_text(name))))).lstrip("/")
        last = searched.rpartition("/")[2]
        if not last or last in (".", ".."):
            return []
        paths = self._index().get(last.casefold(), ())
        return _named(searched, paths, str) or _named(searched, paths, str.casefold)

    def padded(self, number: str) -> str:
        """The first name of an image that is this number with leading zeros; empty if none is."""
        named = (one for one in self._index() if one.isdecimal() and int(one) == int(number))
        return next(named, "")

    def _index(self) -> dict[str, list[str]]:
        """Images below the folder by file name in lower case, with and without extension."""
        if self._below is None:
            self._below = {}
            every = find_images(self.folder).paths if self._among is None else self._among
            for path in every:
                last = composed(path).rpartition("/")[2].casefold()
                for name in {last, _stem(last)}:
                    self._below.setdefault(name, []).append(path)
        return self._below


def _named(name: str, paths: Iterable[str], spelled: Callable[[str], str]) -> list[str]:
    """The images at exactly the path that a name says, else those whose path ends with it."""
    found: list[str] = []
    exact: list[str] = []
    searched = spelled(name)
    for path in paths:
        whole = spelled(composed(path))
        spellings = (whole, _stem(whole))
        if any(f"/{one}".endswith(f"/{searched}") for one in spellings):
            found.append(path)
        if searched in spellings:
            exact.append(path)
    return exact or found


def find_named_images(
    path: str,
    lines: Sequence[int],
    cells: Sequence[str],
    names: ImageNames,
    *,
    option: str = "--image-folder",
) -> tuple[list[str], tuple[str, ...]]:
    """The image that each cell of a label file's column names, and notes on how names were read.

    If no name is found, the leading folders that all names share are removed, if all images are
    found without them, or else what Label Studio puts before names.

    Args:
        path: The label file, for messages.
        lines: The line of each cell in that file, for messages.
        cells: The names of the images.
        names: Looks them up.
        option: The option for the folder that names are relative to, for messages; empty if there
            is none.

    Raises:
        DataError: If a name means no image, or more than one.
    """
    found = [names.find(cell) for cell in cells]
    notes: tuple[str, ...] = ()
    if not any(found) and (shared := _elsewhere(cells, names)):
        found = [names.find(_below(cell, shared)) for cell in cells]
        notes = (f"names are read without '{shared}/', which is not here",)
    for before in () if any(found) else zip(*map(names_before, cells), strict=False):
        if all(each := [names.find(name) for name in before]):
            found = each
            notes = (f"names are read without what Label Studio added: '{before[0]}', ...",)
            break
    rows = list(zip(lines, cells, found, strict=True))
    missing = [(line, cell or "an empty cell") for line, cell, images in rows if not images]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(cells)} images in {path} do not exist: "
            + cell_lines(missing),
            remedy=_where_to_look(missing[0][1], names, option),
        )
    several = [(line, f"{cell}: {quoted(images)}") for line, cell, images in rows if images[1:]]
    if several:
        raise DataError(
            f"{counted(len(several), 'name')} in {path} may be more than one image: "
            + cell_lines(several),
            remedy=f"name the folder of the images with {option}, or " * bool(option)
            + "write the folders and extensions into the names",
        )
    return [images[0] for images in found], notes


def _elsewhere(cells: Sequence[str], names: ImageNames) -> str:
    """The leading folders, as of another machine, that all names share and without which all images
    are found; empty if there are none."""
    folder = PurePosixPath()
    for level in zip(*(PurePosixPath(_slashed(cell)).parts[:-1] for cell in cells), strict=False):
        if len(set(level)) > 1:
            break
        folder /= level[0]
        # Only at exactly the path that is left: a search would take cat/1.jpg for dog/1.jpg.
        if all(names.as_written(_below(cell, str(folder))) for cell in cells):
            return str(folder)
    return ""


def _below(cell: str, folder: str) -> str:
    return str(PurePosixPath(_slashed(cell)).relative_to(folder))


def _where_to_look(name: str, names: ImageNames, option: str) -> str:
    if "://" in name:
        return "addresses are not read: download the images"
    if Path(names.folder, name).is_dir() and name.strip("./"):
        return (
            f"'{name}' is a folder: write a line for each image in it, or give the folders as the "
            "data and say with --class-level which are the classes"
        )
    alike = names.find(str(PurePosixPath(name).with_suffix(""))) if name.strip("./") else []
    there = f"{quoted(alike)} is there; " if alike else ""
    if name.isdecimal() and (zeros := names.padded(name)):
        there = f"'{zeros}' is there, and the list lacks its zeros, as Excel writes it; "
    named = f", or name the folder that they count from with {option}" * bool(option)
    return (
        f"{there}write paths relative to {names.folder}, or absolute ones{named}; or remove these "
        "lines"
    )
