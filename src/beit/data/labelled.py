"""Labelled images and their split into training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beit.config.data import FolderConfig
from beit.config.reading import AS_RECOGNISED, Reading
from beit.data.account import joined
from beit.data.copies import merge_copies
from beit.data.folders import LAYOUTS, Folders
from beit.data.label_files import (
    check_learnable,
    is_label_file,
    sources_from_list,
)
from beit.data.layout import empty_classes, names_at
from beit.data.listing import quoted
from beit.data.options import check_options_apply
from beit.data.sources import (
    FileSource,
    ImageSource,
    Record,
    SelectedSource,
    is_multi_label,
    must_exist,
    target_at,
)
from beit.data.splits import counted, open_stored, part_to_learn_from
from beit.data.splitting import few, hold_out
from beit.errors import ConfigError, DataError


class LabelledSplits(NamedTuple):
    """The same classes with the same ids in every part."""

    train: ImageSource
    validation: ImageSource
    test: ImageSource | None


class _Relabelled(SelectedSource):
    """Some images of a source, with other classes."""

    def __init__(self, source: ImageSource, indices: np.ndarray, targets: np.ndarray,
                 classes: tuple[str, ...]) -> None:  # fmt: skip
        super().__init__(source, indices)
        self.targets = targets
        self.classes = classes

    def read(self, index: int) -> Record:
        return super().read(index)._replace(target=target_at(self.targets, index))

    def fingerprint(self) -> str:
        assert self.targets is not None
        digest = hashlib.blake2b(super().fingerprint().encode(), digest_size=16)
        digest.update("\n".join(self.classes).encode("utf-8", "surrogateescape"))
        digest.update(self.targets.tobytes())
        return digest.hexdigest()


def _known_labels(
    source: ImageSource, ids: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which images have labels with an id, or none at all; and the labels of every image by these
    ids, int64 [n] or bool [n, classes]."""
    targets = source.targets
    assert targets is not None
    if targets.ndim == 1:
        return np.flatnonzero(ids[targets] >= 0), ids[targets]
    labels = np.zeros((len(targets), classes), np.bool_)
    labels[:, ids[ids >= 0]] = targets[:, ids >= 0]
    return np.flatnonzero(labels.any(axis=1) | ~targets.any(axis=1)), labels


def _with_classes_of(
    path: str, train: ImageSource, other: ImageSource, part: str, options: FolderConfig
) -> tuple[ImageSource, tuple[str, ...]]:
    """The other split with the class ids of training, and what was decided.

    Errors: DataError if its classes are others, unless that is accepted.
    """
    missing = [name for name in train.classes if name not in other.classes]
    extra = [name for name in other.classes if name not in train.classes]
    if not missing and not extra and train.classes == other.classes:
        return other, ()
    differences = [
        f"{word} {quoted(names, 5)}"
        for word, names in (("lacks", missing), ("has besides", extra))
        if names
    ]
    if differences and not options.accept_missing_classes:
        raise DataError(
            f"{path}: the classes of {part}/ differ from those of train/: it "
            + " and ".join(differences),
            remedy="use the same classes in every part, spelled alike; or go on without these "
            "with --accept-missing-classes",
        )
    known = {name: number for number, name in enumerate(train.classes)}
    ids = np.array([known.get(name, -1) for name in other.classes], np.int64)
    kept, targets = _known_labels(other, ids, len(train.classes))
    if not len(kept):
        raise DataError(
            f"{path}: {part}/ has none of the classes of train/", remedy="spell them alike"
        )
    relabelled = _Relabelled(other, kept, targets[kept], train.classes)
    if not differences:
        return relabelled, ()
    notes = [f"{part} {' and '.join(differences)} (--accept-missing-classes)"]
    if len(kept) < len(other):
        notes.append(f"{len(other) - len(kept)} images of {part} are of other classes and skipped")
    return relabelled, tuple(notes)


def _enough_classes(path: str, source: ImageSource) -> None:
    """DataError for a single class, but where an image may also be without it."""
    if len(source.classes) < 2 and not is_multi_label(source):
        raise DataError(
            f"{path} has only one class, {quoted(list(source.classes))}",
            remedy=f"a classifier needs at least two; use {LAYOUTS}",
        )


def _open_folder(path: str, options: FolderConfig) -> dict[str, ImageSource]:
    """Training, and validation and test where they have folders of their own."""
    folders = Folders(path, options)
    splits = folders.layout.splits
    if folders.layout.folds and not options.fold:
        raise DataError(
            f"{path} is divided into the folds {quoted(list(splits), 10)}, and none is chosen",
            remedy=f"say which one is held out for validation: --fold {next(iter(splits))}",
        )
    training, level = folders.training(), folders.class_level()
    found: dict[str, ImageSource] = {"train": folders.source(training, level=level)}
    if options.fold:
        found["val"] = folders.source([options.fold], level=level)
    for name in ("val", "test"):
        if name not in splits:
            continue
        if _has_classes(folders, name, level):
            found[name] = folders.source([name], level=level)
        else:
            account = found["train"].account
            note = f"{splits[name]}/ has no class folders and is not measured"
            found["train"].account = replace(account, notes=(*account.notes, note))
    return found


def _has_classes(folders: Folders, name: str, level: int) -> bool:
    """Whether a split has class folders; a test set that comes without answers needs none."""
    place = folders.layout.splits[name]
    empty = empty_classes(folders.tree, place, level)
    named = names_at(folders.tree, place, level)
    where = Path(folders.path, place)
    if empty and not folders.options.accept_missing_classes:
        raise DataError(
            f"class folders without images in {where}: {quoted(empty)}",
            remedy="add images to them or remove them",
        )
    if not named and name == "val" and folders.tree.total(place):
        raise DataError(f"{where} has no class folders", remedy=f"use {LAYOUTS}")
    return bool(named) or name == "val"


def _check_labels(path: str, parts: Mapping[str, ImageSource]) -> dict[str, ImageSource]:
    """The splits of shards and datasets; a test split may lack labels and is then not measured.

    Errors: DataError if the others lack labels.
    """
    found = {"train": part_to_learn_from(path, parts)}
    found |= {name: parts[name] for name in ("val", "test") if name in parts}
    for name, source in list(found.items()):
        if source.targets is not None:
            continue
        if name == "test":
            del found[name]
            continue
        skipped = [f"{one.count:,} {one.kind} ({one.reason})" for one in source.account.skipped]
        facts = [*source.account.notes, *(f"it holds besides {one}" for one in skipped[:3])]
        raise DataError(
            "; ".join([f"{path} has no label for every image", *facts]),
            remedy="label all: shards with .cls or .json beside each image (their folders are no "
            "classes), datasets in a column called label",
        )
    return found


def _found(path: str, reading: Reading, *, multi_label: bool) -> dict[str, ImageSource]:
    """Training, and validation and test where there are images for them, as they lie there."""
    check_options_apply(path, reading)
    stored = open_stored(path)
    if stored:
        return _check_labels(path, stored)
    must_exist(path)
    if is_label_file(path):
        parts = sources_from_list(path, reading.label_file, labelled=True, multi_label=multi_label)
        found = _check_labels(path, parts)
        check_learnable(path, found["train"])
        return found
    if Path(path).is_dir():
        return _open_folder(path, reading.folders)
    raise DataError(f"{path} is neither a folder nor a list file", remedy=f"use {LAYOUTS}")


def _with_several_labels(path: str, found: dict[str, ImageSource]) -> dict[str, ImageSource]:
    """The same, each image once with all of its labels.

    Errors: ConfigError for stored images with one class each, which lie there once.
    """
    merged = {
        name: merge_copies(source) if isinstance(source, FileSource) else source
        for name, source in found.items()
    }
    if not is_multi_label(merged["train"]):
        raise ConfigError(
            f"multi_label was given, and every image of {path} has one class there",
            remedy="write a list of labels for each image, or leave --multi-label out: it is for "
            "class folders and lists that name an image several times",
        )
    return merged


def open_labelled(
    path: str,
    *,
    split: float,
    per_class: int | None,
    seed: int,
    reading: Reading = AS_RECOGNISED,
    multi_label: bool = False,
) -> LabelledSplits:
    """Labelled images: class folders, also in splits or folds, a label file, tar shards or a
    Hugging Face dataset (see `beit.data.splits.open_stored`, `beit.data.layout`).

    Args:
        path: Where they are.
        split: The fraction of each class that is held out where there is no split for validation,
            the same for the same seed. A test split stays one, and is never trained on.
        per_class: Keeps that many training images of each class, to study few labels.
        seed: Decides both.
        reading: What settles data that can be read in several ways.
        multi_label: The same file under several classes, as a link or as a copy, and an image that
            a list names several times, is one image with several labels.

    Returns:
        The splits; the account of each is that of all.

    Raises:
        DataError: If a path, images or labels are missing, if classes are empty, differ between
            the splits, have too few images, or can be read in two ways.
        ConfigError: For a `split` or `per_class` that is out of range, and options that do not fit.
    """
    found = _found(path, reading, multi_label=multi_label)
    if multi_label:
        found = _with_several_labels(path, found)
    accounts = [source.account for source in found.values()]
    train, decided = found["train"], list[str]()
    _enough_classes(path, train)
    for name in ("val", "test"):
        if name in found:
            found[name], notes = _with_classes_of(path, train, found[name], name, reading.folders)
            decided += notes
    if "val" not in found:
        train, found["val"] = hold_out(train, split, seed)
        percent = f"{100 * split:g} % of each class"
        decided.append(f"{percent} is held out for validation (--split {split:g})")
    found["train"] = train if per_class is None else few(train, per_class, seed)
    found = {name: found[name] for name in ("train", "val", "test") if name in found}
    account = joined(path, accounts, counted(found), decided)
    for source in found.values():
        source.account = account
    return LabelledSplits(found["train"], found["val"], found.get("test"))


def open_single_label(
    path: str, *, split: float, seed: int, use: str, reading: Reading = AS_RECOGNISED
) -> LabelledSplits:
    """`open_labelled` for what takes one class per image; `use` says what, for the message.

    Errors: those of `open_labelled`, and DataError for images with several labels.
    """
    splits = open_labelled(path, split=split, per_class=None, seed=seed, reading=reading)
    if is_multi_label(splits.train):
        raise DataError(
            f"the images of {path} may have several labels each, and {use} takes one class for "
            "each image",
            remedy="several labels are learned by `beit finetune` and measured by `beit evaluate`",
        )
    return splits
