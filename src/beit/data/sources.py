"""Sources of images: each has a length and, for an index, the encoded bytes, a target and a key."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from beit.data.account import Account, Skipped, SkippedFiles
from beit.data.layout import WHOLE
from beit.data.listing import Names, natural_key
from beit.data.shard_cache import Shard, ShardCache
from beit.errors import EXHAUSTED, UnreadableError

CONTENT_BYTES = 64 * 2**20
CONTENT_FILES = 4096
"""Fingerprints of folders up to this size include all contents, those of larger ones a sample."""
CONTENT_SAMPLE = 256

Target = int | np.ndarray
"""A class id; or, for images that may have several labels, bool [C]."""


class Record(NamedTuple):
    """An encoded image, its target if there is one, its stable name, and the label of each pixel if
    it has a mask, uint8 [H,W]."""

    data: bytes
    target: Target | None
    key: str
    labels: np.ndarray | None = None


@runtime_checkable
class ImageSource(Protocol):
    """A fixed sequence of images. `targets` and `key` open no file."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by id; empty without labels."""

    @property
    def targets(self) -> np.ndarray | None:
        """Class ids, int64 [n]; for images that may have several labels, bool [n, C], where a row
        may be all false; None without labels."""

    account: Account
    """What the data were recognised as, and what was skipped there."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The stable name of an image."""

    def read(self, index: int) -> Record:
        """The encoded image. Raises UnreadableError if it cannot be read (any more)."""

    def size(self, index: int) -> int:
        """Bytes of the encoded image; -1 if it cannot be read (any more)."""

    def fingerprint(self) -> str:
        """32 hex digits that change with every added, removed, renamed, relabelled or resized file.

        Edits that keep a file's size change it if the contents are hashed: those of all files of a
        small folder, of a sample of a large one. Times do not count: a copy is the same data.
        """


class Shards(NamedTuple):
    """How the images of a source lie in shards, one shard after the other."""

    shards: Sequence[Shard]
    counts: np.ndarray
    """How many images of each shard the source has, int64 [shards]."""
    images: np.ndarray
    """How many images each shard has in all, int64 [shards]."""
    remote: bool
    """Whether some lie in object storage."""


@runtime_checkable
class Sharded(Protocol):
    """A source that may lie in shards."""

    def shards(self) -> Shards | None:
        """How they lie there; None if they do not, or not one shard after the other."""

    def shard_numbers(self, indices: np.ndarray) -> np.ndarray:
        """The index in `shards` of the shard of each image; both are int64 [n]."""

    def through(self, cache: ShardCache) -> ImageSource:
        """The same images, where remote ones are read from whole shards in the cache."""


def shards_of(source: ImageSource) -> Shards | None:
    """How the images lie in shards; None if they do not."""
    return source.shards() if isinstance(source, Sharded) else None


def target_at(targets: np.ndarray | None, index: int) -> Target | None:
    """The target of one image; None without labels."""
    if targets is None:
        return None
    target: np.ndarray = targets[index]
    return target if target.ndim else int(target)


def number_labels(
    labels: Sequence[str | Collection[str]], classes: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes, by default the labels in natural order, and the targets of images with these
    labels: int64 [n] if each image has one, bool [n, C] if it may have any number."""
    several = any(not isinstance(one, str) for one in labels)
    words = [(one,) if isinstance(one, str) else one for one in (labels if several else {*labels})]
    if not classes:
        classes = tuple(sorted({word for each in words for word in each}, key=natural_key))
    ids: dict[str | Collection[str], int] = {name: at for at, name in enumerate(classes)}
    if not several:
        return classes, np.fromiter(map(ids.__getitem__, labels), np.int64, len(labels))
    targets = np.zeros((len(labels), len(classes)), np.bool_)
    for row, each in enumerate(words):
        targets[row, [ids[word] for word in each]] = True
    return classes, targets


def is_multi_label(source: ImageSource) -> bool:
    """Whether each image of a source may have several labels."""
    return source.targets is not None and source.targets.ndim == 2


def class_counts(source: ImageSource) -> np.ndarray:
    """How many images each class has, int64 [C]; an image counts for each of its labels."""
    targets = source.targets
    assert targets is not None
    if targets.ndim == 2:
        return np.asarray(targets.sum(axis=0, dtype=np.int64))
    return np.bincount(targets, minlength=len(source.classes))


def keys_of(source: ImageSource) -> list[str]:
    """The names of all images."""
    return [source.key(index) for index in range(len(source))]


def images_per_class(source: ImageSource) -> dict[str, int]:
    """How many images each class has, by its name; empty without labels."""
    if source.targets is None:
        return {}
    return dict(zip(source.classes, class_counts(source).tolist(), strict=True))


def class_names_at(source: ImageSource, index: int) -> tuple[str, ...]:
    """The names of the classes of one image; empty without labels."""
    target = target_at(source.targets, index)
    if target is None:
        return ()
    ids = [target] if isinstance(target, int) else np.flatnonzero(target).tolist()
    return tuple(source.classes[number] for number in ids)


def account_for(
    source: ImageSource,
    data: str,
    layout: str,
    *,
    split: str = WHOLE,
    skipped: Sequence[Skipped] = (),
    notes: Sequence[str] = (),
) -> Account:
    """The account of one split.

    Args:
        source: Its images.
        data: Where they come from, as the user named it.
        layout: The recognised layout, in words.
        split: The name of the split.
        skipped: The files that are not used.
        notes: Further remarks.
    """
    return Account(
        data=data,
        layout=layout,
        images={split: len(source)},
        classes={split: images_per_class(source)},
        skipped=tuple(skipped),
        notes=tuple(notes),
    )


def account_of(
    data: str,
    parts: Mapping[str, ImageSource],
    accounts: Sequence[Account] = (),
    notes: Sequence[str] = (),
) -> Account:
    """One account of several splits of the same data, as they are used in the end.

    Args:
        data: Where they come from, as the user named it.
        parts: The splits.
        accounts: Those of the splits as they were read; by default the ones that `parts` have.
        notes: Further remarks.
    """
    accounts = accounts or [source.account for source in parts.values()]
    # Splits of one folder share what was skipped while it was listed.
    skipped = {id(one): one for account in accounts for one in account.skipped}
    shared = dict.fromkeys(note for account in accounts for note in account.notes)
    return Account(
        data=data,
        layout=accounts[0].layout,
        images={name: len(source) for name, source in parts.items()},
        classes={name: images_per_class(source) for name, source in parts.items()},
        skipped=SkippedFiles(skipped.values()).found(),
        notes=(*shared, *notes),
    )


def read_file(path: Path, most: int = -1) -> bytes:
    """A file's content, or its first `most` bytes. Raises UnreadableError if it cannot be read or
    has become a pipe, where reading might never end; OSError if no file can be opened at all."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    try:
        with open(path, "rb", opener=opener) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnreadableError("it is a pipe or a device")
            return file.read(most)
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        raise UnreadableError(error.strerror or str(error)) from error


class FileSource:
    """Images in files below a folder."""

    def __init__(
        self,
        root: str,
        paths: Sequence[str],
        *,
        targets: Sequence[int] | np.ndarray | None = None,  # see `ImageSource.targets`
        classes: tuple[str, ...] = (),
    ) -> None:
        self._root = root
        self._names = Names(map(os.fsencode, paths))
        self.targets = None if targets is None else np.asarray(targets)
        self.classes = classes
        self.account = account_for(self, root, "images in files")

    def relabelled(self, indices: Sequence[int], targets: np.ndarray, note: str) -> FileSource:
        """The source restricted to some files, with other targets of the same classes.

        Args:
            indices: Which files, in the new order.
            targets: Their targets.
            note: The reason, for the account.
        """
        paths = [os.fsdecode(self._names[index]) for index in indices]
        source = FileSource(self._root, paths, targets=targets, classes=self.classes)
        split = next(iter(self.account.images))
        source.account = account_of(self.account.data, {split: source}, [self.account], [note])
        return source

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return Path(self._root, os.fsdecode(self._names[index]))

    def key(self, index: int) -> str:
        """The path relative to the folder, with forward slashes; bytes that are not UTF-8 become
        unpaired surrogates."""
        return self._names[index].decode("utf-8", "surrogateescape")

    def read(self, index: int) -> Record:
        data = read_file(self.path(index))
        return Record(data, target_at(self.targets, index), self.key(index))

    def size(self, index: int) -> int:
        place = os.path.join(os.fsencode(self._root), self._names[index])  # noqa: PTH118 - for
        try:  # millions of files, Path objects would take as long as the disk
            return os.stat(place).st_size  # noqa: PTH116
        except OSError:
            return -1

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name in self.classes:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
        total = 0
        for index in range(len(self)):
            size = self.size(index)
            total += size
            digest.update(self._names[index] + b"\0%d\0%b\n" % (size, self._labels(index)))
        small = total <= CONTENT_BYTES and len(self) <= CONTENT_FILES
        for index in range(len(self)) if small else spread(len(self), CONTENT_SAMPLE):
            digest.update(self._beginning(index))
        return digest.hexdigest()

    def _labels(self, index: int) -> bytes:
        """The target of an image, as it is hashed for the fingerprint."""
        target = target_at(self.targets, index)
        if target is None:
            return b"-1"
        if isinstance(target, int):
            return b"%d" % target
        return b"+".join(b"%d" % number for number in np.flatnonzero(target).tolist())

    def _beginning(self, index: int) -> bytes:
        """The hash of a file's content, or of its first CONTENT_BYTES; of nothing if unreadable."""
        try:
            content = read_file(self.path(index), CONTENT_BYTES)
        except UnreadableError:
            content = b""
        return hashlib.blake2b(content, digest_size=16).digest()


class SelectedSource:
    """Some images of another source, in a given order; made by `select`."""

    def __init__(
        self,
        source: ImageSource,
        indices: np.ndarray,
        targets: np.ndarray | None,
        classes: tuple[str, ...],
    ) -> None:
        self._source = source
        self._indices = indices
        self._relabelled = targets is not None
        old = None if source.targets is None else source.targets[indices]
        self.targets = old if targets is None else targets
        self.classes = source.classes if targets is None else classes
        self.account = source.account

    def __len__(self) -> int:
        return len(self._indices)

    def key(self, index: int) -> str:
        return self._source.key(int(self._indices[index]))

    def read(self, index: int) -> Record:
        record = self._source.read(int(self._indices[index]))
        if not self._relabelled:
            return record
        return record._replace(target=target_at(self.targets, index))

    def size(self, index: int) -> int:
        return self._source.size(int(self._indices[index]))

    def shards(self) -> Shards | None:
        whole = shards_of(self._source)
        if whole is None:
            return None
        numbers = self.shard_numbers(np.arange(len(self)))
        if (np.diff(numbers) < 0).any():
            return None
        return whole._replace(counts=np.bincount(numbers, minlength=len(whole.counts)))

    def shard_numbers(self, indices: np.ndarray) -> np.ndarray:
        assert isinstance(self._source, Sharded)
        return self._source.shard_numbers(self._indices[indices])

    def through(self, cache: ShardCache) -> ImageSource:
        assert isinstance(self._source, Sharded)
        source = copy(self)
        source._source = self._source.through(cache)
        return source

    def fingerprint(self) -> str:
        digest = _changed(self._source.fingerprint(), self._indices.tobytes())
        if self._relabelled and self.targets is not None:
            classes = "\n".join(self.classes).encode("utf-8", "surrogateescape")
            digest = _changed(digest, classes + self.targets.tobytes())
        return digest


def _changed(fingerprint: str, change: bytes) -> str:
    return hashlib.blake2b(fingerprint.encode() + change, digest_size=16).hexdigest()


def select(
    source: ImageSource,
    indices: Sequence[int] | np.ndarray,
    *,
    targets: np.ndarray | None = None,
    classes: tuple[str, ...] = (),
) -> SelectedSource:
    """The source restricted to some images.

    Args:
        source: All images.
        indices: Which images, in the new order.
        targets: Other targets of these images, in the new order; by default they keep theirs.
        classes: The class names that belong to `targets`.
    """
    return SelectedSource(source, np.array(indices, dtype=np.int64), targets, classes)


def spread(length: int, count: int) -> list[int]:
    """At most `count` distinct indices, evenly spread from the first to the last."""
    return sorted({int(index) for index in np.linspace(0, length - 1, min(count, length))})


def evenly(source: ImageSource, limit: int) -> ImageSource:
    """At most `limit` images, spread evenly over the source."""
    return source if len(source) <= limit else select(source, spread(len(source), limit))
