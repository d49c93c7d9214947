"""Labelled pictures and their split into training, validation and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from beit.config.label_file import BY_HEADINGS, LabelFileConfig
from beit.data.copies import merge_copies
from beit.data.label_files import check_options_apply, is_label_file
from beit.data.listing import Found, find_pictures, no_pictures, quoted
from beit.data.parts import open_stored, part_to_learn_from
from beit.data.sources import (
    VALIDATION_FOLDERS,
    FileSource,
    ImageSource,
    check_learnable,
    is_multi_label,
    must_exist,
    sources_from_list,
    split_folder,
)
from beit.data.splitting import few, hold_out
from beit.errors import ConfigError, DataError

LAYOUTS = (
    "one folder per class, either directly or under train/ and val/, or a list file with a label "
    "after each path"
)


ReadAs = Callable[[FileSource], FileSource]
"""What is made of images in class folders or a list."""


def _as_it_is(source: FileSource) -> FileSource:
    return source


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


def _enough_classes(path: str, source: ImageSource) -> None:
    """DataError for a single class, but where an image may also be without it."""
    if len(source.classes) < 2 and not is_multi_label(source):
        raise DataError(
            f"{path} has only one class, {quoted(list(source.classes))}",
            remedy=f"a classifier needs at least two; use {LAYOUTS}",
        )


def _open_folder(path: str, split: float, seed: int, read: ReadAs) -> LabelledSplits:
    part = split_folder(path, VALIDATION_FOLDERS)
    if part is None or split_folder(path, ("train",)) is None:
        found = _class_folders(path, "")
        source = read(_labelled(path, "", found, found.folders))
        _enough_classes(path, source)
        train, validation = hold_out(source, split, seed)
        return LabelledSplits(train, validation, None)
    found = _class_folders(path, "train")
    train = read(_labelled(path, "train", found, found.folders))
    _enough_classes(str(Path(path, "train")), train)
    sources: dict[str, ImageSource] = {"train": train}
    for other in (part, split_folder(path, ("test",))):
        if other is not None:
            found_other = _class_folders(path, other)
            _same_classes(path, found.folders, found_other.folders, other)
            sources[other] = read(_labelled(path, other, found_other, found.folders))
    return LabelledSplits(sources["train"], sources[part], sources.get("test"))


def _open_stored(
    path: str, parts: Mapping[str, ImageSource], split: float, seed: int, *, multi_label: bool
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
    if multi_label and not is_multi_label(train):
        raise ConfigError(
            f"multi_label was given, and every image of {path} has one class there",
            remedy="write a list of labels for each image, or leave --multi-label out: it is for "
            "class folders and lists that name an image several times",
        )
    _enough_classes(path, train)
    for name, other in ((found, found and parts[found]), ("test", test)):
        if name and other:
            _same_classes(path, train.classes, other.classes, name)
    if found is None:
        return LabelledSplits(*hold_out(train, split, seed), test)
    return LabelledSplits(train, parts[found], test)


def open_labelled(
    path: str,
    *,
    split: float,
    per_class: int | None,
    seed: int,
    label_file: LabelFileConfig = BY_HEADINGS,
    multi_label: bool = False,
) -> LabelledSplits:
    """Labelled pictures: class folders, also under `train/` and `val/`, a label file, tar shards or
    a Hugging Face dataset (see `beit.data.parts.open_stored`).

    `val/` may be called `valid/` or `validation/`, and `test/` may stand beside it. Without them a
    share `split` of each class is held out for validation, the same for the same seed. `per_class`
    then keeps that many training pictures of each class, to study few labels. With `multi_label`
    the same file under several classes is one image with several labels, as a link or as a copy.
    Errors: DataError if a path, pictures or labels are missing, if classes are empty, differ
    between the parts or have too few pictures; ConfigError for a `split` or `per_class` that is
    out of range, and `label_file` options that do not fit.
    """
    check_options_apply(path, label_file)
    stored = open_stored(path)
    if not stored:
        must_exist(path)
    read = merge_copies if multi_label else _as_it_is
    if stored:
        splits = _open_stored(path, stored, split, seed, multi_label=multi_label)
    elif Path(path).is_dir():
        splits = _open_folder(path, split, seed, read)
    elif is_label_file(path):
        parts = sources_from_list(path, label_file, labelled=True, multi_label=multi_label)
        check_learnable(path, part_to_learn_from(path, parts))
        splits = _open_stored(path, parts, split, seed, multi_label=multi_label)
    else:
        raise DataError(f"{path} is neither a folder nor a list file", remedy=f"use {LAYOUTS}")
    if per_class is None:
        return splits
    return splits._replace(train=few(splits.train, per_class, seed))


def open_single_label(
    path: str, *, split: float, seed: int, use: str, label_file: LabelFileConfig = BY_HEADINGS
) -> LabelledSplits:
    """`open_labelled` for what takes one class per image; `use` says what, for the message.

    Errors: those of `open_labelled`, and DataError for images with several labels.
    """
    splits = open_labelled(path, split=split, per_class=None, seed=seed, label_file=label_file)
    if is_multi_label(splits.train):
        raise DataError(
            f"the images of {path} may have several labels each, and {use} takes one class for "
            "each image",
            remedy="several labels are learned by `beit finetune` and measured by `beit evaluate`",
        )
    return splits
