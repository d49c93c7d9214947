"""Where pictures come from: a length, and for an index the encoded bytes, a target and a key."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from beit.config.data import FolderConfig
from beit.data.account import Account, images_per_class
from beit.data.decode import decode
from beit.data.file_types import IMAGE_EXTENSIONS
from beit.data.layout import WHOLE
from beit.data.listing import LIST_EXTENSIONS, natural_key, quoted, read_list, reason_to_skip
from beit.data.names import Names
from beit.data.values import UnreadableError
from beit.errors import DataError

VALIDATION_FOLDERS = ("val", "valid", "validation")
PROBES = 8
CONTENT_BYTES = 64 * 2**20
CONTENT_FILES = 4096
"""Folders up to this size are known by their contents; of larger ones a sample of files is."""
CONTENT_SAMPLE = 256


class Record(NamedTuple):
    """An encoded picture, its class id if it has one, its stable name, and its labels if it is
    segmented, uint8 [H,W]."""

    data: bytes
    target: int | None
    key: str
    labels: np.ndarray | None = None


@runtime_checkable
class ImageSource(Protocol):
    """A fixed sequence of pictures. `targets` and `key` open no file."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by id; empty without labels."""

    @property
    def targets(self) -> np.ndarray | None:
        """Class ids, int64 [n], or None without labels."""

    account: Account
    """What was understood of the place the images come from, and what was skipped there."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The stable name of a picture."""

    def read(self, index: int) -> Record:
        """The encoded picture. Errors: UnreadableError if it cannot be had (any more)."""

    def size(self, index: int) -> int:
        """Bytes of the encoded picture; -1 if it cannot be had (any more)."""

    def fingerprint(self) -> str:
        """Changes with every added, removed, renamed, relabelled or resized file; 32 hex digits.

        Edits that keep the size change it where the contents are looked at: all of a small folder,
        a sample of a large one. Times do not count, so that a copy of the data is the same data.
        """


def _read_file(path: Path, most: int = -1) -> bytes:
    """A file's content, or the most of it that is asked for.

    What became a pipe after it was listed would be waited for without end.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnreadableError("it is a pipe or a device")
        return file.read(most)


class FileSource:
    """Pictures in files below a folder."""

    def __init__(
        self,
        root: str,
        paths: Sequence[str],
        *,
        targets: Sequence[int] | np.ndarray | None = None,
        classes: tuple[str, ...] = (),
        account: Account | None = None,
    ) -> None:
        self._root = root
        self._names = Names(map(os.fsencode, paths))
        self.targets = None if targets is None else np.array(targets, dtype=np.int64)
        self.classes = classes
        self.account = account or Account(
            data=root,
            layout="images in files",
            images={WHOLE: len(self)},
            classes={WHOLE: images_per_class(classes, self.targets)},
        )

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        """Where the picture lies."""
        return Path(self._root, os.fsdecode(self._names[index]))

    def key(self, index: int) -> str:
        """The path relative to the folder, with forward slashes; foreign bytes escaped."""
        return self._names[index].decode("utf-8", "backslashreplace")

    def read(self, index: int) -> Record:
        try:
            data = _read_file(self.path(index))
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from error
        target = None if self.targets is None else int(self.targets[index])
        return Record(data, target, self.key(index))

    def size(self, index: int) -> int:
        place = os.path.join(os.fsencode(self._root), self._names[index])  # noqa: PTH118 - as in
        try:  # `find_pictures`: of millions, each an object would take as long as the disk
            return os.stat(place).st_size  # noqa: PTH116
        except OSError:
            return -1

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name in self.classes:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
        total = 0
        for index in range(len(self)):
            target = -1 if self.targets is None else self.targets[index]
            size = self.size(index)
            total += size
            digest.update(self._names[index] + b"\0%d\0%d\n" % (size, target))
        small = total <= CONTENT_BYTES and len(self) <= CONTENT_FILES
        for index in range(len(self)) if small else spread(len(self), CONTENT_SAMPLE):
            digest.update(self._beginning(index))
        return digest.hexdigest()

    def _beginning(self, index: int) -> bytes:
        """Of the content, hashed; as much as the contents of a folder may have together."""
        try:
            content = _read_file(self.path(index), CONTENT_BYTES)
        except (OSError, UnreadableError):
            content = b""
        return hashlib.blake2b(content, digest_size=16).digest()


class SelectedSource:
    """Some pictures of another source, in the order of the indices; made by `select`."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        self._source = source
        self._indices = indices
        self.classes = source.classes
        self.targets = None if source.targets is None else source.targets[indices]
        self.account = source.account

    def __len__(self) -> int:
        return len(self._indices)

    def key(self, index: int) -> str:
        return self._source.key(int(self._indices[index]))

    def read(self, index: int) -> Record:
        return self._source.read(int(self._indices[index]))

    def size(self, index: int) -> int:
        return self._source.size(int(self._indices[index]))

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(self._source.fingerprint().encode(), digest_size=16)
        digest.update(self._indices.tobytes())
        return digest.hexdigest()


def select(source: ImageSource, indices: Sequence[int] | np.ndarray) -> SelectedSource:
    """The source restricted to some indices; class names and ids stay as they are."""
    return SelectedSource(source, np.array(indices, dtype=np.int64))


def must_exist(path: str) -> None:
    """DataError unless something lies at the path."""
    if not Path(path).exists():
        raise DataError(
            f"there is nothing at {path}",
            remedy="check the path: a folder of pictures, a list file or one picture",
        )


def split_folder(path: str, names: tuple[str, ...]) -> str | None:
    """The first of the named folders that the folder has."""
    return next((name for name in names if Path(path, name).is_dir()), None)


def source_from_list(path: str) -> FileSource:
    """The pictures of a list file, in its order; with labels, classes are in natural order."""
    paths, labels = read_list(path)
    folder = Path(path).parent
    paths = [
        os.path.relpath(name, folder)
        if PurePath(name).is_absolute() and PurePath(name).is_relative_to(folder.absolute())
        else name
        for name in paths
    ]
    if labels is None:
        return FileSource(str(folder), paths)
    classes = tuple(sorted(set(labels), key=natural_key))
    ids = {name: index for index, name in enumerate(classes)}
    targets = [ids[label] for label in labels]
    return FileSource(str(folder), paths, targets=targets, classes=classes)


def open_source(path: str, folders: FolderConfig | None = None) -> ImageSource:
    """Images to learn from without labels: a folder, a list (.txt, .csv, .tsv), one image, tar
    shards or a Hugging Face dataset (see `beit.data.parts.open_stored`).

    Folders are searched to every depth. Of data in splits only the one for training is read, of
    images beside masks the images, and `account` says so. Folders count as classes, which training
    without labels may use to score itself, where they can be read in one way only.
    Errors: DataError if nothing is there, no image is found, or the layout has two readings.
    """
    from beit.data.folders import Folders  # they are sources, too
    from beit.data.parts import open_stored, part_to_learn_from

    stored = open_stored(path)
    if stored:
        return part_to_learn_from(path, stored)
    must_exist(path)
    place = Path(path)
    if place.is_dir():
        found = Folders(path, folders or FolderConfig())
        return found.source(found.training())
    if place.suffix.lower() in LIST_EXTENSIONS:
        return source_from_list(path)
    reason = reason_to_skip(path)
    if not reason:
        return FileSource(str(place.parent), [place.name])
    raise DataError(
        f"{path} is neither a folder nor a list file nor a picture: {reason}",
        remedy="give a folder, a list ("
        + ", ".join(LIST_EXTENSIONS)
        + "), shards (.tar), Parquet, or an image: "
        + ", ".join(sorted(IMAGE_EXTENSIONS)),
    )


def spread(length: int, count: int) -> list[int]:
    """Up to `count` different indices from first to last, evenly spread."""
    return sorted({int(index) for index in np.linspace(0, length - 1, min(count, length))})


def evenly(source: ImageSource, limit: int) -> ImageSource:
    """At most `limit` pictures, spread evenly over the source."""
    return source if len(source) <= limit else select(source, spread(len(source), limit))


def check_readable(source: ImageSource, channels: int = 3) -> None:
    """DataError, with the reasons, if none of a few pictures spread over the source can be read."""
    reasons: list[str] = []
    indices = spread(len(source), PROBES)
    for index in indices:
        try:
            decode(source.read(index).data, channels=channels)
        except UnreadableError as error:
            reasons.append(f"{source.key(index)} ({error.reason})")
        else:
            return
    raise DataError(
        f"none of {len(indices)} pictures tried can be read: " + quoted(reasons),
        remedy="check that these files are pictures with the right number of channels",
    )
