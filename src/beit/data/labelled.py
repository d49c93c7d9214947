"""Labelled pictures and their split into training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beit.config.label_file import BY_HEADINGS, LabelFileConfig
from beit.data.label_files import check_options_apply, is_label_file
from beit.data.listing import Found, find_pictures, no_pictures, quoted
from beit.data.parts import open_stored, part_to_learn_from
from beit.data.sources import (
    VALIDATION_FOLDERS,
    FileSource,
    ImageSource,
    check_learnable,
    must_exist,
    select,
    sources_from_list,
    split_folder,
)
from beit.errors import ConfigError, DataError

LAYOUTS = (
    "one folder per class, either directly or under train/ and val/, or a list file with a label "
    "after each path"
)


class LabelledSplits(NamedTuple):
    """The same classes with the same ids in every part."""

    train: ImageSource
    validation: ImageSource
    test: ImageSource | None


def _class_folders(path: str, part: str) -> Found:
    """The pictures of one part, checked: classes there are, and none is empty."""
    where = str(Path(path, part))
    found = find_pictures(where)
    if not found.paths:
        raise no_pictures(where, found.others)
    if not found.folders:
        raise DataError(f"{where} has no class folders", remedy=f"use {LAYOUTS}")
    filled = {name.split("/")[0] for name in found.paths if "/" in name}
    empty = [name for name in found.folders if name not in filled]
    if empty:
        raise DataError(
            f"class folders without pictures in {where}: {quoted(empty)}",
            remedy="add pictures to them or remove them",
        )
    return found


def _labelled(path: str, part: str, found: Found, classes: list[str]) -> FileSource:
    ids = {name: index for index, name in enumerate(classes)}
    inside = [name for name in found.paths if "/" in name]
    beside = len(found.paths) - len(inside)
    note = f"{beside} pictures beside the class folders are left out" if beside else ""
    prefix = f"{part}/" if part else ""
    return FileSource(
        path,
        [prefix + name for name in inside],
        targets=[ids[name.split("/")[0]] for name in inside],
        classes=tuple(classes),
        note=note,
    )


def _same_classes(path: str, train: Sequence[str], other: Sequence[str], part: str) -> None:
    missing = [name for name in train if name not in other]
    extra = [name for name in other if name not in train]
    if missing or extra:
        differences = [
            f"{word} {quoted(names, 5)}"
            for word, names in (("lacks", missing), ("has besides", extra))
            if names
        ]
        raise DataError(
            f"{path}: the classes of {part}/ differ from those of train/: it "
            + " and ".join(differences),
            remedy="use the same classes in every part, spelled alike",
        )


def _two_classes(path: str, classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise DataError(
            f"{path} has only one class, {quoted(list(classes))}",
            remedy=f"a classifier needs at least two; use {LAYOUTS}",
        )


def _ranks(source: ImageSource, indices: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """The indices in a random order that depends on each key alone.

    Adding or removing a picture so leaves the others on their side of a split.
    """

    def rank(index: int) -> bytes:
        text = f"{purpose}:{seed}:{source.key(index)}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()

    return np.array(sorted(indices.tolist(), key=rank), dtype=np.int64)


def _by_class(source: ImageSource) -> list[np.ndarray]:
    assert source.targets is not None
    return [np.flatnonzero(source.targets == target) for target in range(len(source.classes))]


def _held_out(source: ImageSource, split: float, seed: int) -> tuple[ImageSource, ImageSource]:
    """Training and validation: a share of each class, at least one on either side if it has two."""
    if not 0 < split < 1:
        raise ConfigError(
            f"split is {split}, and there is no val/ folder",
            remedy="use a share between 0 and 1, such as 0.2, or provide train/ and val/",
        )
    kept, held = [], []
    for indices in _by_class(source):
        count = min(max(round(len(indices) * split), 1), len(indices) - 1)
        order = _ranks(source, indices, seed, "split")
        held.append(order[:count])
        kept.append(order[count:])
    train, validation = (np.sort(np.concatenate(parts)) for parts in (kept, held))
    if not len(validation):
        raise DataError(
            "every class has a single picture: none is left for validation",
            remedy="add pictures, or provide train/ and val/",
        )
    return select(source, train), select(source, validation)


def _few(source: ImageSource, per_class: int, seed: int) -> ImageSource:
    """The training part with exactly `per_class` pictures of each class."""
    if per_class < 1:
        raise ConfigError(f"per_class is {per_class}", remedy="use 1 or more, or leave it out")
    groups = _by_class(source)
    short = [
        f"{name} ({len(indices)})"
        for name, indices in zip(source.classes, groups, strict=True)
        if len(indices) < per_class
    ]
    if short:
        raise DataError(
            f"classes with fewer than {per_class} pictures for training: {quoted(short, 5)}",
            remedy=f"use at most {min(len(indices) for indices in groups)} pictures per class",
        )
    chosen = [_ranks(source, indices, seed, "few")[:per_class] for indices in groups]
    return select(source, np.sort(np.concatenate(chosen)))


def _open_folder(path: str, split: float, seed: int) -> LabelledSplits:
    part = split_folder(path, VALIDATION_FOLDERS)
    if part is None or split_folder(path, ("train",)) is None:
        found = _class_folders(path, "")
        _two_classes(path, tuple(found.folders))
        train, validation = _held_out(_labelled(path, "", found, found.folders), split, seed)
        return LabelledSplits(train, validation, None)
    found = _class_folders(path, "train")
    _two_classes(str(Path(path, "train")), tuple(found.folders))
    sources: dict[str, ImageSource] = {"train": _labelled(path, "train", found, found.folders)}
    for other in (part, split_folder(path, ("test",))):
        if other is not None:
            found_other = _class_folders(path, other)
            _same_classes(path, found.folders, found_other.folders, other)
            sources[other] = _labelled(path, other, found_other, found.folders)
    return LabelledSplits(sources["train"], sources[part], sources.get("test"))


def _open_stored(
    path: str, parts: Mapping[str, ImageSource], split: float, seed: int
) -> LabelledSplits:
    """Shards, datasets and label files; a part for testing may lack labels and is then left
    out."""
    train = part_to_learn_from(path, parts)
    found = next((name for name in VALIDATION_FOLDERS if name in parts), None)
    test = parts.get("test")
    test = None if test is None or test.targets is None else test
    for source in (train, train if found is None else parts[found]):
        if source.targets is None:
            raise DataError(
                f"{path} has no label for every picture"
                + (f": {source.note}" if source.note else ""),
                remedy="label all: shards with .cls or .json beside each picture, datasets in a "
                "column called label",
            )
    _two_classes(path, train.classes)
    for name, other in ((found, found and parts[found]), ("test", test)):
        if name and other:
            _same_classes(path, train.classes, other.classes, name)
    if found is None:
        return LabelledSplits(*_held_out(train, split, seed), test)
    return LabelledSplits(train, parts[found], test)


def open_labelled(
    path: str,
    *,
    split: float,
    per_class: int | None,
    seed: int,
    label_file: LabelFileConfig = BY_HEADINGS,
) -> LabelledSplits:
    """Labelled pictures: class folders, also under `train/` and `val/`, a label file, tar shards or
    a Hugging Face dataset (see `beit.data.parts.open_stored`).

    `val/` may be called `valid/` or `validation/`, and `test/` may stand beside it. Without them a
    share `split` of each class is held out for validation, the same for the same seed. `per_class`
    then keeps that many training pictures of each class, to study few labels.
    Errors: DataError if a path, pictures or labels are missing, if classes are empty, differ
    between the parts or have too few pictures; ConfigError for a `split` or `per_class` that is
    out of range, and `label_file` options that do not fit.
    """
    check_options_apply(path, label_file)
    stored = open_stored(path)
    if not stored:
        must_exist(path)
    if stored:
        splits = _open_stored(path, stored, split, seed)
    elif Path(path).is_dir():
        splits = _open_folder(path, split, seed)
    elif is_label_file(path):
        parts = sources_from_list(path, label_file, labelled=True)
        check_learnable(path, part_to_learn_from(path, parts))
        splits = _open_stored(path, parts, split, seed)
    else:
        raise DataError(f"{path} is neither a folder nor a list file", remedy=f"use {LAYOUTS}")
    if per_class is None:
        return splits
    return splits._replace(train=_few(splits.train, per_class, seed))
