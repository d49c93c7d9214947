"""The index of a tar shard: where its images lie. It is built once by walking through the shard,
then kept in a small file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
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
from beit.data.listing import Names
from beit.data.shard_cache import Shard, ShardCache
from beit.data.storage import Stamp, is_remote, opened, read_all, stamp
from beit.errors import BeitError, ConfigError, DataError
from beit.json_object import parse_json

logger = logging.getLogger(__name__)

FORMAT = 3
SUFFIX = ".index"
LABEL_NAMES = ("class_name", "class", "label", "labels", "tags")
Label = str | tuple[str, ...]
"""A class name, or all labels of an image that may have several or none."""
LARGEST_LABEL = 2**20
"""Bytes of a label file; larger ones are not read."""


class ShardIndex(NamedTuple):
    """The images of one shard, in their order in it."""

    names: Names
    offsets: np.ndarray
    """Where the bytes of each image begin, int64 [n]."""
    sizes: np.ndarray
    """How many bytes each image has, int64 [n]."""
    labels: np.ndarray
    """The index in `label_names` of the label of each image, int32 [n]; -1 without a label."""
    label_names: tuple[Label, ...]
    skipped: tuple[Skipped, ...]
    """Members that are neither an image of a sample nor its label."""
    shard_bytes: int
    sha256: str = ""
    """The hash of the shard; empty if it is not known."""


class _Member(NamedTuple):
    """A file in the shard."""

    name: str
    offset: int
    size: int
    key: str
    """What the names of the files of one sample share: all that precedes the first dot."""
    extension: str
    """The rest of the name, from that dot on, in lower case."""


class _Sample:
    """The members that share a key, wherever they lie in the shard."""

    __slots__ = ("images", "label_files", "labels")  # one object for each image of a shard

    def __init__(self) -> None:
        self.images: list[_Member] = []
        self.labels: dict[str, Any] = {}
        """The label that each kind of label file holds, by extension."""
        self.label_files: list[str] = []


class _LabelError(ValueError):
    """A label cannot be read, although the shard can; the message begins with its file's name."""


def _members(archive: tarfile.TarFile, skipped: SkippedFiles) -> Iterator[_Member]:
    while (found := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # to free their memory
        if found.issparse():
            raise tarfile.ReadError(f"the member {found.name} is sparse")
        if not found.isreg():
            continue
        if reason := path_to_skip(found.name):
            skipped.add(reason, found.name)
            continue
        path = PurePosixPath(found.name)
        stem, _, extension = path.name.partition(".")
        key = str(path.with_name(stem))
        yield _Member(found.name, found.offset_data, found.size, key, f".{extension.lower()}")


def _read_label(extension: str, content: bytes) -> Any:
    """The label in a label file; of a .json, which may be long, only the entry that holds it."""
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
    """The label of a sample: a name in its .json, else the content of its .cls, else a number in
    the .json. A list in the .json, or a .json that is a list, holds several labels."""
    if isinstance(described, list) and all(isinstance(one, str | int) for one in described):
        if len(set(described)) < len(described):
            raise ValueError(
                f"the labels {described} name one twice: give names, not zeros and ones"
            )
        return tuple(map(str, described))
    if isinstance(described, str) and described:
        return described
    if number is not None:
        return number or None
    is_number = isinstance(described, int) and not isinstance(described, bool)
    return str(described) if is_number else None


def _reason_to_skip(file: IO[bytes], member: _Member) -> str:
    """Why a member is not an image, judged by its extension or, if that is unknown, its content;
    empty if it is one. The extension begins at the first dot, so x.seg.png is not an image."""
    if member.extension.count(".") > 1:
        return f"{NOT_AN_IMAGE}: its name continues after the first dot"
    reason = known_by_name(member.extension)
    if reason is None:
        file.seek(member.offset)
        reason = known_by_head(file.read(min(member.size, HEAD_BYTES)))
    return reason


def _rank(member: _Member) -> int:
    """The rank of an image among those of its sample: JPEG files first, formats of masks last."""
    if member.extension in EXTENSIONS["JPEG"]:
        return 0
    return 2 if member.extension in (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm") else 1


def _labelled_images(
    samples: Iterable[_Sample], skipped: SkippedFiles
) -> Iterator[tuple[_Member, Label | None]]:
    """The images to use, with their labels. If a sample has several kinds of images, one kind is
    used: a PNG file beside a JPEG file is its mask or depth map, not a further image."""
    for sample in samples:
        if not sample.images:
            for name in sample.label_files:
                skipped.add("a label without an image", name)
        try:
            label = _label(sample.labels.get(".cls"), sample.labels.get(".json"))
        except ValueError as error:
            raise _LabelError(f"{sample.label_files[-1]}: {error}") from error
        kind = min(sample.images, key=_rank).extension if sample.images else ""
        for member in sample.images:
            if member.extension == kind:
                yield member, label
            else:
                skipped.add(f"beside the {kind} of its sample", member.name)


def build_index(file: IO[bytes]) -> ShardIndex:
    """Walk through a tar file in the layout of WebDataset: the files of a sample share their name
    up to its first dot. They need not be neighbours.

    Raises:
        tarfile.TarError: It is not a whole, uncompressed tar file.
        ValueError: Likewise; or, as a _LabelError, a label cannot be read.
        OSError: It cannot be read.
    """
    samples: dict[str, _Sample] = defaultdict(_Sample)
    skipped = SkippedFiles()
    with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
        for member in _members(archive, skipped):
            if member.extension in (".cls", ".json") and member.size <= LARGEST_LABEL:
                file.seek(member.offset)
                try:
                    label = _read_label(member.extension, file.read(member.size))
                except ValueError as error:
                    raise _LabelError(f"{member.name}: {error}") from error
                samples[member.key].labels[member.extension] = label
                samples[member.key].label_files.append(member.name)
            elif reason := _reason_to_skip(file, member):
                skipped.add(reason, member.name)
            else:
                samples[member.key].images.append(member)
    rows = sorted(_labelled_images(samples.values(), skipped), key=lambda row: row[0].offset)
    ids: dict[Label, int] = {}
    return ShardIndex(
        Names(os.fsencode(member.name) for member, _ in rows),
        np.array([member.offset for member, _ in rows], np.int64),
        np.array([member.size for member, _ in rows], np.int64),
        np.array(
            [-1 if label is None else ids.setdefault(label, len(ids)) for _, label in rows],
            np.int32,
        ),
        tuple(ids),
        skipped.found(),
        file.seek(0, os.SEEK_END),
    )


def write_index(index: ShardIndex, stamp: Stamp) -> bytes:
    """The content of an index file, which includes the version of the shard that it belongs to."""
    about = {
        "format": FORMAT,
        "size": stamp.size,
        "mark": stamp.mark,
        "labels": index.label_names,
        "skipped": [asdict(one) for one in index.skipped],
        "sha256": index.sha256,
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
    """The index in the content of a file; None if it is damaged or of another version of the shard.

    An empty mark in the file fits any version: an index beside its shard is copied along with it,
    while times of change are not.
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
    sha256 = about.get("sha256", "")  # older ones do not have it
    return ShardIndex(names, offsets, sizes, labels, names_of, skipped, expected.size, sha256)


def _kept_at(place: str) -> Path | None:
    """The file in which the index of a shard is kept for other runs; None if no folder is known."""
    full = place if is_remote(place) else str(Path(place).absolute())
    name = hashlib.blake2b(os.fsencode(full), digest_size=16).hexdigest()
    try:
        return cache_dir() / "shards" / (name + SUFFIX)
    except ConfigError:
        return None


def _find(place: str, current: Stamp, kept: Path | None, local: str) -> ShardIndex:
    """The index as kept at `kept` or beside the shard; else built from the shard at `local`."""
    beside, known = place + SUFFIX, [] if kept is None else [str(kept)]
    if not is_remote(place):
        known.insert(0, beside)
    elif local == place and place.endswith(".tar"):
        known.append(beside)  # not if the shard is here already, or its address has a signature
    index = None
    for where in known:
        with contextlib.suppress(OSError):
            index = read_index(read_all(where), current)
            if index is not None and not is_remote(where):
                return index
    if index is None:
        with opened(local) as file:
            index = build_index(file)
    if kept is None:
        logger.warning("the index of %s is not kept: no home folder is known", place)
        return index
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_file(kept, [write_index(index, current)])
    except OSError as error:
        logger.warning("the index of %s cannot be kept in %s: %s", place, kept.parent, error)
    return index


def find_index(place: str) -> ShardIndex:
    """The index of a shard: from the file beside it (`NAME.tar.index`), as kept by an earlier run,
    or built now.

    Raises:
        DataError: The shard is not there, damaged, compressed or not a tar file, or a label in it
            cannot be read.
    """
    try:
        return _find(place, stamp(place), _kept_at(place), place)
    except BeitError:
        raise
    except _LabelError as error:
        raise DataError(
            f"a label in {place} cannot be read: {error}",
            remedy="correct this file, and write the shard again",
        ) from error
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


def index_of(shard: Shard, cache: ShardCache | None) -> ShardIndex:
    """The index of a packed shard, without a request to its storage if the shard is in the cache.

    Raises:
        OSError: The shard cannot be read, or is not the one that was packed.
        tarfile.TarError: It is not a whole tar file.
    """
    kept, local = _kept_at(f"{shard.place}#{shard.sha256}"), shard.place
    if cache is not None and is_remote(shard.place):
        with contextlib.suppress(OSError):  # a fault of the shard is reported when it is read
            if (kept is None or not kept.exists()) and cache.fetch(shard):
                local = str(cache.path(shard))
    try:
        return _find(shard.place, Stamp(shard.size, ""), kept, local)
    except ValueError as error:
        raise OSError(f"it is not the shard that was packed: {error}") from error
