"""Which images a folder holds; opened are files of unknown kinds only."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from beit.data.account import SkippedFiles
from beit.data.file_types import (
    HEAD_BYTES,
    IMAGE_EXTENSIONS,
    file_to_skip,
    folder_to_skip,
    known_by_head,
    known_by_name,
)
from beit.errors import DataError
from beit.terminal import printable

JSON_LINES = (".jsonl", ".ndjson")
LIST_EXTENSIONS = (".txt", ".csv", ".tsv", ".lst", *JSON_LINES)
FEW = 3

_DIGITS = re.compile("[0-9]+")


class Found(NamedTuple):
    """Images below a folder, relative to it with forward slashes, in natural order."""

    paths: list[str]
    skipped: SkippedFiles
    """What was skipped, and why."""
    counts: dict[str, int]
    """Images directly in each folder, by its path; the root is ``. Empty folders count, too."""


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


def quoted(names: Sequence[str], limit: int = FEW) -> str:
    """The first few names for a message, and how many more there are."""
    shown = ", ".join(f"'{printable(name)}'" for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def cell_lines(rows: Sequence[tuple[int, str]], limit: int = FEW) -> str:
    """Lines with what stands there, for a message: "line 4 ('p03.jpg') and 2 more"."""
    shown = [f"line {line} ({quoted([text])})" if text else f"line {line}" for line, text in rows]
    more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
    return ", ".join(shown[:limit]) + more


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
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


def reason_to_skip(path: str) -> str:
    """Why the file at this path is no image that is read; empty if it is one.

    By its extension, and only where that is unknown by its first bytes.
    """
    extension = os.path.splitext(path)[1].lower()  # noqa: PTH122 - millions of paths
    if extension == ".gz" and path[-7:].lower() == ".nii.gz":
        extension = ".nii"  # as nearly all NIfTI volumes are stored
    reason = known_by_name(extension)
    if reason is not None:
        return reason
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return known_by_head(file.read(HEAD_BYTES))
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _is_named_as_image(name: str) -> bool:
    return name[name.rfind(".") :].lower() in IMAGE_EXTENSIONS and not name.startswith(".")


def find_images(root: str) -> Found:
    """Every image below a folder: by extension in any case, where that is unknown by content.

    Hidden files, thumbnails and what belongs to a system are skipped. Links to folders are followed
    after all real folders are known, and no folder is read twice, so that loops end and an image
    keeps its real name. Pipes and devices are never images.
    Errors: DataError for a folder that cannot be listed.
    """
    found = Found([], SkippedFiles(), {})
    seen: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        relative = folders.pop() if folders else links.pop(0)
        folder = os.path.join(root, relative)  # noqa: PTH118 - of millions, none an object
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            found.skipped.add("a link to a folder that is read already", f"{relative}/")
            continue
        seen.add((status.st_dev, status.st_ino))
        before, linked = len(found.paths), list[str]()
        for entry in _entries(folder):
            name = f"{relative}/{entry.name}" if relative else entry.name
            if _is_named_as_image(entry.name) and _is(entry, "file"):
                reason = ""  # nearly always, and without another system call
            elif _is(entry, "folder"):
                reason = folder_to_skip(entry.name)
                if not reason:
                    (linked if entry.is_symlink() else folders).append(name)
                    continue
                name += "/"
            elif _is(entry, "file"):
                reason = file_to_skip(entry.name) or reason_to_skip(entry.path)
            else:
                reason = "a broken link, a pipe or a device"
            if reason:
                found.skipped.add(reason, name)
            else:
                found.paths.append(name)
        found.counts[relative] = len(found.paths) - before
        links += sorted(linked)
    found.paths.sort(key=natural_key)
    return found


def no_images(path: str, files: SkippedFiles) -> DataError:
    """The error for a folder without an image: it is empty, or holds other files."""
    skipped = files.found()
    if not skipped:
        return DataError(
            f"the folder {path} holds no files", remedy="name a folder that contains images"
        )
    met = ", ".join(f"{one.kind} ({one.count}: {one.reason})" for one in skipped[:8])
    return DataError(
        f"no images in {path}; it holds files with {met}",
        remedy="follow the reasons; images are recognised by their extension or content: "
        + ", ".join(sorted(IMAGE_EXTENSIONS)),
    )
