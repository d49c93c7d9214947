"""What lies where in a tar shard: found once by walking through it, then kept in a small file."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np

from beit.data.listing import PICTURE_EXTENSIONS
from beit.data.names import Names
from beit.data.places import Stamp, is_remote, opened, read_all, stamp
from beit.durable import replace_file
from beit.errors import BeitError, DataError
from beit.home import home

logger = logging.getLogger(__name__)

FORMAT = 2
SUFFIX = ".index"
LABEL_NAMES = ("class_name", "class", "label", "labels", "tags")
Label = str | tuple[str, ...]
"""A class, or the labels of an image that may have several or none."""
LARGEST_LABEL = 2**20


class ShardIndex(NamedTuple):
    """The pictures of one shard in its order."""

    names: Names
    offsets: np.ndarray
    """Where the bytes of each picture begin, int64 [n]."""
    sizes: np.ndarray
    """How many bytes each picture has, int64 [n]."""
    labels: np.ndarray
    """Places in `label_names`, int32 [n]; -1 without a label."""
    label_names: tuple[Label, ...]
    others: dict[str, int]
    """Extensions of members that are neither pictures nor labels, with their numbers."""


class _Member(NamedTuple):
    name: str
    offset: int
    size: int
    key: str
    """What the files of one sample share: everything before the first dot of the file's name."""
    extension: str


class _Collected:
    """The index while it grows."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.places: list[tuple[int, int]] = []
        self.labels: list[int] = []
        self.ids: dict[Label, int] = {}
        self.others: Counter[str] = Counter()

    def add(self, pictures: list[_Member], label: Label | None) -> None:
        for member in pictures:
            self.names.append(os.fsencode(member.name))
            self.places.append((member.offset, member.size))
            self.labels.append(-1 if label is None else self.ids.setdefault(label, len(self.ids)))

    def index(self) -> ShardIndex:
        places = np.array(self.places, np.int64).reshape(-1, 2)
        return ShardIndex(
            Names(self.names),
            np.ascontiguousarray(places[:, 0]),
            np.ascontiguousarray(places[:, 1]),
            np.array(self.labels, np.int32),
            tuple(self.ids),
            dict(self.others),
        )


def _members(archive: tarfile.TarFile) -> Iterator[_Member]:
    while (found := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # else they stay in memory
        if found.issparse():
            raise tarfile.ReadError(f"the member {found.name} is sparse")
        path = PurePosixPath(found.name)
        stem, _, extension = path.name.partition(".")
        if found.isreg() and stem:
            yield _Member(
                found.name,
                found.offset_data,
                found.size,
                str(path.with_name(stem)),
                f".{extension.lower()}",
            )


def _label(named: bytes | None, described: bytes | None) -> Label | None:
    """The class of a sample: by name in its .json, else as its .cls says, else by number there. A
    list in the .json, or a .json that is a list, holds its labels."""
    value: Any = None
    if described is not None:
        value = json.loads(described)
        if isinstance(value, dict):
            value = next((value[name] for name in LABEL_NAMES if name in value), None)
    if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
        if len(set(value)) < len(value):
            raise ValueError(f"the labels {value} name one twice: give names, not zeros and ones")
        return tuple(str(one) for one in value)
    if isinstance(value, str) and value:
        return value
    if named is not None:
        return named.decode("utf-8").strip() or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def build_index(file: IO[bytes]) -> ShardIndex:
    """Walk through a tar file in the layout of WebDataset: the files of a sample stand together
    and share their name up to its first dot.

    Errors: tarfile.TarError or ValueError for what is no whole, uncompressed tar file; OSError.
    """
    collected = _Collected()
    key, pictures = "", list[_Member]()
    labels: dict[str, bytes] = {}

    def close_sample() -> None:
        if pictures:
            collected.add(pictures, _label(labels.get(".cls"), labels.get(".json")))
        pictures.clear()
        labels.clear()

    with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
        for member in _members(archive):
            if member.key != key:
                close_sample()
                key = member.key
            if member.extension in PICTURE_EXTENSIONS:
                pictures.append(member)
            elif member.extension in (".cls", ".json") and member.size <= LARGEST_LABEL:
                file.seek(member.offset)
                labels[member.extension] = file.read(member.size)
            else:
                collected.others[member.extension] += 1
    close_sample()
    return collected.index()


def write_index(index: ShardIndex, stamp: Stamp) -> bytes:
    """The content of an index file, which says of which version of the shard it is."""
    about = {
        "format": FORMAT,
        "size": stamp.size,
        "mark": stamp.mark,
        "labels": index.label_names,
        "others": index.others,
    }
    content = io.BytesIO()
    np.savez(
        content,
        about=np.frombuffer(json.dumps(about).encode(), np.uint8),
        names=index.names.block,
        ends=index.names.ends,
        offsets=index.offsets,
        sizes=index.sizes,
        labels=index.labels,
    )
    return content.getvalue()


def read_index(content: bytes, expected: Stamp) -> ShardIndex | None:
    """The index in a file, or None if it is damaged or of another version of the shard.

    An empty mark fits any: an index beside its shard travels with it, and times do not.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if about["format"] != FORMAT or about["size"] != expected.size:
                return None
            if about["mark"] not in ("", expected.mark):
                return None
            names = Names.joined(arrays["names"], arrays["ends"])
            offsets, sizes, labels = (arrays[name] for name in ("offsets", "sizes", "labels"))
    except Exception:  # zip, array and JSON readers raise nearly every type on foreign bytes
        return None
    names_of = tuple(tuple(one) if isinstance(one, list) else one for one in about["labels"])
    if any(len(array) != len(names) for array in (offsets, sizes, labels)):
        return None
    return ShardIndex(names, offsets, sizes, labels, names_of, about["others"])


def _kept(place: str) -> Path:
    full = place if is_remote(place) else str(Path(place).absolute())
    name = hashlib.blake2b(os.fsencode(full), digest_size=16).hexdigest()
    return home() / "shards" / (name + SUFFIX)


def _read_if_there(place: str) -> bytes:
    try:
        return read_all(place)
    except OSError:
        return b""


def _find(place: str) -> ShardIndex:
    current = stamp(place)
    kept = _kept(place)
    for where in (place + SUFFIX, str(kept)):
        if is_remote(where) and not where.endswith(f".tar{SUFFIX}"):
            continue  # a name that ends in a signature, beside which nothing lies
        index = read_index(_read_if_there(where), current)
        if index is not None:
            return index
    with opened(place) as file:
        index = build_index(file)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_file(kept, [write_index(index, current)])
    except OSError as error:
        logger.warning("the index of %s cannot be kept in %s: %s", place, kept.parent, error)
    return index


def find_index(place: str) -> ShardIndex:
    """The index of a shard: beside it (`NAME.tar.index`), as kept from last time, or built now.

    Errors: DataError if the shard is not there, damaged, compressed or no tar file.
    """
    try:
        return _find(place)
    except BeitError:
        raise
    except (tarfile.TarError, ValueError) as error:
        raise DataError(
            f"{place} cannot be read as a tar file with pictures: {error}",
            remedy="check that it is whole; unpack what is compressed (.tar.gz)",
        ) from error
    except OSError as error:
        raise DataError(
            f"{place} cannot be read: {error.strerror or error}",
            remedy="check the path or address, and that it may be read",
        ) from error
