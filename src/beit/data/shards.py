"""Images in tar shards, as WebDataset lays them out, read at any place without unpacking."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np

from beit.data.account import Account, SkippedFiles
from beit.data.layout import WHOLE
from beit.data.listing import short_hash
from beit.data.shard_cache import Shard, ShardCache
from beit.data.shard_index import ShardIndex, find_index, index_of
from beit.data.shard_manifest import Listed, PackedPart
from beit.data.sources import Record, Shards, account_for, number_labels, target_at
from beit.data.storage import is_remote, read_range
from beit.errors import EXHAUSTED, DataError, UnreadableError
from beit.terminal import counted, quoted

BLOCK = tarfile.BLOCKSIZE
OPENED_AT_A_TIME = 8
INDEXES = 32
"""Of packed shards, how many indexes a process holds at a time."""


class ShardSource:
    """The images of some shards, in the order of the shards and in theirs.

    An image is named as in its shard, below its part if there are parts, so that a folder and the
    shards it was packed into are the same data to a run. Names that come in several shards get the
    shard's name before them. Of shards that were packed with their manifest an index is read with
    the first image of its shard, and memory does not grow with the images.
    """

    def __init__(self, places: Sequence[str], part: str, packed: PackedPart | None) -> None:
        self.part, self._packed = part, packed
        self._prefix = os.fsencode(f"{part}/") if part else b""
        self._cache: ShardCache | None = None
        self._named_by_shard = False
        if packed is None:
            with ThreadPoolExecutor(OPENED_AT_A_TIME) as threads:
                self._opened = tuple(threads.map(find_index, places))
            sizes = [(index.shard_bytes, index.sha256) for index in self._opened]
            self._shards = tuple(
                Shard(place, *known) for place, known in zip(places, sizes, strict=True)
            )
            counts = [len(index.names) for index in self._opened]
        else:
            self._shards, counts = packed.shards, list(packed.images)
        self._ends = np.cumsum(np.array(counts, np.int64))
        if packed is None:
            self._name_apart(places)
        self._held: dict[int, ShardIndex] = {}
        self.account = self._account()

    def _name_apart(self, places: Sequence[str]) -> None:
        """Decide whether names need the shard's before them."""

        def differ() -> bool:
            named = (
                short_hash(self._full_name(number, name))
                for number, index in enumerate(self._opened)
                for name in index.names
            )
            hashes = np.fromiter(named, np.uint64)
            return len(np.unique(hashes)) == len(hashes)

        self._named_by_shard = not differ()
        if self._named_by_shard and not differ():
            raise DataError(
                f"{quoted(list(places))}: two images have the same name",
                remedy="name each shard once, and each image of a shard differently",
            )

    def _read_index(self, number: int) -> ShardIndex:
        if self._packed is None:
            return self._opened[number]
        return index_of(self._shards[number], self._cache)

    def _index(self, number: int) -> ShardIndex:
        """The index of a shard; of packed ones those used last are held."""
        found = self._held.pop(number, None) or self._read_index(number)
        self._held[number] = found
        if len(self._held) > INDEXES:
            self._held.pop(next(iter(self._held)), None)
        return found

    def _indexes(self) -> Iterator[ShardIndex]:
        """All, each read once more of packed shards: only one is held."""
        with ThreadPoolExecutor(OPENED_AT_A_TIME) as threads:
            for start in range(0, len(self._shards), OPENED_AT_A_TIME):
                numbers = range(start, min(start + OPENED_AT_A_TIME, len(self._shards)))
                yield from threads.map(self._read_index, numbers)

    @cached_property
    def _labels(self) -> tuple[tuple[str, ...], np.ndarray | None]:
        """Classes in natural order and the class of each image, if every image has one; or its
        labels, if any image has a list of them."""
        if self._packed is not None and not self._packed.classes:
            return (), None
        indexes = [(index.labels, index.label_names) for index in self._indexes()]
        if any((labels < 0).any() for labels, _ in indexes):
            return (), None
        classes, targets = number_labels([one for _, names in indexes for one in names])
        starts = np.cumsum([0, *(len(names) for _, names in indexes)]).tolist()
        ids = [labels + start for (labels, _), start in zip(indexes, starts, strict=False)]
        return classes, targets[np.concatenate(ids)]

    @property
    def classes(self) -> tuple[str, ...]:
        return self._labels[0] if self._packed is None else self._packed.classes

    @property
    def targets(self) -> np.ndarray | None:
        return self._labels[1]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _find(self, index: int) -> tuple[int, int]:
        """The shard of an image, and its place there."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        number = int(np.searchsorted(self._ends, index, "right"))
        return number, index - (int(self._ends[number - 1]) if number else 0)

    def _full_name(self, number: int, name: bytes) -> bytes:
        if self._named_by_shard:
            name = os.fsencode(f"{PurePosixPath(self._shards[number].place).stem}/") + name
        return self._prefix + name

    def key(self, index: int) -> str:
        """The name in the shard; bytes that are not UTF-8 are kept, as unpaired surrogates. Where
        not even the index can be read, the shard and the place in it."""
        number, row = self._find(index)
        try:
            name = self._full_name(number, self._index(number).names[row])
        except (OSError, tarfile.TarError):
            return f"{self._shards[number].place}: image {row}"
        return name.decode("utf-8", "surrogateescape")

    def read(self, index: int) -> Record:
        number, row = self._find(index)
        shard = self._shards[number]
        try:
            found = self._index(number)
            name, size, offset = found.names[row], int(found.sizes[row]), int(found.offsets[row])
            if self._cache is not None and is_remote(shard.place):
                data = self._cache.read(shard, offset - BLOCK, BLOCK + size)
            else:
                data = read_range(shard.place, offset - BLOCK, BLOCK + size)
            _check_header(data[:BLOCK], name, size)
        except (OSError, tarfile.TarError) as error:
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
            raise UnreadableError(f"{shard.place}: {error}") from error
        return Record(data[BLOCK:], target_at(self.targets, index), self.key(index))

    def size(self, index: int) -> int:
        number, row = self._find(index)
        return int(self._index(number).sizes[row])

    def shards(self) -> Shards:
        counts = np.diff(self._ends, prepend=0)
        remote = any(is_remote(shard.place) for shard in self._shards)
        return Shards(self._shards, counts, counts, remote)

    def shard_numbers(self, indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._ends, indices, "right")

    def through(self, cache: ShardCache) -> ShardSource:
        source = copy(self)
        source._cache = cache
        source._held = {}
        return source

    def fingerprint(self) -> str:
        if self._packed is not None:
            return self._packed.fingerprint
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(self.classes).encode() + self._prefix)
        for index in self._opened:
            digest.update(index.names.block.tobytes())
        length = 0
        for index in self._opened:
            digest.update((index.names.ends + length).tobytes())
            length += len(index.names.block)
        for index in self._opened:
            digest.update(index.sizes.tobytes())
        if self.targets is not None:
            digest.update(self.targets.tobytes())
        return digest.hexdigest()

    def packed(self) -> PackedPart:
        """What a manifest says of these shards."""
        counts = tuple(len(index.names) for index in self._opened)
        return PackedPart(self._shards, counts, self.fingerprint(), self.classes)

    def _account(self) -> Account:
        places = [shard.place for shard in self._shards]
        opened = () if self._packed is not None else self._opened
        skipped = SkippedFiles(one for index in opened for one in index.skipped)
        labelled = any(index.label_names for index in opened)
        unlabelled = sum(int((index.labels < 0).sum()) for index in opened)
        note = f"{counted(unlabelled, 'image')} without a label, so that none is used"
        return account_for(
            self,
            places[0] if len(places) == 1 else str(PurePosixPath(places[0]).parent),
            "tar shards in the layout of WebDataset"
            + (", with a label for each image" if self.classes else ""),
            split=self.part,
            skipped=skipped.found(),
            notes=(note,) if unlabelled and labelled else (),
        )


def _check_header(header: bytes, name: bytes, size: int) -> None:
    """The index may be older than the shard: what is there must be what is expected."""
    found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    short = len(name) <= tarfile.LENGTH_NAME and name.isascii()
    if found.size != size or (short and os.fsencode(found.name) != name):
        raise tarfile.ReadError("the shard has changed since its index was made")


def open_shards(listed: Listed, part: str = WHOLE) -> ShardSource:
    """The images of these shards, which are a part of the data.

    Those without an index are walked through, eight at a time, and their index is kept.
    Errors: DataError if one cannot be read or none has an image.
    """
    source = ShardSource(listed.places, part, listed.packed)
    if len(source) == 0:
        met = "; ".join(f"{one.kind} ({one.count}: {one.reason})" for one in source.account.skipped)
        raise DataError(
            f"no images in {len(listed.places)} shards: {quoted(list(listed.places))}"
            + (f"; they hold {met}" if met else ""),
            remedy="an image is recognised by what follows the first dot of its name, such as "
            ".jpg; `beit data pack` names the images of a folder so",
        )
    return source
