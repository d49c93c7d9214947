"""What lies where in a tar shard: found once by walking through it, then kept in a small file."""

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
    shard_bytes: int
    sha256: str = ""
    """Of the shard; empty if it is not known."""


class _Member(NamedTuple):
    """A file in the shard."""

    name: str
    offset: int
    size: int
    key: str
    """What the files of one sample share: everything before the first dot of the file's name."""
    extension: str
    """Everything after it, in lower case with its dot."""


class _Sample:
    """The members that share a key, wherever they are in the shard."""

    __slots__ = ("images", "label_files", "labels")  # one object for each image of a shard

    def __init__(self) -> None:
        self.images: list[_Member] = []
        self.labels: dict[str, Any] = {}
        """What each kind of label file says."""
        self.label_files: list[str] = []


class _LabelError(ValueError):
    """A label that cannot be read, after the name of its file, in a shard that can."""


def _members(archive: tarfile.TarFile, skipped: SkippedFiles) -> Iterator[_Member]:
    while (found := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # else they stay in memory
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
    """What a label file says of the class: of a .json, which may be long, that entry only."""
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
        return tuple(map(str, described))
    if isinstance(described, str) and described:
        return described
    if number is not None:
        return number or None
    is_number = isinstance(described, int) and not isinstance(described, bool)
    return str(described) if is_number else None


def _reason_to_skip(file: IO[bytes], member: _Member) -> str:
    """Why a member is no image; empty if it is one: by its extension, or where that is unknown by
    its content. What follows the first dot is the extension, so x.seg.png is none of a sample."""
    if member.extension.count(".") > 1:
        return f"{NOT_AN_IMAGE}: its name continues after the first dot"
    reason = known_by_name(member.extension)
    if reason is None:
        file.seek(member.offset)
        reason = known_by_head(file.read(min(member.size, HEAD_BYTES)))
    return reason


def _rank(member: _Member) -> int:
    """JPEG files first, what masks are stored as last."""
    if member.extension in EXTENSIONS["JPEG"]:
        return 0
    return 2 if member.extension in (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm") else 1


def _labelled_images(
    samples: Iterable[_Sample], skipped: SkippedFiles
) -> Iterator[tuple[_Member, Label | None]]:
    """The images to use. Of several kinds in a sample one is used: a PNG file beside a JPEG file is
    its mask or its depth, and no further image."""
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
    up to its first dot. They need not stand together.

    Errors: tarfile.TarError or ValueError for what is no whole, uncompressed tar file, of these
    _LabelError for a label that cannot be read; OSError.
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
    """The content of an index file, which states of which version of the shard it is."""
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
    sha256 = about.get("sha256", "")  # older ones do not have it
    return ShardIndex(names, offsets, sizes, labels, names_of, skipped, expected.size, sha256)


def _kept_at(place: str) -> Path | None:
    """None where nothing can be kept for other runs."""
    full = place if is_remote(place) else str(Path(place).absolute())
    name = hashlib.blake2b(os.fsencode(full), digest_size=16).hexdigest()
    try:
        return cache_dir() / "shards" / (name + SUFFIX)
    except ConfigError:
        return None


def _find(place: str, current: Stamp, kept: Path | None, local: str) -> ShardIndex:
    """The index as it was kept, as it lies beside the shard, or from the shard at `local`."""
    beside, known = place + SUFFIX, [] if kept is None else [str(kept)]
    if not is_remote(place):
        known.insert(0, beside)
    elif local == place and place.endswith(".tar"):
        known.append(beside)  # else the shard is here already; or its name ends in a signature
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
    """The index of a shard: beside it (`NAME.tar.index`), as kept from last time, or built now.

    Errors: DataError if the shard is not there, damaged, compressed or no tar file, or if a
    label in it cannot be read.
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
    """The index of a shard that was packed, without a request if the shard is in the cache.

    Errors: OSError, tarfile.TarError.
    """
    kept, local = _kept_at(f"{shard.place}#{shard.sha256}"), shard.place
    if cache is not None and is_remote(shard.place):
        with contextlib.suppress(OSError):  # what is wrong with the shard shows when it is read
            if (kept is None or not kept.exists()) and cache.fetch(shard):
                local = str(cache.path(shard))
    try:
        return _find(shard.place, Stamp(shard.size, ""), kept, local)
    except ValueError as error:
        raise OSError(f"it is not the shard that was packed: {error}") from error
