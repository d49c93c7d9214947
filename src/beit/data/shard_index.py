"""What lies where in a tar shard: found once by walking through it, then kept in a small file."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np

from beit.atomic_io import cache_dir, replace_file
from beit.data.account import Skipped, SkippedFiles
from beit.data.file_types import (
    EXTENSIONS,
    HEAD_BYTES,
    NOT_AN_IMAGE,
    known_by_head,
    known_by_name,
    path_to_skip,
)
from beit.data.name_array import Names
from beit.data.storage import Stamp, is_remote, opened, read_all, stamp
from beit.errors import BeitError, DataError
from beit.json_object import parse_json

logger = logging.getLogger(__name__)

FORMAT = 3
SUFFIX = ".index"
LABEL_NAMES = ("class_name", "class", "label", "labels", "tags")
Label = str | tuple[str, ...]
"""A class, or the labels of an image that may have several or none."""
LARGEST_LABEL = 2**20


class ShardIndex(NamedTuple):
    """The images of one shard in its order."""

    names: Names
    offsets: np.ndarray
    """Where the bytes of each image begin, int64 [n]."""
    sizes: np.ndarray
    """How many bytes each image has, int64 [n]."""
    labels: np.ndarray
    """Places in `label_names`, int32 [n]; -1 without a label."""
    label_names: tuple[Label, ...]
    skipped: tuple[Skipped, ...]
    """Members that are neither an image of a sample nor its label."""


class _Member(NamedTuple):
    name: str
    offset: int
    size: int
    key: str
    """What the files of one sample share: everything before the first dot of the file's name."""
    extension: str


class _Said(NamedTuple):
    """A label file of a sample."""

    extension: str
    name: str
    label: Any
    """What it says of the class; None for nothing."""


class _Sample:
    """The members that share a key, wherever they stand in the shard."""

    __slots__ = ("images", "labels")  # there is one for every image of a shard

    def __init__(self) -> None:
        self.images: list[_Member] = []
        self.labels: list[_Said] = []

    def chosen(self) -> tuple[list[_Member], list[_Member]]:
        """The images to use, and the others. Of several kinds one is used: a PNG file beside a JPEG
        file is its mask or its depth, and no further image."""
        kinds = dict.fromkeys(member.extension for member in self.images)
        best = min(kinds, key=lambda kind: _rank(kind), default="")
        used = [member for member in self.images if member.extension == best]
        return used, [member for member in self.images if member.extension != best]


def _rank(extension: str) -> int:
    """JPEG files first, what masks are stored as last."""
    if extension in EXTENSIONS["JPEG"]:
        return 0
    return 2 if extension in (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm") else 1


class _Collected:
    """The index while it grows."""

    def __init__(self) -> None:
        self.samples: dict[str, _Sample] = {}
        self.skipped = SkippedFiles()

    def sample(self, member: _Member) -> _Sample:
        return self.samples.setdefault(member.key, _Sample())

    def _rows(self) -> list[tuple[_Member, Label | None]]:
        """The images that are used with their labels, in the order of the shard."""
        rows: list[tuple[_Member, Label | None]] = []
        for sample in self.samples.values():
            used, others = sample.chosen()
            for member in others:
                self.skipped.add(f"beside the {used[0].extension} of its sample", member.name)
            if not used:
                for one in sample.labels:
                    self.skipped.add("a label without an image", one.name)
            said = {one.extension: one.label for one in sample.labels}
            label = _label(said.get(".cls"), said.get(".json"))
            rows += [(member, label) for member in used]
        return sorted(rows, key=lambda row: row[0].offset)

    def index(self) -> ShardIndex:
        rows = self._rows()
        ids: dict[Label, int] = {}
        labels = [-1 if label is None else ids.setdefault(label, len(ids)) for _, label in rows]
        return ShardIndex(
            Names(os.fsencode(member.name) for member, _ in rows),
            np.array([member.offset for member, _ in rows], np.int64),
            np.array([member.size for member, _ in rows], np.int64),
            np.array(labels, np.int32),
            tuple(ids),
            self.skipped.found(),
        )


def _members(archive: tarfile.TarFile, skipped: SkippedFiles) -> Iterator[_Member]:
    while (found := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # else they stay in memory
        if found.issparse():
            raise tarfile.ReadError(f"the member {found.name} is sparse")
        path = PurePosixPath(found.name)
        stem, _, extension = path.name.partition(".")
        reason = path_to_skip(found.name) if found.isreg() else ""
        if reason:
            skipped.add(reason, found.name)
        elif found.isreg():
            yield _Member(
                found.name,
                found.offset_data,
                found.size,
                str(path.with_name(stem)),
                f".{extension.lower()}",
            )


def _said(extension: str, content: bytes) -> Any:
    """What a label file says of the class; of a .json that can be long nothing else is kept."""
    if extension == ".cls":
        label = content.decode("utf-8").strip()
        if len(label.splitlines()) > 1:
            raise ValueError(
                f"a .cls file has several lines, {label!r}: it holds one label; several stand as a "
                "list in a .json"
            )
        return label
    values = parse_json(content)
    if isinstance(values, dict):
        return next((values[name] for name in LABEL_NAMES if name in values), None)
    return values if isinstance(values, list) else None


def _label(number: str | None, described: Any) -> Label | None:
    """The class of a sample: by name in its .json, else as its .cls says, else by number there. A
    list in the .json, or a .json that is a list, holds its labels."""
    if isinstance(described, list) and all(isinstance(one, str | int) for one in described):
        if len(set(described)) < len(described):
            raise ValueError(
                f"the labels {described} name one twice: give names, not zeros and ones"
            )
        return tuple(str(one) for one in described)
    if isinstance(described, str) and described:
        return described
    if number is not None:
        return number or None
    is_number = isinstance(described, int) and not isinstance(described, bool)
    return str(described) if is_number else None


def _why_not(file: IO[bytes], member: _Member) -> str:
    """Why a member is no image; empty if it is one: by its extension, where that is unknown by its
    content. What follows the first dot is the extension, so that x.seg.png is none of a sample."""
    extension = member.extension
    if extension.count(".") > 1:
        return f"{NOT_AN_IMAGE}: its name goes on behind the first dot"
    reason = known_by_name(extension)
    if reason is None:
        file.seek(member.offset)
        reason = known_by_head(file.read(min(member.size, HEAD_BYTES)))
    return reason


def build_index(file: IO[bytes]) -> ShardIndex:
    """Walk through a tar file in the layout of WebDataset: the files of a sample share their name
    up to its first dot. They need not stand together.

    Errors: tarfile.TarError or ValueError for what is no whole, uncompressed tar file; OSError.
    """
    collected = _Collected()
    with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
        for member in _members(archive, collected.skipped):
            if member.extension in (".cls", ".json") and member.size <= LARGEST_LABEL:
                file.seek(member.offset)
                said = _said(member.extension, file.read(member.size))
                label = _Said(member.extension, member.name, said)
                collected.sample(member).labels.append(label)
            elif reason := _why_not(file, member):
                collected.skipped.add(reason, member.name)
            else:
                collected.sample(member).images.append(member)
    return collected.index()


def write_index(index: ShardIndex, stamp: Stamp) -> bytes:
    """The content of an index file, which says of which version of the shard it is."""
    about = {
        "format": FORMAT,
        "size": stamp.size,
        "mark": stamp.mark,
        "labels": index.label_names,
        "skipped": [asdict(one) for one in index.skipped],
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
            about = parse_json(arrays["about"].tobytes())
            if about["format"] != FORMAT or about["size"] != expected.size:
                return None
            if about["mark"] not in ("", expected.mark):
                return None
            names = Names.joined(arrays["names"], arrays["ends"])
            offsets, sizes, labels = (arrays[name] for name in ("offsets", "sizes", "labels"))
        skipped = tuple(
            Skipped(**one | {"examples": tuple(one["examples"])}) for one in about["skipped"]
        )
    except Exception:  # zip, array and JSON readers raise nearly every type on foreign bytes
        return None
    names_of = tuple(tuple(one) if isinstance(one, list) else one for one in about["labels"])
    if any(len(array) != len(names) for array in (offsets, sizes, labels)):
        return None
    return ShardIndex(names, offsets, sizes, labels, names_of, skipped)


def _kept(place: str) -> Path:
    full = place if is_remote(place) else str(Path(place).absolute())
    name = hashlib.blake2b(os.fsencode(full), digest_size=16).hexdigest()
    return cache_dir() / "shards" / (name + SUFFIX)


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
            f"{place} cannot be read as a tar file with images: {error}",
            remedy="check that it is whole; unpack what is compressed (.tar.gz)",
        ) from error
    except OSError as error:
        raise DataError(
            f"{place} cannot be read: {error.strerror or error}",
            remedy="check the path or address, and that it may be read",
        ) from error
