"""Labelled pictures and their split into training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beit.config.data import FolderConfig
from beit.data.account import joined
from beit.data.folders import LAYOUTS, PLAIN, Folders
from beit.data.layout import empty_classes, names_at
from beit.data.listing import LIST_EXTENSIONS, quoted
from beit.data.parts import counted, open_stored, part_to_learn_from
from beit.data.sources import (
    ImageSource,
    Record,
    SelectedSource,
    must_exist,
    select,
    source_from_list,
)
from beit.errors import ConfigError, DataError


class LabelledSplits(NamedTuple):
    """The same classes with the same ids in every part."""

    train: ImageSource
    validation: ImageSource
    test: ImageSource | None


class _Relabelled(SelectedSource):
    """Some images of a source, with the class ids of another one."""

    def __init__(self, source: ImageSource, indices: np.ndarray, ids: np.ndarray,
                 classes: tuple[str, ...]) -> None:  # fmt: skip
        super().__init__(source, indices)
        assert self.targets is not None
        self.targets = ids[self.targets]
        self.classes = classes

    def read(self, index: int) -> Record:
        assert self.targets is not None
        return super().read(index)._replace(target=int(self.targets[index]))

    def fingerprint(self) -> str:
        assert self.targets is not None
        digest = hashlib.blake2b(super().fingerprint().encode(), digest_size=16)
        digest.update("\n".join(self.classes).encode("utf-8", "surrogateescape"))
        digest.update(self.targets.tobytes())
        return digest.hexdigest()


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
    assert other.targets is not None
    if not options.accept_missing_classes or other.targets.ndim > 1:
        raise DataError(
            f"{path}: the classes of {part}/ differ from those of train/: it "
            + " and ".join(differences),
            remedy="use the same classes in every part, spelled alike; or go on without these "
            "with --accept-missing-classes",
        )
    known = {name: number for number, name in enumerate(train.classes)}
    ids = np.array([known.get(name, -1) for name in other.classes], np.int64)
    kept = np.flatnonzero(ids[other.targets] >= 0)
    if not len(kept):
        raise DataError(
            f"{path}: {part}/ has none of the classes of train/", remedy="spell them alike"
        )
    notes = (
        f"{part} {' and '.join(differences)} (--accept-missing-classes)",
        *([f"{len(other) - len(kept)} images of {part} are of other classes and skipped"]
          if extra else []),
    )  # fmt: skip
    return _Relabelled(other, kept, ids, train.classes), notes


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
            f"class folders without pictures in {where}: {quoted(empty)}",
            remedy="add pictures to them or remove them",
        )
    if not named and name == "val" and folders.tree.total(place):
        raise DataError(f"{where} has no class folders", remedy=f"use {LAYOUTS}")
    return bool(named) or name == "val"


def _open_list(path: str) -> dict[str, ImageSource]:
    source = source_from_list(path)
    if source.targets is None:
        raise DataError(f"the list {path} has no labels", remedy=f"use {LAYOUTS}")
    return {"train": source}


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
        notes = "; ".join(source.account.notes)
        raise DataError(
            f"{path} has no label for every picture" + (f": {notes}" if notes else ""),
            remedy="label all: shards with .cls or .json beside each picture, datasets in a "
            "column called label",
        )
    return found


def open_labelled(
    path: str,
    *,
    split: float,
    per_class: int | None,
    seed: int,
    folders: FolderConfig = PLAIN,
) -> LabelledSplits:
    """Labelled pictures: class folders, also in splits or folds, a labelled list, tar shards or a
    Hugging Face dataset (see `beit.data.parts.open_stored`, `beit.data.layout`).

    Without a split for validation a share `split` of each class is held out, the same for the same
    seed; a test split stays one, and is never trained on. `per_class` then keeps that many training
    pictures of each class, to study few labels. `folders` settles what folders mean. The account of
    each split is that of all.
    Errors: DataError if a path, pictures or labels are missing, if classes are empty, differ
    between the parts, have too few pictures, or can be read in two ways; ConfigError for a `split`
    or `per_class` that is out of range.
    """
    stored = open_stored(path)
    if not stored:
        must_exist(path)
    if stored:
        found = _check_labels(path, stored)
    elif Path(path).is_dir():
        found = _open_folder(path, folders)
    elif Path(path).suffix.lower() in LIST_EXTENSIONS:
        found = _open_list(path)
    else:
        raise DataError(f"{path} is neither a folder nor a list file", remedy=f"use {LAYOUTS}")
    accounts = [source.account for source in found.values()]
    train, decided = found["train"], list[str]()
    _two_classes(path, train.classes)
    for name in ("val", "test"):
        if name in found:
            found[name], notes = _with_classes_of(path, train, found[name], name, folders)
            decided += notes
    if "val" not in found:
        train, found["val"] = _held_out(train, split, seed)
        decided.append(f"{split:g} of each class are held out for validation (--split)")
    found["train"] = train if per_class is None else _few(train, per_class, seed)
    found = {name: found[name] for name in ("train", "val", "test") if name in found}
    account = joined(path, accounts, counted(found), decided)
    for source in found.values():
        source.account = account
    return LabelledSplits(found["train"], found["val"], found.get("test"))
