"""Training, validation and test: which parts data have, whatever form they come in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from beit.config.label_file import BY_HEADINGS, LabelFileConfig
from beit.data.hugging_face import is_hugging_face, open_hugging_face
from beit.data.label_files import check_options_apply, is_label_file
from beit.data.listing import quoted
from beit.data.shards import open_shards, shard_parts
from beit.data.sources import (
    OTHER_PARTS,
    VALIDATION_FOLDERS,
    WHOLE,
    ImageSource,
    open_source,
    sources_from_list,
    split_folder,
)
from beit.errors import DataError


def open_stored(path: str) -> dict[str, ImageSource] | None:
    """The parts of data that are no pictures in files of their own; None if they are.

    - Tar shards in the layout of WebDataset: `shards/{000..127}.tar`, `shards/*.tar`, a folder of
      them, a folder that `beit data pack` wrote; also behind an address such as s3://... or https://...
    - Hugging Face datasets: `hf:NAME`, a folder that `save_to_disk` wrote, Parquet files.

    Errors: DataError if something is missing or damaged; ResourceError if a library is missing.
    """
    if is_hugging_face(path):
        return dict(open_hugging_face(path))
    shards = shard_parts(path)
    if shards is None:
        return None
    return {part: open_shards(places, part) for part, places in shards.items()}


def part_to_learn_from(path: str, parts: Mapping[str, ImageSource]) -> ImageSource:
    """The whole if data are not divided, else the part for training."""
    for name in (WHOLE, "train"):
        if name in parts:
            return parts[name]
    raise DataError(
        f"{path} has no part for training, only {quoted(list(parts))}",
        remedy="call one of them train",
    )


def open_parts(path: str, label_file: LabelFileConfig = BY_HEADINGS) -> dict[str, ImageSource]:
    """Every part of data in any form, by the name it has there; undivided data are the part ``.

    Errors: as for `open_source`.
    """
    check_options_apply(path, label_file)
    stored = open_stored(path)
    if stored:
        return stored
    if is_label_file(path):
        return sources_from_list(path, label_file)
    if split_folder(path, ("train",)) and split_folder(path, OTHER_PARTS):
        found = [name for name in ("train", *OTHER_PARTS) if split_folder(path, (name,))]
        return {name: open_source(str(Path(path, name))) for name in found}
    return {WHOLE: open_source(path)}


def open_part(
    path: str, split: str, label_file: LabelFileConfig = BY_HEADINGS, *, labelled: bool = False
) -> tuple[str, ImageSource]:
    """One part of data and what to call it: the part `split` where there are parts, else all.

    `val`, `valid` and `validation` mean the same. Errors: DataError if there are parts, but not
    this one, and for labels of a label file that cannot be used if the part must be `labelled`.
    """
    check_options_apply(path, label_file)
    names = VALIDATION_FOLDERS if split in VALIDATION_FOLDERS else (split,)
    folder = split_folder(path, names)
    if folder is not None:
        place = str(Path(path, folder))
        return place, open_source(place)
    stored = open_stored(path)
    if is_label_file(path):
        stored = sources_from_list(path, label_file, labelled=labelled)
    if stored is None:
        if split_folder(path, ("train",)):
            raise _no_such_part(path, ["train"], split)
        return path, open_source(path)
    if set(stored) == {WHOLE}:
        return path, stored[WHOLE]
    for name in names:
        if name in stored:
            return f"{path} ({name})", stored[name]
    raise _no_such_part(path, list(stored), split)


def _no_such_part(path: str, found: list[str], split: str) -> DataError:
    return DataError(
        f"{path} has the parts {quoted(found)}, but none called {split}",
        remedy="choose another --split, or name the folder of the part itself",
    )
