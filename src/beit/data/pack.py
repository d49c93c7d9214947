"""Any images into tar shards: whole shards only, and a stopped packing goes on where it was."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from beit.atomic_io import replace_file
from beit.claim import check_name, claim_folder, is_free
from beit.config.data import AS_RECOGNISED, Reading
from beit.data.dataset import Dataset
from beit.data.decode import read_header
from beit.data.file_types import EXTENSIONS, IMAGE_EXTENSIONS
from beit.data.name_array import short_hash
from beit.data.pixel_types import UnreadableError
from beit.data.shard_index import SUFFIX, build_index, read_index, write_index
from beit.data.shards import FORMAT, MANIFEST, UNFINISHED
from beit.data.sources import ImageSource, Record, account_of
from beit.data.storage import Stamp
from beit.errors import (
    ConfigError,
    DataError,
    ResourceError,
    RunFolderError,
    of_another_format,
)
from beit.json_object import read_object

logger = logging.getLogger(__name__)

MEGABYTE = 10**6


class Packed(NamedTuple):
    """What was written."""

    folder: Path
    shards: int
    images: int


class _Names:
    """Names under which images stand in shards.

    The layout takes everything before the first dot for what the files of a sample share, so each
    name has one dot, and no two samples share what is before it.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def name(self, key: str, read: Callable[[], bytes]) -> str:
        """The key itself where the layout allows it; without an extension the content tells it."""
        parts = [part for part in key.split("/") if part not in ("", ".", "..")]
        path = PurePosixPath(*parts)
        extension = path.suffix
        if extension.lower() not in IMAGE_EXTENSIONS:
            extension = EXTENSIONS[read_header(read()).format][0]
            path = path.with_name(path.name + extension)
        stem = wanted = str(path.with_name(path.name.removesuffix(extension).replace(".", "_")))
        number = 1
        while (hashed := short_hash(os.fsencode(stem))) in self._taken:
            number += 1
            stem = f"{wanted}-{number}"
        self._taken.add(hashed)
        return stem + extension


def _files(name: str, record: Record, classes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """The members of one sample; a label as number and by name, several of them by their names."""
    yield name, record.data
    if record.target is not None and classes:
        stem = name.rpartition(".")[0]
        if isinstance(record.target, int):
            yield f"{stem}.cls", str(record.target).encode()
            described: dict[str, str | list[str]] = {"class_name": classes[record.target]}
        else:
            named = np.flatnonzero(record.target).tolist()
            described = {"labels": [classes[number] for number in named]}
        yield f"{stem}.json", json.dumps(described).encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no times or owners: the same images give the same shards
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


class _Part:
    """Writes the shards of one part."""

    def __init__(self, folder: Path, source: ImageSource, shard_bytes: int) -> None:
        self._folder = folder
        self._source = source
        self._shard_bytes = shard_bytes
        self._names = _Names()
        self._next = 0

    def write(self) -> list[str]:
        """The names of all shards, those written before among them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob(".*.tar.*"):
            left.unlink()
        shards: list[str] = []
        while self._next < len(self._source):
            name = f"{len(shards):06d}.tar"
            if not self._skip(self._folder / name):
                self._shard(self._folder / name)
                logger.info("%s: %d of %d images", name, self._next, len(self._source))
            shards.append(name)
        return shards

    def _read(self) -> Record:
        try:
            return self._source.read(self._next)
        except UnreadableError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: UnreadableError) -> DataError:
        return DataError(
            f"{self._source.key(self._next)} cannot be read: {error.reason}",
            remedy="repair it or take it away, and pack again: whole shards are kept",
        )

    def _name(self) -> str:
        """Of the next image, which is read only if its key does not say what it is."""
        try:
            return self._names.name(self._source.key(self._next), lambda: self._read().data)
        except UnreadableError as error:
            raise self._unreadable(error) from error

    def _skip(self, shard: Path) -> bool:
        """Whether the shard is there from before; then its images count as written."""
        beside = shard.with_name(shard.name + SUFFIX)
        if not (shard.is_file() and beside.is_file()):
            return False
        index = read_index(beside.read_bytes(), Stamp(shard.stat().st_size, ""))
        if index is None:
            return False
        for name in index.names:
            packed = self._next < len(self._source) and os.fsencode(self._name()) == name
            self._next += 1
            if not packed:
                raise DataError(
                    f"{shard} holds other images than those to pack",
                    remedy="pack into another folder",
                )
        return True

    def _shard(self, shard: Path) -> None:
        partly = shard.with_name(f".{shard.name}.{os.getpid()}")
        try:
            with partly.open("w+b") as file:
                with tarfile.open(fileobj=file, mode="w", encoding="utf-8") as archive:
                    while self._next < len(self._source) and file.tell() < self._shard_bytes:
                        name, record = self._name(), self._read()
                        self._next += 1
                        for member, data in _files(name, record, self._source.classes):
                            _add(archive, member, data)
                file.flush()
                os.fsync(file.fileno())
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                index = write_index(build_index(file), Stamp(size, ""))
            # The index first: a shard that can be seen has one.
            replace_file(shard.with_name(shard.name + SUFFIX), [index])
            partly.replace(shard)
        finally:
            partly.unlink(missing_ok=True)


def _plan(parts: Mapping[str, ImageSource], shard_size: int) -> dict[str, object]:
    prints = {part: source.fingerprint() for part, source in parts.items()}
    return {"format": FORMAT, "shard_size": shard_size, "pictures": prints}


def _start(out: Path, plan: dict[str, object]) -> bool:
    """Begin, or go on with the same plan; False if it is done. Errors: RunFolderError."""
    for name in (MANIFEST, UNFINISHED):
        if (out / name).is_file():
            known = read_object(out / name, RunFolderError, "pack into another folder")
            if known.get("format") != FORMAT:
                raise of_another_format(
                    RunFolderError,
                    f"the folder of shards {out}",
                    found=known.get("format"),
                    reads=FORMAT,
                    made_by=known.get("beit"),
                )
            if {key: known.get(key) for key in plan} != plan:
                raise RunFolderError(
                    f"{out} holds shards of other images, or of another size",
                    remedy="pack into another folder, or remove this one",
                )
            return name == UNFINISHED
    if not is_free(out):
        raise RunFolderError(f"{out} is not empty", remedy="pack into a new folder")
    replace_file(out / UNFINISHED, [json.dumps(plan).encode()])
    return True


def _write(
    folder: Path, parts: Mapping[str, ImageSource], plan: dict[str, object], shard_size: int
) -> None:
    """All shards that are not there yet, then the manifest."""
    import beit

    written = {
        part: _Part(folder / part, source, shard_size * MEGABYTE).write()
        for part, source in parts.items()
    }
    names = {
        part: [f"{part}/{name}" if part else name for name in shards]
        for part, shards in written.items()
    }
    manifest = plan | {"beit": beit.__version__, "parts": names}
    replace_file(folder / MANIFEST, [json.dumps(manifest, indent=1).encode()])
    (folder / UNFINISHED).unlink()


def pack(data: str, out: str, *, shard_size: int = 500, reading: Reading = AS_RECOGNISED) -> Packed:
    """Write images in any form as tar shards with their indexes: `OUT/000000.tar`, by part where
    the data have parts (`OUT/train/000000.tar`), and `OUT/shards.json` once all are there.

    The bytes of each image stay as they are, in the same order with the same names, so that a run
    learns the same from them; labels stand beside each image as `.cls` and `.json`. A shard is
    closed when it has reached `shard_size` megabytes. The same call goes on with what was stopped.
    Errors: DataError for an image that cannot be read; RunFolderError if OUT holds something else;
    ResourceError for a full disk.
    """
    if shard_size < 1:
        raise ConfigError(f"shard_size is {shard_size} megabytes", remedy="use 1 or more")
    parts, folder = Dataset(data, reading).parts(), Path(out)
    account_of(data, parts).log()
    plan = _plan(parts, shard_size)
    check_name(folder, "pack into another folder")
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{out} is a file", remedy="pack into a new folder")
    try:
        with claim_folder(folder, "pack into another folder"):
            if _start(folder, plan):
                _write(folder, parts, plan, shard_size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(
                f"the disk of {out} is full", remedy="make room, and pack again: it goes on"
            ) from error
        raise RunFolderError(
            f"{out} cannot be written: {error.strerror or error}",
            remedy="choose a folder that may be written",
        ) from error
    shards = read_object(folder / MANIFEST, RunFolderError, "pack into another folder")["parts"]
    images = sum(len(source) for source in parts.values())
    return Packed(folder, sum(map(len, shards.values())), images)
