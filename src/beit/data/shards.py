"""Images in tar shards in the layout of WebDataset: finds the shards, and reads their images."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from beit.data.account import Account, SkippedFiles
from beit.data.folder_names import ROLES, split_name, split_named_by
from beit.data.layout import WHOLE
from beit.data.listing import find_images, natural_key, short_hash
from beit.data.shard_cache import Shard, ShardCache
from beit.data.shard_index import ShardIndex, find_index, index_of
from beit.data.sources import Record, Shards, account_for, number_labels, target_at
from beit.data.storage import expand, is_remote, read_all, read_range
from beit.errors import EXHAUSTED, BeitError, DataError, UnreadableError, of_another_format
from beit.json_object import parse_json
from beit.terminal import counted, quoted

MANIFEST = "shards.json"
UNFINISHED = "packing.json"
FORMAT = 1
BLOCK = tarfile.BLOCKSIZE
OPENED_AT_A_TIME = 8
INDEXES = 32
"""How many indexes of packed shards a process holds at a time."""


class PackedPart(NamedTuple):
    """What a manifest says of one part, so that shards are opened only to read their images."""

    shards: tuple[Shard, ...]
    images: tuple[int, ...]
    """How many images each shard has."""
    fingerprint: str
    """As `ImageSource.fingerprint`."""
    classes: tuple[str, ...]
    """Empty without labels."""


Listed = Sequence[str] | PackedPart
"""The shards of one part: where they lie, or what a manifest says of them."""


class ShardSource:
    """The images of some shards, shard by shard, in their order there.

    The key of an image is its name in the shard, after the name of its part if there are parts, so
    that a folder and the shards into which it was packed are the same data to a run. If shards have
    names in common, the name of the shard precedes each. The index of a shard with a manifest is
    read with its first image, so that memory does not grow with the number of images.
    """

    def __init__(self, listed: Listed, part: str) -> None:
        self.part = part
        self._prefix = os.fsencode(f"{part}/") if part else b""
        self._cache: ShardCache | None = None
        self._packed = listed if isinstance(listed, PackedPart) else None
        self._opened: tuple[ShardIndex, ...] = ()
        """The indexes of shards without a manifest."""
        if isinstance(listed, PackedPart):
            self._shards, counts = listed.shards, listed.images
        else:
            with ThreadPoolExecutor(OPENED_AT_A_TIME) as threads:
                self._opened = tuple(threads.map(find_index, listed))
            self._shards = tuple(
                Shard(place, index.shard_bytes, index.sha256)
                for place, index in zip(listed, self._opened, strict=True)
            )
            counts = tuple(len(index.names) for index in self._opened)
        self._ends = np.cumsum(np.array(counts, np.int64))
        self._name_apart()
        self._held: dict[int, ShardIndex] = {}
        self.account = self._account()

    def _name_apart(self) -> None:
        """Decide whether the name of its shard must precede that of an image."""

        def differ() -> bool:
            named = (
                short_hash(self._full_name(number, name))
                for number, index in enumerate(self._opened)
                for name in index.names
            )
            hashes = np.fromiter(named, np.uint64)
            return len(np.unique(hashes)) == len(hashes)

        self._named_by_shard = False
        self._named_by_shard = not differ()
        if self._named_by_shard and not differ():
            raise DataError(
                f"{quoted(self.places)}: two images have the same name",
                remedy="name each shard once, and each image of a shard differently",
            )

    @property
    def places(self) -> list[str]:
        """Where the shards lie."""
        return [shard.place for shard in self._shards]

    def _read_index(self, number: int) -> ShardIndex:
        if self._packed is None:
            return self._opened[number]
        return index_of(self._shards[number], self._cache)

    def _index(self, number: int) -> ShardIndex:
        """The index of a shard; of packed shards, those used last are held."""
        found = self._held.pop(number, None) or self._read_index(number)
        self._held[number] = found
        if len(self._held) > INDEXES:
            self._held.pop(next(iter(self._held)), None)
        return found

    def _indexes(self) -> Iterator[ShardIndex]:
        """The indexes of all shards; those of packed shards are read anew and not held."""
        with ThreadPoolExecutor(OPENED_AT_A_TIME) as threads:
            for start in range(0, len(self._shards), OPENED_AT_A_TIME):
                numbers = range(start, min(start + OPENED_AT_A_TIME, len(self._shards)))
                yield from threads.map(self._read_index, numbers)

    @cached_property
    def _labels(self) -> tuple[tuple[str, ...], np.ndarray | None]:
        """The classes in natural order, and the class of each image or, if any image has a list of
        labels, those of each. Neither if an image has no label."""
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
        """The name of an image; bytes that are not UTF-8 become unpaired surrogates. If the index
        cannot be read, the shard and the place in it."""
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

    def described(self) -> dict[str, Any]:
        """What a manifest says of these shards besides their names."""
        return {
            "fingerprint": self.fingerprint(),
            "classes": self.classes,
            "images": [len(index.names) for index in self._opened],
            "bytes": [shard.size for shard in self._shards],
            "sha256": [shard.sha256 for shard in self._shards],
        }

    def _account(self) -> Account:
        places = self.places
        skipped = SkippedFiles(one for index in self._opened for one in index.skipped)
        labelled = any(index.label_names for index in self._opened)
        unlabelled = sum(int((index.labels < 0).sum()) for index in self._opened)
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
    """Check that a member is the expected one, as the shard may be newer than its index.

    Raises tarfile.ReadError if it is another.
    """
    found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    short = len(name) <= tarfile.LENGTH_NAME and name.isascii()
    if found.size != size or (short and os.fsencode(found.name) != name):
        raise tarfile.ReadError("the shard has changed since its index was made")


def open_shards(listed: Listed, part: str = WHOLE) -> ShardSource:
    """The images of the shards that form one part of the data.

    Shards without an index are walked through, eight at a time, and their indexes are kept.

    Raises:
        DataError: A shard cannot be read, or none has an image.
    """
    source = ShardSource(listed, part)
    if len(source) == 0:
        met = "; ".join(f"{one.kind} ({one.count}: {one.reason})" for one in source.account.skipped)
        raise DataError(
            f"no images in {counted(len(source.places), 'shard')}: {quoted(source.places)}"
            + (f"; they hold {met}" if met else ""),
            remedy="an image is recognised by what follows the first dot of its name, such as "
            ".jpg; `beit data pack` names the images of a folder so",
        )
    return source


def _as_described(places: Sequence[str], about: Mapping[str, Any] | None) -> Listed:
    """The shards as a manifest describes them; only their places if an old one lacks `about`."""
    if about is None:
        return places
    shards = map(Shard, places, map(int, about["bytes"]), map(str, about["sha256"]))
    packed = PackedPart(
        tuple(shards), tuple(map(int, about["images"])), about["fingerprint"],
        tuple(about["classes"]),
    )  # fmt: skip
    if not len(places) == len(packed.shards) == len(packed.images):
        raise ValueError("it says different numbers of shards")
    return packed


def shard_parts(path: str) -> dict[str, Listed] | None:
    """The shards, by part, that a path, an address or a pattern stands for; None for other data.

    A folder that was packed has a manifest of its shards, also at an address. Any other folder is
    one of shards if it has .tar files, directly or in train/, val/ and so on, and no image file.

    Raises:
        DataError: Shards are missing, or the manifest cannot be read.
    """
    if path.endswith(".tar") or (is_remote(path) and ".tar" in PurePosixPath(path).name):
        return _by_split(path, expand(path))
    if is_remote(path) or Path(path, MANIFEST).is_file():
        return _packed_parts(path.rstrip("/"))
    if Path(path, UNFINISHED).is_file():
        raise DataError(
            f"the packing of {path} was stopped before its end",
            remedy="give the same `beit data pack` again to continue",
        )
    if not Path(path).is_dir():
        return None
    found = {part: _tars(Path(path, part)) for part in (WHOLE, *_split_folders(path))}
    found = {part: places for part, places in found.items() if places}
    if not found or find_images(path).paths:
        return None
    if [*found] == [WHOLE]:
        return _by_split(path, found[WHOLE])
    return {**found}


def _by_split(path: str, places: Sequence[str]) -> dict[str, Listed]:
    """Shards in one place, divided by the splits in their names: train-0001.tar, val-0001.tar.

    Raises DataError if only some of them name a split.
    """
    parts: dict[str, list[str]] = {}
    for place in places:
        words = re.split(r"[^A-Za-z]+", PurePosixPath(place).name.removesuffix(".tar"))
        parts.setdefault(split_named_by(words) or WHOLE, []).append(place)
    if len(parts.keys() - {WHOLE}) < 2:
        return {WHOLE: places}
    if WHOLE in parts:
        raise DataError(
            f"some shards of {path} say in their names that they are "
            f"{' or '.join(filter(None, parts))}, others, such as {quoted(parts[WHOLE], 1)}, do "
            "not",
            remedy="name those to read by a pattern, or put them into folders train/, val/, test/",
        )
    return {**parts}


def _split_folders(path: str) -> list[str]:
    """The folders directly below that have the names of splits."""
    try:
        with os.scandir(path) as entries:
            return sorted(one.name for one in entries if split_name(one.name) in ROLES
                          and one.is_dir())  # fmt: skip
    except OSError:
        return []  # reported when the folder itself is listed


def _tars(folder: Path) -> list[str]:
    return sorted((str(place) for place in folder.glob("*.tar")), key=natural_key)


def _packed_parts(folder: str) -> dict[str, Listed]:
    try:
        manifest = parse_json(read_all(f"{folder}/{MANIFEST}"))
        if manifest["format"] != FORMAT:
            raise of_another_format(
                DataError,
                f"the folder of shards {folder}",
                found=manifest["format"],
                reads=FORMAT,
                made_by=manifest.get("beit"),
            )
        about, found = manifest.get("about", {}), {}
        for part, names in manifest["parts"].items():
            places = [f"{folder}/{name}" for name in names]
            found[part] = _as_described(places, about.get(part))
        return found
    except BeitError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder} is not a folder of shards: its {MANIFEST} cannot be read: {error}",
            remedy="name the shards themselves, as in shards/{000..127}.tar, or pack the folder "
            "with `beit data pack`",
        ) from error
