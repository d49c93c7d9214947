"""Folders of images as sources: listed once, then divided into splits and classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from beit.config.data import FolderConfig
from beit.data.account import SkippedFiles
from beit.data.class_names import spelled_alike
from beit.data.folder_names import (
    IMAGES,
    beside_every_jpeg,
    doubt,
    last_name,
    masks_among,
    masks_beside,
)
from beit.data.image_names import composed
from beit.data.label_file import label_files_in
from beit.data.layout import BESIDE_SPLITS, MASKS, WHOLE, FolderTree, read_layout
from beit.data.listing import Found, find_images, natural_key, no_images
from beit.data.name_patterns import classes_in, suggested_patterns
from beit.data.sources import FileSource, account_for, number_labels
from beit.errors import ConfigError, DataError
from beit.terminal import counted, quoted

TRAIN = "train"
LAYOUTS = (
    "one folder per class, either directly or under train/ and val/, a list file with a label "
    "after each path, or --label-pattern where the names of images say the class"
)


class Folders:
    """The images below a folder, and what its folders mean.

    `splits` has the folder of each split, relative to the path (undivided data are the split
    `WHOLE`), `sizes` its number of images; `folds` is true if they are folds, any of which may be
    held out.

    Raises:
        DataError: If there are no images, or the layout is ambiguous.
        ConfigError: If the fold in the options does not exist.
    """

    def __init__(self, path: str, options: FolderConfig) -> None:
        found = _images_below(path)
        self.path, self._options = path, options
        tree = FolderTree(path, found.counts, found.paths)
        self._layout = read_layout(tree, classes_at_top=options.class_level == 1)
        self.splits, self.folds = self._layout.splits, self._layout.folds
        skipped = tree.within(self._layout.skipped)
        self._tree = tree.without(skipped)
        self.sizes = {name: self._tree.total(place) for name, place in self.splits.items()}
        read = self._tree.within(dict.fromkeys(self.splits.values(), ""))
        others = [folder for folder in found.counts if folder not in read]
        reasons = {folder: skipped.get(folder, BESIDE_SPLITS) for folder in others}
        self._paths = _outside(found, reasons)
        self._skipped = found.skipped.found()
        fold = options.fold
        if fold and not self.folds:
            raise ConfigError(
                f"the fold {fold} was requested, and {self.path} is not in folds",
                remedy="leave --fold out, or name data with folders fold1/, fold2/, ...",
            )
        if fold and fold not in self.splits:
            raise ConfigError(
                f"{self.path} has no fold {fold}",
                remedy=f"use one of {quoted(list(self.splits), 20)}",
            )

    def part(self, name: str) -> FileSource:
        """One split, with names relative to its folder."""
        return self.source([name], below=self.place(name))

    def place(self, name: str) -> str:
        """The folder of a split; `WHOLE` for undivided data."""
        return self.splits[name] if name else WHOLE

    def labelled(self, training: Sequence[str]) -> dict[str, FileSource]:
        """Training and, where they have folders, validation and test, each with its classes.

        Raises DataError if there are no classes or only one, some are empty, or it is ambiguous
        which folders they are.
        """
        splits, fold = self.splits, self._options.fold
        if self.folds and not fold:
            raise DataError(
                f"{self.path} is divided into the folds {quoted(list(splits), 10)}, and none is "
                "chosen",
                remedy=f"choose the one to hold out for validation: --fold {next(iter(splits))}",
            )
        level = None if self._options.label_pattern else self._class_level(training)
        train = self.source(training, level=level)
        found = {TRAIN: train}
        if fold:
            found["val"] = self.source([fold], level=level)
        for name in ("val", "test"):
            if name not in splits:
                continue
            if self._has_classes(name, level, train.classes):
                found[name] = self.source([name], level=level)
            else:
                lacks = "class folders" if level else "labels in its names"
                note = f"{splits[name]}/ has no {lacks} and is not measured"
                train.account = replace(train.account, notes=(*train.account.notes, note))
        return found

    def source(
        self, splits: Sequence[str], *, level: int | None = None, below: str = ""
    ) -> FileSource:
        """The images of some splits, with their account.

        Args:
            splits: The names of the splits.
            level: The level of the class folders below each split; images outside of them are
                skipped. None takes classes only if every image has one.
            below: The folder that names are relative to; empty for the path of the data.

        Raises:
            DataError: If the splits hold no images.
        """
        levels = self._levels()
        problem = self._doubtful(levels)
        depth = level or (next(iter(levels), 0) if problem is None else 0)
        beside = SkippedFiles()
        paths: list[str] = []
        folders: list[str] = []
        classes: dict[str, str] = {}  # one string per folder, not per image
        inside: list[str] = []
        for place in (self.splits[name] for name in splits):
            start = len(place) + 1 if place else 0
            for path in self._members(place):
                parts = path[start:].split("/", depth)
                if len(parts) > depth > 0:
                    name = parts[depth - 1]
                    folders.append(classes.get(name) or classes.setdefault(name, composed(name)))
                    if "/" in parts[depth]:
                        inside.append(path)
                elif level is not None:
                    beside.add(f"no label: beside the class folders of {place or 'all'}/", path)
                    continue
                paths.append(path[len(below) + 1 :] if below else path)
        if not paths:
            where = str(Path(self.path, self.splits[splits[0]]))
            raise no_images(where, find_images(where).skipped)
        if level is None and len({*folders}) == 1 and re.fullmatch(IMAGES, folders[0].lower()):
            folders.clear()  # such as val/images/ beside the classes of train/
        if pattern := self._options.label_pattern:
            folders = classes_in(self._names(splits), pattern, needed=[*splits] != ["test"])
        named, targets = number_labels(folders) if len(folders) == len(paths) else ((), None)
        root = str(Path(self.path, below)) if below else self.path
        source = FileSource(root, paths, targets=targets, classes=named)
        source.account = account_for(
            source,
            self.path,
            self._in_words(named, max(depth, 1)),
            split=splits[0] if len(splits) == 1 else TRAIN,
            skipped=(*self._skipped, *beside.found()),
            notes=(*self._layout.notes, *self._notes(named, inside, problem)),
        )
        return source

    def _in_words(self, classes: Collection[str], level: int) -> str:
        """The layout in a few words, for the account."""
        what = "one folder per class" if classes else "images without classes"
        if classes and self._options.label_pattern:
            what = f"classes in the names of images (--label-pattern {self._options.label_pattern})"
        elif classes and level > 1:
            what += f" at level {level}"
        if self.folds:
            return f"{what}, in folds: {', '.join(f'{name}/' for name in self.splits)}"
        places = [f"{place}/" for split, place in self.splits.items() if split]
        if places:
            return f"{what}, in the splits {', '.join(places)}"
        place = self.splits[WHOLE]
        nested = not classes and bool(self._tree.filled(place))
        return what + ", in nested folders" * nested + (f", in {place}/" if place else "")

    def _names(self, splits: Sequence[str]) -> list[str]:
        """The paths of the images of some splits, relative to the folder of each."""
        return [path[len(place) + bool(place) :] for place in map(self.splits.__getitem__, splits)
                for path in self._members(place)]  # fmt: skip

    def _members(self, place: str) -> Iterator[str]:
        """The paths below a folder."""
        return (path for path in self._paths if path.startswith(f"{place}/" if place else ""))

    def _notes(
        self, classes: Sequence[str], inside: Sequence[str], problem: DataError | None
    ) -> Iterator[str]:
        yield from spelled_alike(classes)
        if inside and classes:
            where = {one.rpartition("/")[0]: None for one in inside}
            yield (
                f"{counted(len(inside), 'image')} in folders inside the class folders: "
                f"{quoted([f'{one}/' for one in where])}"
            )
        if problem is not None:
            yield f"no classes are taken: {problem.problem}"
        if self._lists:
            named = [Path(one).relative_to(self.path).as_posix() for one in self._lists]
            yield f"lists of labels or splits are only read if given as --data: {quoted(named)}"

    def _levels(self, splits: Sequence[str] = ()) -> dict[int, list[str]]:
        """The levels that may be those of the classes, with their names, in the first split that
        has any."""
        if self._options.label_pattern:
            return {}
        places = [self.splits[name] for name in splits or self.splits]
        if (stated := self._options.class_level) is not None:
            return {stated: self._tree.classes_at(places[0], stated)}
        return next(filter(None, map(self._tree.class_levels, places)), {})

    def _doubtful(self, levels: Mapping[int, list[str]]) -> DataError | None:
        """Why it is uncertain which folders are the classes; None if it is certain."""
        if self._options.class_level is not None or not levels:
            return None
        if len(levels) == 1:
            return self._no_classes
        readings = "; or ".join(
            f"the folders {'inside these' if level > 1 else 'at the top'}, {quoted(names, 4)} "
            f"(--class-level {level})"
            for level, names in levels.items()
        )
        return DataError(
            f"the classes of {self.path} may be {readings}",
            remedy=f"say which: --class-level {', or --class-level '.join(map(str, levels))}; if "
            "those at the top are parts of the data, call them train, val and test, or fold1, "
            f"fold2, ...{self._label_files()}",
        )

    @cached_property
    def _no_classes(self) -> DataError | None:
        """Why the only folders that may be classes may be something else; None if they may not."""
        found = ((place, self._tree.class_levels(place)) for place in self.splits.values())
        place, levels = next(one for one in found if one[1])
        ((level, names),) = levels.items()
        folders = filter(self._tree.total, self._tree.below(place, level))
        sizes = {folder: self._tree.total(folder) for folder in folders}
        known = [{*self._tree.classes_at(other, level)} for other in self.splits.values()]
        instead = doubt(
            sizes,
            lambda: self._files_in(place, level),
            in_splits=len(known) > 1 and bool(set.intersection(*known)),
        )
        if not instead:
            return None
        where = Path(self.path, place)
        return DataError(
            f"the folders {quoted(names)} of {where} may be classes, or {instead}",
            remedy=f"if they are classes, add --class-level {level}; else give a list file with "
            f"a label after each path{self._label_files()}",
        )

    def _files_in(self, place: str, level: int) -> dict[str, list[str]]:
        """The images below each folder at a level, relative to it and without extension."""
        found: dict[str, list[str]] = {}
        depth = level + place.count("/") + bool(place)
        for path in self._members(place):
            *folder, name = path.split("/", depth)
            if len(folder) == depth:
                found.setdefault("/".join(folder), []).append(name.rpartition(".")[0])
        return found

    def _class_level(self, training: Sequence[str]) -> int:
        """The level of the class folders, which must be there. Raises DataError as `labelled`."""
        levels = self._levels(training)
        if (problem := self._doubtful(levels)) is not None:
            raise problem
        place = self.splits[training[0]]
        where, masked = str(Path(self.path, place)), MASKS in self._layout.skipped.values()
        level, names = next(iter(levels.items()), (1, self._tree.classes_at(place, 1)))
        if not names and place and self.splits.get(WHOLE) == place and not masked:
            names = [last_name(place)]  # the only folder, whose contents are read
        if self._options.class_level is None and level == 1:
            self._refuse_repeated(place, names)
        if len(names) > 1 or not all(re.fullmatch(IMAGES, name.lower()) for name in names):
            self._refuse_empty(place, level)
        if len(names) == 1:
            raise DataError(
                f"{where} has only one class, {quoted(names)}",
                remedy=f"a classifier needs at least two; use {LAYOUTS}"
                f"{suggested_patterns(self._names(training))}{self._label_files()}",
            )
        if names:
            return level
        because = f": {'; '.join(self._layout.notes)}" if masked and self._layout.notes else ""
        instead = "; or learn from the masks with `beit segment`" if masked else ""
        if self._lists:
            because += f", and {quoted(self._lists)} may hold labels"
            instead += f"; to read such a list, give its path itself: {self._lists[0]}"
        if tables := [one for one in self._skipped if one.kind == ".parquet"]:
            because += f", and tables are not read: {quoted(tables[0].examples)}"
            instead += "; write names and labels into a CSV file, and give its path itself"
        instead += suggested_patterns(self._names(training))
        raise DataError(f"{where} has no class folders{because}", remedy=f"use {LAYOUTS}{instead}")

    def _label_files(self) -> str:
        """The files beside the images that may hold their labels, for a remedy."""
        return f"; these may be such files: {quoted(self._lists)}" if self._lists else ""

    @cached_property
    def _lists(self) -> list[str]:
        """The files around the images that may hold their labels or splits."""
        around = {"": None}  # the folders from the top to the splits, and those without images
        for place in self.splits.values():
            parts = place.split("/") if place else []
            around |= dict.fromkeys("/".join(parts[:end]) for end in range(1, len(parts) + 1))
        for folder in [*around]:
            below = self._tree.children(folder)
            around |= dict.fromkeys(each for each in below if not self._tree.total(each))
        return [one for folder in around for one in label_files_in(str(Path(self.path, folder)))]

    def _refuse_empty(self, place: str, level: int) -> None:
        every = {composed(last_name(each)) for each in self._tree.below(place, level)}
        for labels in masks_beside([*every]).values():
            every.difference_update(labels)  # such as labels/ of text files beside images/
        empty = sorted(every - set(self._tree.classes_at(place, level)), key=natural_key)
        if empty:
            raise DataError(
                f"class folders without images in {Path(self.path, place)}: {quoted(empty)}",
                remedy="add images to them or remove them",
            )

    def _refuse_repeated(self, place: str, names: Sequence[str]) -> None:
        """Raise DataError if a class folder holds folders with the names of classes beside it."""
        for folder in self._tree.filled(place):
            inside = [last_name(each) for each in self._tree.filled(folder)]
            repeated = [name for name in inside if composed(name) in names]
            if repeated and len(names) > 1:
                raise DataError(
                    f"{self.path}/{folder} holds {quoted(repeated)}, which are classes beside it: "
                    "it may be a class, or a part of the data once more",
                    remedy="move it away; or take it for a class with --class-level 1",
                )

    def _has_classes(self, split: str, level: int | None, classes: Sequence[str]) -> bool:
        """Whether a split has classes; a test set without answers may have none, or a new one."""
        if level is None:
            return self.source([split]).targets is not None
        place = self.splits[split]
        if not self._options.accept_missing_classes:
            self._refuse_empty(place, level)
        named = self._tree.classes_at(place, level)
        if len(named) == 1 and named[0] not in classes:
            # Such as test/unknown/ and val/images/.
            named = named if split == "val" and not re.fullmatch(IMAGES, named[0].lower()) else []
        if not named and split == "val" and self._tree.total(place):
            train = Path(self.path, self.splits.get(TRAIN, ""))
            raise DataError(
                f"{Path(self.path, place)} has no class folders",
                remedy=f"use {LAYOUTS}; or learn from {train} alone, of which a fraction is held "
                f"out{self._label_files()}",
            )
        return bool(named) or split == "val"


def _images_below(path: str) -> Found:
    """The images below a folder, without files that are masks of others by their names.

    Raises DataError if there are none.
    """
    found = find_images(path)
    if not found.paths:
        raise no_images(path, found.skipped)
    masks = masks_among(found.paths) | beside_every_jpeg(found.paths, ending=True)
    if not masks:
        return found
    for one in masks:
        found.skipped.add(f"{MASKS} by their names", one)
        found.counts[one.rpartition("/")[0]] -= 1
    return found._replace(paths=[one for one in found.paths if one not in masks])


def _outside(found: Found, skipped: Mapping[str, str]) -> list[str]:
    """The images outside of the skipped folders; those directly in these are counted as skipped,
    for the reason given for the folder."""
    if not any(found.counts[folder] for folder in skipped):
        return found.paths
    paths = []
    for path in found.paths:
        folder = path.rpartition("/")[0]
        if folder in skipped:
            found.skipped.add(skipped[folder], path)
        else:
            paths.append(path)
    return paths


def open_every_image(path: str) -> FileSource:
    """All images below a folder, to be used one by one: splits and classes are ignored, and masks
    beside images are skipped.

    Raises DataError if there are none.
    """
    found = _images_below(path)
    tree = FolderTree(path, found.counts, found.paths)
    try:
        skipped = read_layout(tree).skipped
    except DataError:  # ambiguous for training, but the images can be used one by one
        skipped = {}
    masks = tree.within({folder: reason for folder, reason in skipped.items() if reason == MASKS})
    source = FileSource(path, _outside(found, masks))
    source.account = account_for(
        source, path, "every image below it", skipped=found.skipped.found()
    )
    return source
