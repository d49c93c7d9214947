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
    """A cell whose bytes were not UTF-8 as Windows-1252, else Latin-1, has them: é, ü, ñ."""
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
    """Lines with what stands there, for a message: "line 4 ('p03.jpg') and 2 more"."""
    return first_few(
        [f"line {line} ({quoted([text])})" if text else f"line {line}" for line, text in rows]
    )


def composed(text: str) -> str:
    """é as one code point, which macOS writes as two."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _stem(path: str) -> str:
    stem, dot, extension = path.rpartition(".")
    return stem if dot and "/" not in extension and not stem.endswith("/") else path


class ImageNames:
    """Looks names up in a folder, relative to it.

    A name is an image if a file lies there as written; with backslashes also as with slashes.
    Otherwise it is looked for among the images below the folder: those whose path ends with the
    name, which may lack the extension. One that lies exactly there comes before those that lie
    deeper; names in another case are taken where there is no other. The search reads the folder's
    tree once, and only if it is needed; or it is `among` some images below the folder.
    """

    def __init__(self, folder: str, among: Sequence[str] | None = None) -> None:
        self.folder, self._among = folder, among
        self._below: dict[str, list[str]] | None = None

    def as_written(self, name: str) -> str | None:
        """The path of a file that lies where its name says; None if none does."""
        read = as_text(name)
        for text in dict.fromkeys((name, read, _slashed(name), _slashed(read))):
            try:
                # Strings, not paths: of a million rows each object would take as long as the disk.
                if text and os.path.isfile(os.path.join(self.folder, text)):  # noqa: PTH113, PTH118
                    return self._relative(text)
            except ValueError:  # what no name can hold
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
        """The first image that is called by a number with zeros before it; empty if none is."""
        named = (one for one in self._index() if one.isdecimal() and int(one) == int(number))
        return next(named, "")

    def _index(self) -> dict[str, list[str]]:
        """Images below the folder by their last name in lower case, with and without extension."""
        if self._below is None:
            self._below = {}
            every = find_images(self.folder).paths if self._among is None else self._among
            for path in every:
                last = composed(path).rpartition("/")[2].casefold()
                for name in {last, _stem(last)}:
                    self._below.setdefault(name, []).append(path)
        return self._below


def _named(name: str, paths: Iterable[str], spelled: Callable[[str], str]) -> list[str]:
    """Of some images those that lie exactly where a name says, else those whose path ends so."""
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
    """The image of every cell of a column of the label file at `path`, and a note on how the names
    were read. `lines` are where the cells stand, for messages, as is the `option` that says from
    which folder names count; empty where there is none.

    Where no name is found, the first folders that all names share are taken off, if all images lie
    there without them, or what Label Studio puts before them. Errors: DataError if a name means no
    image, or more than one.
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
    """The folders of another machine that all names begin with, where all are found without them;
    empty without any."""
    folder = PurePosixPath()
    for level in zip(*(PurePosixPath(_slashed(cell)).parts[:-1] for cell in cells), strict=False):
        if len(set(level)) > 1:
            break
        folder /= level[0]
        # Where exactly they say below it: a search would take cat/1.jpg for dog/1.jpg.
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
