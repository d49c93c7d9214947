"""Which shards there are: those a path or a pattern stands for, and what `beit data pack` says of
its own, so that none of them has to be opened before its images are read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from beit.data.folder_names import ROLES, split_name, split_named_by
from beit.data.layout import WHOLE
from beit.data.listing import find_images, natural_key
from beit.data.shard_cache import Shard
from beit.data.storage import expand, is_remote, read_all
from beit.errors import BeitError, DataError, of_another_format
from beit.json_object import parse_json
from beit.terminal import quoted

MANIFEST = "shards.json"
UNFINISHED = "packing.json"
FORMAT = 1


class PackedPart(NamedTuple):
    """What a manifest says of one part."""

    shards: tuple[Shard, ...]
    images: tuple[int, ...]
    """Of each shard."""
    fingerprint: str
    """As `ImageSource.fingerprint`."""
    classes: tuple[str, ...]
    """Empty without labels."""


class Listed(NamedTuple):
    """The shards of one part."""

    places: Sequence[str]
    packed: PackedPart | None = None


def describe(packed: PackedPart) -> dict[str, Any]:
    """A part as it stands in a manifest, beside the names of its shards."""
    return {
        "fingerprint": packed.fingerprint,
        "classes": packed.classes,
        "images": packed.images,
        "bytes": [shard.size for shard in packed.shards],
        "sha256": [shard.sha256 for shard in packed.shards],
    }


def _described(places: Sequence[str], about: Mapping[str, Any] | None) -> PackedPart | None:
    """None of a manifest that was written before it said more than names."""
    if about is None:
        return None
    shards = map(Shard, places, map(int, about["bytes"]), map(str, about["sha256"]))
    packed = PackedPart(
        tuple(shards), tuple(map(int, about["images"])), about["fingerprint"],
        tuple(about["classes"]),
    )  # fmt: skip
    if not len(places) == len(packed.shards) == len(packed.images):
        raise ValueError("it says different numbers of shards")
    return packed


def shard_parts(path: str) -> dict[str, Listed] | None:
    """The shards that a path, an address or a pattern stands for, by part; None if it is none.

    A folder that was packed lists itself what it has, also behind an address. Any other folder
    counts if .tar files lie in it or in its train/, val/ and so on, and images nowhere.
    Errors: DataError for shards that are not there.
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
    return {part: Listed(places) for part, places in found.items()}


def _by_split(path: str, places: Sequence[str]) -> dict[str, Listed]:
    """Shards in one place, divided by the splits in their names: train-0001.tar, val-0001.tar.

    Errors: DataError if only some of them name one.
    """
    parts: dict[str, list[str]] = {}
    for place in places:
        words = re.split(r"[^A-Za-z]+", PurePosixPath(place).name.removesuffix(".tar"))
        parts.setdefault(split_named_by(words) or WHOLE, []).append(place)
    if len(parts.keys() - {WHOLE}) < 2:
        return {WHOLE: Listed(places)}
    if WHOLE in parts:
        raise DataError(
            f"some shards of {path} say in their names that they are "
            f"{' or '.join(filter(None, parts))}, others, such as {quoted(parts[WHOLE], 1)}, do "
            "not",
            remedy="name those to read by a pattern, or put them into folders train/, val/, test/",
        )
    return {part: Listed(found) for part, found in parts.items()}


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
            found[part] = Listed(places, _described(places, about.get(part)))
        return found
    except BeitError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder} is not a folder of shards: its {MANIFEST} cannot be read: {error}",
            remedy="name the shards themselves, as in shards/{000..127}.tar, or pack the folder "
            "with `beit data pack`",
        ) from error
