"""Lists the images of a folder in natural order, and holds millions of names in little memory.

Only files of unknown kinds are opened.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from beit.data.account import SkippedFiles
from beit.data.file_types import (
    HEAD_BYTES,
    IMAGE_EXTENSIONS,
    file_to_skip,
    folder_to_skip,
    known_by_head,
    known_by_name,
)
from beit.errors import EXHAUSTED, DataError

JSON_LINES = (".jsonl", ".ndjson")
JSON_LIST = ".json"
LIST_EXTENSIONS = (".txt", ".csv", ".tsv", ".lst", *JSON_LINES, JSON_LIST)

_DIGITS = re.compile("[0-9]+")


class Found(NamedTuple):
    """Images below a folder, relative to it with forward slashes, in natural order."""

    paths: list[str]
    skipped: SkippedFiles
    """What was skipped, and why."""
    counts: dict[str, int]
    """Number of images directly in each folder, by its path, which is empty for the root; folders
    without images are listed, too."""


def natural_key(path: str) -> str:
    """Sort key of a path: part by part, numbers by value ("2" before "10"), on every system alike.

    It is a string, because a million of them are sorted at once. The end of a part comes before a
    number, and a number before any letter; a number is preceded by its length, and followed by how
    many zeros it began with.
    """
    return _DIGITS.sub(_number_key, path.replace("/", "\1"))


def _number_key(found: re.Match[str]) -> str:
    digits = found[0].lstrip("0")
    zeros = min(len(found[0]) - len(digits), 255)
    # "01" comes before "1", but "0" before "00", as strings do.
    return f"\2{chr(min(len(digits), 255))}{digits}{chr(255 - zeros if digits else zeros)}"


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        raise DataError(
            f"the folder {folder} cannot be listed: {error.strerror}",
            remedy="make it readable, or move it away",
        ) from error


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    """Whether an entry is a "folder" or, for any other kind, a file. Links are followed; those that
    dangle or lead to themselves are neither."""
    try:
        return entry.is_dir() if kind == "folder" else entry.is_file()
    except OSError:
        return False


def reason_to_skip(path: str) -> str:
    """Why the file at this path is not read as an image; empty if it is.

    The extension decides; only if it is unknown, the first bytes do.
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
        if error.errno in EXHAUSTED:
            raise
        return f"unreadable: {error.strerror}"


def _is_named_as_image(name: str) -> bool:
    return name[name.rfind(".") :].lower() in IMAGE_EXTENSIONS and not name.startswith(".")


def find_images(root: str) -> Found:
    """Every image below a folder, by its extension in any case or, if that is unknown, its content.

    Hidden files, thumbnails and system files are skipped. Links to folders are followed after all
    real folders have been read, and no folder is read twice, so that loops end and an image keeps
    its real name. Pipes and devices are never images.

    Raises DataError if a folder cannot be listed.
    """
    found = Found([], SkippedFiles(), {})
    seen: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        relative = folders.pop() if folders else links.pop(0)
        folder = os.path.join(root, relative)  # noqa: PTH118 - no objects for millions of paths
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            found.skipped.add("a link to a folder that is read already", f"{relative}/")
            continue
        seen.add((status.st_dev, status.st_ino))
        before, linked = len(found.paths), list[str]()
        for entry in _entries(folder):
            name = f"{relative}/{entry.name}" if relative else entry.name
            if _is_named_as_image(entry.name) and _is(entry, "file"):
                reason = ""  # the usual case, decided without another system call
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
    """The error for a folder without images, which is empty or holds other files."""
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


class Names:
    """Byte strings in one block of memory, with the position where each ends.

    Worker processes share the block; a list of objects would be copied page by page as it is read.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        block, ends = bytearray(), array("q")
        for name in names:
            block += name
            ends.append(len(block))
        self.block = np.frombuffer(bytes(block), np.uint8)
        self.ends = np.array(ends, dtype=np.int64)

    @classmethod
    def joined(cls, block: np.ndarray, ends: np.ndarray) -> Names:
        """The names in the `block`, uint8 [bytes], with the `ends`, int64 [n], of another one."""
        names = cls(())
        names.block, names.ends = block, ends
        return names

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        start = int(self.ends[index - 1]) if index else 0
        return self.block[start : int(self.ends[index])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))


def short_hash(name: bytes) -> int:
    """A hash of 64 bits, the same on every machine. The probability that any two of a billion names
    collide is 1 in 37."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
