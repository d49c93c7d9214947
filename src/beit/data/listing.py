"""Which pictures a folder holds; none of them is opened."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import NamedTuple

from beit.errors import DataError

PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LIST_EXTENSIONS = (".txt", ".csv", ".tsv", ".lst", ".jsonl")
FEW = 3

_DIGITS = re.compile("[0-9]+")


class Found(NamedTuple):
    """Pictures below a folder, relative to it with forward slashes, in natural order."""

    paths: list[str]
    folders: list[str]
    """Folders directly below, hidden ones left out."""
    others: Counter[str]
    """Extensions of the files that are no pictures, with their numbers."""


def natural_key(path: str) -> str:
    """Sorts part by part, numbers by value ("2" before "10"), the same on every system.

    A text, because a million of them are sorted at once: the end of a part comes before a number,
    and that before any letter. A number has its length before it, and behind it with how many zeros
    it began.
    """
    return _DIGITS.sub(_number_key, path.replace("/", "\1"))


def _number_key(found: re.Match[str]) -> str:
    digits = found[0].lstrip("0")
    zeros = min(len(found[0]) - len(digits), 255)
    # "01" comes before "1", but "0" before "00", as texts do.
    return f"\2{chr(min(len(digits), 255))}{digits}{chr(255 - zeros if digits else zeros)}"


def quoted(names: list[str], limit: int = FEW) -> str:
    """The first few names for a message, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be listed: {error.strerror}",
            remedy="make it readable, or move it away",
        ) from error


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    """Follows links; dangling ones and those that lead to themselves are nothing."""
    try:
        return entry.is_dir() if kind == "folder" else entry.is_file()
    except OSError:
        return False


def find_pictures(root: str) -> Found:
    """Every picture below a folder, by extension in any case; hidden files are ignored.

    Links to folders are followed after all real folders are known, and no folder is read twice, so
    that loops end and a picture keeps its real name. Pipes and devices are never pictures.
    Errors: DataError for a folder that cannot be listed.
    """
    paths: list[str] = []
    others: Counter[str] = Counter()
    folders: list[str] = [""]
    links: list[str] = []
    seen: set[tuple[int, int]] = set()
    while folders or links:
        relative = folders.pop() if folders else links.pop(0)
        folder = os.path.join(root, relative)  # noqa: PTH118 - millions of paths, none an object
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        linked: list[str] = []
        for entry in _entries(folder):
            name = f"{relative}/{entry.name}" if relative else entry.name
            if _is(entry, "folder"):
                (linked if entry.is_symlink() else folders).append(name)
            elif _is(entry, "file"):
                extension = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
                if extension in PICTURE_EXTENSIONS:
                    paths.append(name)
                else:
                    others[extension or "no extension"] += 1
        links += sorted(linked)
    paths.sort(key=natural_key)
    top = [entry.name for entry in _entries(root) if _is(entry, "folder")]
    return Found(paths, sorted(top, key=natural_key), others)


def no_pictures(path: str, others: Counter[str]) -> DataError:
    """What to say of a folder without a picture: it is empty, or what it has instead."""
    if not others:
        return DataError(
            f"the folder {path} holds no files", remedy="name a folder that contains pictures"
        )
    met = ", ".join(f"{extension} ({number})" for extension, number in others.most_common(8))
    return DataError(
        f"no pictures in {path}; it holds files with {met}",
        remedy="pictures are told by their extension: " + ", ".join(PICTURE_EXTENSIONS),
    )
