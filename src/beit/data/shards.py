"""Images in tar shards, as WebDataset lays them out, read at any place without unpacking."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from beit.data.account import Account, SkippedFiles
from beit.data.layout import ROLES, WHOLE, split_name
from beit.data.listing import find_images, natural_key, quoted
from beit.data.name_array import Names
from beit.data.pixel_types import UnreadableError
from beit.data.shard_index import ShardIndex, find_index
from beit.data.sources import Record, Shards, account_for, number_labels, target_at
from beit.data.storage import expand, is_remote, read_all, read_range
from beit.errors import BeitError, DataError, of_another_format
from beit.json_object import parse_json

MANIFEST = "shards.json"
UNFINISHED = "packing.json"
FORMAT = 1
BLOCK = tarfile.BLOCKSIZE
INDEXED_AT_A_TIME = 8


class ShardSource:
    """The images of some shards, in the order of the shards and in theirs.

    An image is named as in its shard, below its part if there are parts, so that a folder and the
    shards it was packed into are the same data to a run. Names that come in several shards get the
    shard's name before them.
    """

    def __init__(self, places: Sequence[str], indexes: Sequence[ShardIndex], part: str) -> None:
        counts = [len(index.names) for index in indexes]
        self._places = tuple(places)
        self._shards = np.repeat(np.arange(len(indexes), dtype=np.int32), counts)
        self._offsets = np.concatenate([index.offsets for index in indexes])
        self._sizes = np.concatenate([index.sizes for index in indexes])
        self._names = Names(name for index in indexes for name in index.names)
        self._named_by_shard = not self._names.all_differ()
        self.classes, self.targets = _labels(indexes)
        self.part = part
        self.account = _account(places, indexes, self)
        self._prefix = os.fsencode(f"{part}/") if part else b""
        if self._named_by_shard and not Names(map(self._full_name, range(len(self)))).all_differ():
            raise DataError(
                f"{quoted(list(places))}: two images have the same name",
                remedy="name each shard once, and each image of a shard differently",
            )

    def __len__(self) -> int:
        return len(self._names)

    def _full_name(self, index: int) -> bytes:
        name = self._names[index]
        if self._named_by_shard:
            shard = PurePosixPath(self._places[int(self._shards[index])]).stem
            name = os.fsencode(f"{shard}/") + name
        return self._prefix + name

    def key(self, index: int) -> str:
        """The name in the shard; bytes that are not UTF-8 are kept, as unpaired surrogates."""
        return self._full_name(index).decode("utf-8", "surrogateescape")

    def read(self, index: int) -> Record:
        name, size = self._names[index], int(self._sizes[index])
        place, offset = self._places[int(self._shards[index])], int(self._offsets[index])
        try:
            data = read_range(place, offset - BLOCK, BLOCK + size)
            _check_header(data[:BLOCK], name, size)
        except (OSError, tarfile.TarError) as error:
            raise UnreadableError(f"{place}: {error}") from error
        return Record(data[BLOCK:], target_at(self.targets, index), self.key(index))

    def shards(self) -> Shards:
        counts = np.bincount(self._shards, minlength=len(self._places))
        return Shards(counts, any(map(is_remote, self._places)))

    def size(self, index: int) -> int:
        return int(self._sizes[index])

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(self.classes).encode() + self._prefix)
        for array in (self._names.block, self._names.ends, self._sizes, self.targets):
            if array is not None:
                digest.update(array.tobytes())
        return digest.hexdigest()


def _check_header(header: bytes, name: bytes, size: int) -> None:
    """The index may be older than the shard: what is there must be what is expected."""
    found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    short = len(name) <= tarfile.LENGTH_NAME and name.isascii()
    if found.size != size or (short and os.fsencode(found.name) != name):
        raise tarfile.ReadError("the shard has changed since its index was made")


def _labels(indexes: Sequence[ShardIndex]) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Classes in natural order and the class of each image, if every image has one; or its
    labels, if any image has a list of them."""
    if any((index.labels < 0).any() for index in indexes):
        return (), None
    classes, targets = number_labels([one for index in indexes for one in index.label_names])
    starts = np.cumsum([0, *(len(index.label_names) for index in indexes)])
    pairs = zip(indexes, starts.tolist(), strict=False)
    return classes, targets[np.concatenate([index.labels + start for index, start in pairs])]


def _account(places: Sequence[str], indexes: Sequence[ShardIndex], source: ShardSource) -> Account:
    skipped = SkippedFiles(one for index in indexes for one in index.skipped)
    labelled = any(index.label_names for index in indexes)
    unlabelled = sum(int((index.labels < 0).sum()) for index in indexes)
    note = f"{unlabelled} images have no label, so that none is used"
    return account_for(
        source,
        places[0] if len(places) == 1 else str(PurePosixPath(places[0]).parent),
        "tar shards in the layout of WebDataset"
        + (", with a label for each image" if source.classes else ""),
        split=source.part,
        skipped=skipped.found(),
        notes=(note,) if unlabelled and labelled else (),
    )


def open_shards(places: Sequence[str], part: str = WHOLE) -> ShardSource:
    """The images of these shards, which are a part of the data.

    Those without an index are walked through, eight at a time, and their index is kept.
    Errors: DataError if one cannot be read or none has an image.
    """
    with ThreadPoolExecutor(INDEXED_AT_A_TIME) as threads:
        indexes = list(threads.map(find_index, places))
    source = ShardSource(places, indexes, part)
    if len(source) == 0:
        met = "; ".join(f"{one.kind} ({one.count}: {one.reason})" for one in source.account.skipped)
        raise DataError(
            f"no images in {len(places)} shards: {quoted(list(places))}"
            + (f"; they hold {met}" if met else ""),
            remedy="an image is recognised by what follows the first dot of its name, such as "
            ".jpg; `beit data pack` names the images of a folder so",
        )
    return source


def shard_parts(path: str) -> dict[str, list[str]] | None:
    """The shards that a path, an address or a pattern stands for, by part; None if it is none.

    A folder that was packed lists itself what it has, also behind an address. Any other folder
    counts if .tar files lie in it or in its train/, val/ and so on, and images nowhere.
    Errors: DataError for shards that are not there.
    """
    if path.endswith(".tar") or (is_remote(path) and ".tar" in PurePosixPath(path).name):
        return {WHOLE: expand(path)}
    if is_remote(path) or Path(path, MANIFEST).is_file():
        return _packed_parts(path.rstrip("/"))
    if Path(path, UNFINISHED).is_file():
        raise DataError(
            f"the packing of {path} was stopped before its end",
            remedy="give the same `beit data pack` again: it goes on",
        )
    if not Path(path).is_dir():
        return None
    found = {part: _tars(Path(path, part)) for part in (WHOLE, *_split_folders(path))}
    found = {part: places for part, places in found.items() if places}
    return found if found and not find_images(path).paths else None


def _split_folders(path: str) -> list[str]:
    """The folders directly below that are called as splits are."""
    try:
        with os.scandir(path) as entries:
            return sorted(one.name for one in entries if split_name(one.name) in ROLES
                          and one.is_dir())  # fmt: skip
    except OSError:
        return []  # reported when the folder itself is listed


def _tars(folder: Path) -> list[str]:
    return sorted((str(place) for place in folder.glob("*.tar")), key=natural_key)


def _packed_parts(folder: str) -> dict[str, list[str]]:
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
        return {
            part: [f"{folder}/{name}" for name in names]
            for part, names in manifest["parts"].items()
        }
    except BeitError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder} is no folder of shards: its {MANIFEST} cannot be read: {error}",
            remedy="name the shards themselves, as in shards/{000..127}.tar, or pack the folder "
            "with `beit data pack`",
        ) from error
