"""Packs any images into tar shards. Only whole shards are visible, and a stopped packing continues
where it was."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from beit.atomic_io import replace_file
from beit.claim import check_name, claim_folder, is_free
from beit.config.data import AS_RECOGNISED, Reading
from beit.data.dataset import Dataset
from beit.data.decode import read_header
from beit.data.file_types import EXTENSIONS, IMAGE_EXTENSIONS
from beit.data.listing import short_hash
from beit.data.shard_index import SUFFIX, ShardIndex, build_index, read_index, write_index
from beit.data.shards import FORMAT, MANIFEST, UNFINISHED, open_shards
from beit.data.sources import ImageSource, Record, account_of
from beit.data.storage import Stamp
from beit.errors import (
    FULL,
    ConfigError,
    DataError,
    ResourceError,
    RunFolderError,
    UnreadableError,
    of_another_format,
)
from beit.json_object import read_object

logger = logging.getLogger(__name__)

MEGABYTE = 10**6
ELSEWHERE = "pack into another folder"


class Packed(NamedTuple):
    """The shards that were written."""

    folder: Path
    shards: int
    images: int


def _members(name: str, record: Record, classes: tuple[str, ...]) -> dict[str, bytes]:
    """The files of one sample: a single label as its id (.cls) and name (.json), several by name
    only (.json)."""
    files = {name: record.data}
    if record.target is not None and classes:
        stem = name.rpartition(".")[0]
        if isinstance(record.target, int):
            files[f"{stem}.cls"] = str(record.target).encode()
            described: dict[str, str | list[str]] = {"class_name": classes[record.target]}
        else:
            numbers = np.flatnonzero(record.target).tolist()
            described = {"labels": [classes[number] for number in numbers]}
        files[f"{stem}.json"] = json.dumps(described).encode()
    return files


class _Packer:
    """Writes a source's images in order, shard by shard.

    In the layout of WebDataset the files of a sample share what precedes the first dot of their
    names. So each name is given one dot, and what precedes it is different for all samples.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source, self._next = source, 0
        self._taken: set[int] = set()
        """The hashes of what precedes the dots."""

    def write(self, folder: Path, shard_bytes: int) -> list[str]:
        """Write all shards that are not there yet. Returns the names of all."""
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tar.*"):
            leftover.unlink()
        shards: list[str] = []
        while self._next < len(self._source):
            shard = folder / f"{len(shards):06d}.tar"
            index = _complete(shard)
            try:
                if index is None:
                    self._write_shard(shard, shard_bytes)
                    logger.info("%s: %d of %d images", shard.name, self._next, len(self._source))
                else:
                    self._pass_over(shard, index)
            except UnreadableError as error:
                raise DataError(
                    f"{self._source.key(self._next)} cannot be read: {error.reason}",
                    remedy="repair it or take it away, and pack again: whole shards are kept",
                ) from error
            shards.append(shard.name)
        return shards

    def _name(self) -> str:
        """The name of the next image: its key, changed where the layout does not allow it. If the
        key lacks an extension, the content tells it."""
        parts = self._source.key(self._next).split("/")
        path = PurePosixPath(*(part for part in parts if part not in ("", ".", "..")))
        extension = path.suffix
        if extension.lower() not in IMAGE_EXTENSIONS:
            header = read_header(self._source.read(self._next).data)
            extension = EXTENSIONS[header.format][0]
            path = path.with_name(path.name + extension)
        stem = first = str(path.with_name(path.name.removesuffix(extension).replace(".", "_")))
        number = 1
        while (hashed := short_hash(os.fsencode(stem))) in self._taken:
            number += 1
            stem = f"{first}-{number}"
        self._taken.add(hashed)
        return stem + extension

    def _pass_over(self, shard: Path, index: ShardIndex) -> None:
        for name in index.names:
            packed = self._next < len(self._source) and os.fsencode(self._name()) == name
            self._next += 1
            if not packed:
                raise DataError(f"{shard} holds other images than those to pack", remedy=ELSEWHERE)

    def _write_shard(self, shard: Path, shard_bytes: int) -> None:
        partial = shard.with_name(f".{shard.name}.{os.getpid()}")
        try:
            with partial.open("w+b") as file:
                with tarfile.open(fileobj=file, mode="w", encoding="utf-8") as archive:
                    while self._next < len(self._source) and file.tell() < shard_bytes:
                        self._add(archive)
                file.flush()
                os.fsync(file.fileno())
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                index = write_index(build_index(file)._replace(sha256=sha256), Stamp(size, ""))
            # The index comes first, so that every visible shard has one.
            replace_file(shard.with_name(shard.name + SUFFIX), [index])
            partial.replace(shard)
        finally:
            partial.unlink(missing_ok=True)

    def _add(self, archive: tarfile.TarFile) -> None:
        files = _members(self._name(), self._source.read(self._next), self._source.classes)
        self._next += 1
        for name, data in files.items():
            member = tarfile.TarInfo(name)  # no times or owners: the same images give equal shards
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _complete(shard: Path) -> ShardIndex | None:
    """The index of a shard that an earlier call finished; None if none did."""
    beside = shard.with_name(shard.name + SUFFIX)
    if not (shard.is_file() and beside.is_file()):
        return None
    return read_index(beside.read_bytes(), Stamp(shard.stat().st_size, ""))


def _start(out: Path, plan: dict[str, object]) -> bool:
    """Begin, or continue with the same plan; False if all is packed already.

    Raises RunFolderError if the folder holds something else.
    """
    for name in (MANIFEST, UNFINISHED):
        if (out / name).is_file():
            known = read_object(out / name, RunFolderError, ELSEWHERE)
            if known.get("format") != FORMAT:
                raise of_another_format(
                    RunFolderError,
                    f"the folder of shards {out}",
                    found=known.get("format"),
                    reads=FORMAT,
                    made_by=known.get("beit"),
                )
            if "pictures" in known:
                known["images"] = known.pop("pictures")  # an old name
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


def _write(out: Path, parts: Mapping[str, ImageSource], shard_size: int) -> None:
    """Write all shards that are not there yet, then the manifest."""
    import beit

    fingerprints = {part: source.fingerprint() for part, source in parts.items()}
    plan = {"format": FORMAT, "shard_size": shard_size, "images": fingerprints}
    if not _start(out, plan):
        return
    names: dict[str, list[str]] = {}
    for part, source in parts.items():
        written = _Packer(source).write(out / part, shard_size * MEGABYTE)
        names[part] = [f"{part}/{name}" if part else name for name in written]
    about = {}
    for part, shards in names.items():
        about[part] = open_shards([str(out / name) for name in shards], part).described()
    manifest = plan | {"beit": beit.__version__, "parts": names, "about": about}
    replace_file(out / MANIFEST, [json.dumps(manifest, indent=1).encode()])
    (out / UNFINISHED).unlink()


def pack(data: str, out: str, *, shard_size: int = 500, reading: Reading = AS_RECOGNISED) -> Packed:
    """Write images in any form as tar shards with their indexes: `OUT/000000.tar`, by part where
    the data have parts (`OUT/train/000000.tar`), and `OUT/shards.json` once all are there.

    Images keep their bytes, order and names, so that a run learns the same from them; their labels
    stand beside them as `.cls` and `.json`. After an interruption the same call continues.

    Args:
        data: Images in any form that a run reads.
        out: The folder to write: new, empty, or from a stopped call.
        shard_size: Megabytes at which a shard is closed.
        reading: How folders and label files are read, where they do not say it themselves.

    Raises:
        DataError: An image cannot be read.
        RunFolderError: `out` holds something else.
        ResourceError: The disk is full.
    """
    if shard_size < 1:
        raise ConfigError(f"shard_size is {shard_size} megabytes", remedy="use 1 or more")
    parts, folder = Dataset(data, reading).parts(), Path(out)
    account_of(data, parts).log()
    check_name(folder, ELSEWHERE)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{out} is a file", remedy="pack into a new folder")
    try:
        with claim_folder(folder, ELSEWHERE):
            _write(folder, parts, shard_size)
    except OSError as error:
        if error.errno in FULL:
            raise ResourceError(
                f"the disk of {out} is full", remedy="make room, and pack again to continue"
            ) from error
        raise RunFolderError(
            f"{out} cannot be written: {error.strerror or error}",
            remedy="choose a folder that may be written",
        ) from error
    shards = read_object(folder / MANIFEST, RunFolderError, ELSEWHERE)["parts"]
    images = sum(len(source) for source in parts.values())
    return Packed(folder, sum(map(len, shards.values())), images)
