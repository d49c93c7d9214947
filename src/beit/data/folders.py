"""Folders of images as sources: listed once, then divided into splits and classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from beit.config.data import FolderConfig
from beit.data.account import Account, Skipped, SkippedFiles, only_read
from beit.data.layout import (
    MASKS,
    WHOLE,
    FolderTree,
    class_levels,
    class_name,
    empty_classes,
    names_at,
    read_layout,
    two_readings,
    words_for,
)
from beit.data.listing import find_images, natural_key, no_images, quoted
from beit.data.sources import FileSource, images_per_class
from beit.errors import ConfigError, DataError

PLAIN = FolderConfig()
TRAIN = "train"
LAYOUTS = (
    "one folder per class, either directly or under train/ and val/, or a list file with a label "
    "after each path"
)
LABEL_FILES = (".csv", ".tsv", ".jsonl")


TABLES = (".csv", ".tsv", ".jsonl")


def _tables(folder: str) -> list[str]:
    """The files in a folder that may say the class of each image in it."""
    return sorted(str(one) for one in Path(folder).iterdir() if one.suffix.lower() in TABLES)


class Folders:
    """The images below a folder, and what its folders mean.

    Errors: DataError if there are no images, or for a layout with two plausible readings.
    """

    def __init__(self, path: str, options: FolderConfig = PLAIN) -> None:
        found = find_images(path)
        if not found.paths:
            raise no_images(path, found.skipped)
        self.path, self.options = path, options
        self.tree = FolderTree(found.counts)
        self.layout = read_layout(path, self.tree)
        self._paths = found.paths
        self._skipped = self._skipped_by_all(found.skipped)
        self._level = options.class_level
        self._check_fold()

    def _check_fold(self) -> None:
        fold, splits = self.options.fold, self.layout.splits
        if fold and not self.layout.folds:
            raise ConfigError(
                f"the fold {fold} was requested, and {self.path} is not in folds",
                remedy="leave --fold out, or name data with folders fold1/, fold2/, ...",
            )
        if fold and fold not in splits:
            raise ConfigError(
                f"{self.path} has no fold {fold}", remedy=f"use one of {quoted(list(splits), 20)}"
            )

    def training(self) -> tuple[str, ...]:
        """The splits that are trained on. Errors: DataError if there is none."""
        splits = self.layout.splits
        if self.layout.folds:
            return tuple(name for name in splits if name != self.options.fold)
        for name in (WHOLE, TRAIN):
            if name in splits:
                return (name,)
        raise DataError(
            f"{self.path} has no split for training, only {quoted(list(splits))}",
            remedy="call one of them train",
        )

    def levels(self, splits: Sequence[str] = ()) -> dict[int, list[str]]:
        """The levels at which classes may lie, by the first of the splits that has any."""
        for place in (self.layout.splits[name] for name in splits or self.layout.splits):
            level = self._level
            if level is not None:
                return {level: names_at(self.tree, place, level)}
            if found := class_levels(self.tree, place):
                return found
        return {}

    def _level_or_nothing(self) -> int:
        """Where the classes lie; 0 where there are none, or that can be read in two ways."""
        levels = self.levels()
        return next(iter(levels)) if len(levels) == 1 else 0

    def class_level(self) -> int:
        """Where the classes lie, for what needs them.

        Errors: DataError if there are none, only one, empty ones, or two readings.
        """
        levels = self.levels(self.training())
        if len(levels) > 1:
            raise two_readings(self.path, levels)
        place = self.layout.splits[self.training()[0]]
        where = str(Path(self.path, place))
        level, names = next(iter(levels.items()), (1, names_at(self.tree, place, 1)))
        if not names and place and self.layout.splits.get(WHOLE) == place and not self._masked():
            names = [place.rpartition("/")[2]]  # the only folder there is was gone into
        if self._level is None:
            self._refuse_repeated(place, names)
        empty = empty_classes(self.tree, place, level)
        if empty and names:
            raise DataError(
                f"class folders without images in {where}: {quoted(empty)}",
                remedy="add images to them or remove them",
            )
        if not names:
            because = f": {'; '.join(self.layout.notes)}" if self._masked() else ""
            instead = "; or learn from the masks with `beit segment`" if because else ""
            if not because and (tables := _tables(where)):
                because = f", and {quoted(tables)} may hold them"
                instead = f"; to read such a list, give its path itself: {tables[0]}"
            raise DataError(
                f"{where} has no class folders{because}",
                remedy=f"use {LAYOUTS}{instead}{self._label_files()}",
            )
        if len(names) < 2:
            raise DataError(
                f"{where} has only one class, {quoted(names)}",
                remedy=f"a classifier needs at least two; use {LAYOUTS}{self._label_files()}",
            )
        return level

    def _label_files(self) -> str:
        """For a remedy: the files beside the images that may hold their labels."""
        place = Path(self.path)
        found = [one for one in place.iterdir() if one.suffix.lower() in LABEL_FILES]
        names = sorted((str(one) for one in found if one.is_file()), key=natural_key)
        return f"; these may be such files: {quoted(names)}" if names else ""

    def _masked(self) -> bool:
        return MASKS in self.layout.skipped.values()

    def _refuse_repeated(self, place: str, names: Sequence[str]) -> None:
        """DataError for a class folder that holds folders called as the classes beside it."""
        known = set(names)
        for folder in self.tree.filled(place):
            inside = [each.rpartition("/")[2] for each in self.tree.filled(folder)]
            repeated = [name for name in inside if class_name(name) in known]
            if repeated and len(names) > 1:
                raise DataError(
                    f"{self.path}/{folder} holds {quoted(repeated)}, which are classes beside it: "
                    "it may be a class, or a part of the data once more",
                    remedy="move it away; or take it for a class with --class-level 1",
                )

    def _skipped_by_all(self, skipped: SkippedFiles) -> tuple[Skipped, ...]:
        """What no split reads: found while listing, and in folders that mean something else."""
        for folder, reason in self.layout.skipped.items():
            first = next(path for path in self._paths if path.startswith(f"{folder}/"))
            skipped.add(reason, first, self.tree.total(folder))
        return skipped.found()

    def _members(self, place: str) -> Iterator[str]:
        """The paths below a folder, without those that are skipped."""
        skipped = tuple(f"{folder}/" for folder in self.layout.skipped)
        start = f"{place}/" if place else ""
        if not start and not skipped:
            return iter(self._paths)
        return (p for p in self._paths if p.startswith(start) and not p.startswith(skipped))

    def source(
        self, splits: Sequence[str], *, level: int | None = None, below: str = ""
    ) -> FileSource:
        """The images of some splits, with their account.

        `level`: where the classes lie; images outside of them are skipped. None takes classes only
        where every image has one. `below`: a folder to which names are relative instead.
        Errors: DataError if the splits hold no images.
        """
        depth = self._level_or_nothing() if level is None else level
        beside = SkippedFiles()
        paths: list[str] = []
        folders: list[str] = []
        once: dict[str, str] = {}  # one text for each folder, not for each image
        for place in (self.layout.splits[name] for name in splits):
            start = len(place) + 1 if place else 0
            for path in self._members(place):
                parts = path[start:].split("/", depth) if depth else []
                if len(parts) > depth > 0:
                    folders.append(once.setdefault(parts[depth - 1], parts[depth - 1]))
                elif level is not None:
                    beside.add(f"no label: beside the class folders of {place or 'all'}/", path)
                    continue
                paths.append(path[len(below) + 1 :] if below else path)
        if not paths:
            where = str(Path(self.path, self.layout.splits[splits[0]]))
            raise no_images(where, find_images(where).skipped)
        if len(folders) < len(paths):
            folders = []
        source = _labelled(str(Path(self.path, below)) if below else self.path, paths, folders)
        source.account = self._account(source, beside, splits, max(depth, 1))
        return source

    def _account(
        self, source: FileSource, beside: SkippedFiles, splits: Sequence[str], level: int
    ) -> Account:
        split = splits[0] if len(splits) == 1 else TRAIN
        return Account(
            data=self.path,
            layout=words_for(self.layout, self.tree, source.classes, level),
            images={split: len(source)},
            classes={split: images_per_class(source)},
            skipped=(*self._skipped, *beside.found()),
            notes=(*self.layout.notes, *self._notes(splits, source.classes)),
        )

    def _notes(self, splits: Sequence[str], classes: Sequence[str]) -> Iterator[str]:
        places = self.layout.splits.items()
        others = {name: self.tree.total(at) for name, at in places if name not in splits}
        yield from only_read(splits, others)
        alike: dict[str, list[str]] = {}
        for name in classes:
            alike.setdefault(name.strip().casefold(), []).append(name)
        for names in alike.values():
            if len(names) > 1:
                yield f"the classes {quoted(names, 8)} differ in case or blanks only"
        levels = self.levels()
        if len(levels) > 1:
            yield f"no classes are taken: {two_readings(self.path, levels).problem}"


def open_every_image(path: str) -> FileSource:
    """All images below a folder to be used one by one: neither splits nor classes count, and of
    images beside masks only the images are taken.

    Errors: DataError if there are none.
    """
    found = find_images(path)
    if not found.paths:
        raise no_images(path, found.skipped)
    try:
        skipped = read_layout(path, FolderTree(found.counts)).skipped
    except DataError:  # what can be read in two ways as data to learn from has images all the same
        skipped = {}
    masks = tuple(f"{folder}/" for folder, reason in skipped.items() if reason == MASKS)
    paths = []
    for one in found.paths:
        if one.startswith(masks):
            found.skipped.add(MASKS, one)
        else:
            paths.append(one)
    account = Account(
        data=path,
        layout="every image below it",
        images={WHOLE: len(paths)},
        skipped=found.skipped.found(),
    )
    return FileSource(path, paths, account=account)


def _labelled(root: str, paths: list[str], folders: list[str]) -> FileSource:
    """A source whose classes are the names of these folders, one for each path, or none."""
    names = {folder: class_name(folder) for folder in set(folders)}
    classes = tuple(sorted(set(names.values()), key=natural_key))
    numbers = {name: number for number, name in enumerate(classes)}
    targets = np.fromiter((numbers[names[one]] for one in folders), np.int64, len(folders))
    return FileSource(root, paths, targets=targets if folders else None, classes=classes)
