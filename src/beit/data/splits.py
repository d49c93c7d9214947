"""Training, validation and test: which splits data have, whatever form they come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from beit.config.reading import AS_RECOGNISED, Reading
from beit.data.account import Account, Counted, joined, only_read
from beit.data.folders import Folders
from beit.data.hugging_face import is_hugging_face, open_hugging_face
from beit.data.label_files import is_label_file, sources_from_list
from beit.data.layout import ROLES, WHOLE, split_name
from beit.data.listing import quoted
from beit.data.options import check_options_apply
from beit.data.shards import open_shards, shard_parts
from beit.data.sources import ImageSource, images_per_class, must_exist, open_source
from beit.errors import DataError


def open_stored(path: str) -> dict[str, ImageSource] | None:
    """The splits of data that are no images in files of their own; None if they are.

    - Tar shards in the layout of WebDataset: `shards/{000..127}.tar`, `shards/*.tar`, a folder of
      them, a folder that `beit data pack` wrote; also behind an address such as s3://... or https://...
    - Hugging Face datasets: `hf:NAME`, a folder that `save_to_disk` wrote, Parquet files.

    Splits are called train, val and test, however they are called there; others keep their names.
    Errors: DataError if something is missing or damaged; ResourceError if a library is missing.
    """
    found: dict[str, ImageSource]
    if is_hugging_face(path):
        found = {**open_hugging_face(path)}
    else:
        shards = shard_parts(path)
        if shards is None:
            return None
        found = {part: open_shards(places, part) for part, places in shards.items()}
    named: dict[str, ImageSource] = {}
    for name, source in found.items():
        if split_of(name) in named:
            raise DataError(
                f"{path} has several splits for {split_of(name)}: {quoted(list(found), 8)}",
                remedy="keep one of them",
            )
        named[split_of(name)] = source
    for name, source in named.items():
        counts = counted({name: source})
        source.account = joined(path, [source.account], counts)
    return named


def part_to_learn_from(path: str, parts: Mapping[str, ImageSource]) -> ImageSource:
    """The whole if data are not divided, else the part for training."""
    for name in (WHOLE, "train"):
        if name in parts:
            others = {other: len(parts[other]) for other in parts if other != name}
            account = parts[name].account
            notes = (*account.notes, *only_read([name], others))
            parts[name].account = replace(account, notes=notes)
            return parts[name]
    raise DataError(
        f"{path} has no part for training, only {quoted(list(parts))}",
        remedy="call one of them train",
    )


def open_places(path: str, reading: Reading = AS_RECOGNISED) -> dict[str, ImageSource]:
    """Every split of data in any form, by the folder it lies in; undivided data are the split ``.

    The names of images are relative to that folder. Errors: DataError as for `open_source`.
    """
    check_options_apply(path, reading)
    stored = open_stored(path)
    if stored:
        return stored
    if is_label_file(path):
        return sources_from_list(path, reading.label_file)
    if not Path(path).is_dir():
        return {WHOLE: open_source(path)}
    found = Folders(path, reading.folders)
    places = {name: place for name, place in found.layout.splits.items() if found.tree.total(place)}
    return {
        place if name else WHOLE: found.source([name], below=place if name else "")
        for name, place in places.items()
    }


def open_parts(path: str, reading: Reading = AS_RECOGNISED) -> dict[str, ImageSource]:
    """Every split of data in any form, by its name; undivided data are the split ``.

    Errors: DataError as for `open_source`.
    """
    return {split_of(place): source for place, source in open_places(path, reading).items()}


def split_of(place: str) -> str:
    """The split that a folder stands for, by the last of its names that says it."""
    names = place.split("/")
    roles = [split_name(name) for name in names if split_name(name) in ROLES]
    return roles[-1] if roles else names[-1]


def counted(parts: Mapping[str, ImageSource]) -> dict[str, Counted]:
    """How many images each split has, for an account of all."""
    return {name: Counted(len(source), images_per_class(source)) for name, source in parts.items()}


def account_of(path: str, parts: Mapping[str, ImageSource]) -> Account:
    """One account of all splits."""
    return joined(path, [source.account for source in parts.values()], counted(parts))


def open_part(
    path: str, split: str, reading: Reading = AS_RECOGNISED, *, labelled: bool = False
) -> tuple[str, ImageSource]:
    """One split of data and what to call it: `split` where there are splits, else all.

    `val`, `valid`, `validation` and `dev` mean the same, as do `test` and `testing`. Errors:
    DataError if there are splits, but not this one, and for labels of a label file that cannot be
    used if the images must be `labelled`.
    """
    check_options_apply(path, reading)
    wanted = split_name(split)
    stored = open_stored(path)
    if is_label_file(path):
        stored = sources_from_list(path, reading.label_file, labelled=labelled)
    if stored is None:
        must_exist(path)
        if not Path(path).is_dir():
            return path, open_source(path)
        found = Folders(path, reading.folders)
        splits = found.layout.splits
        if set(splits) == {WHOLE}:
            return path, found.source([WHOLE])
        if wanted not in splits:
            raise _no_such_part(path, list(splits), split)
        return str(Path(path, splits[wanted])), found.source([wanted], below=splits[wanted])
    if set(stored) == {WHOLE}:
        return path, stored[WHOLE]
    if wanted not in stored:
        raise _no_such_part(path, list(stored), split)
    own = [str(place) for place in folders_below(path) if split_name(place.name) == wanted]
    if own and shard_parts(own[0]) is not None:  # named as by itself, wherever it is read from
        return own[0], open_source(own[0])
    return f"{path} ({wanted})", stored[wanted]


def folders_below(path: str) -> list[Path]:
    """The folders directly in one; none in an address."""
    place = Path(path)
    return [one for one in place.iterdir() if one.is_dir()] if place.is_dir() else []


def _no_such_part(path: str, found: list[str], split: str) -> DataError:
    return DataError(
        f"{path} has the splits {quoted(found)}, but none called {split}",
        remedy=f"choose one of them, as with --split {found[-1]}, or give the folder itself",
    )
