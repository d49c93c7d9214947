"""Label files: the images they list, with their labels and splits; and what was understood."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence, Set
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from beit.config.data import NO_COLUMN, LabelFileConfig
from beit.data.account import SkippedFiles
from beit.data.file_types import file_to_skip
from beit.data.folder_names import doubt, split_above, split_called, splits_among
from beit.data.image_names import ImageNames, as_text, composed, find_named_images
from beit.data.label_columns import NO, YES, LabelTable, list_to_join
from beit.data.labels import Labels, read_labels
from beit.data.layout import WHOLE
from beit.data.listing import LIST_EXTENSIONS, natural_key
from beit.data.sources import FileSource, account_for, number_labels
from beit.data.tables import plain
from beit.errors import ConfigError, DataError
from beit.terminal import first_few, quoted

_LABELS = re.compile(
    r".*(?<!\.txt)(?<!\.lst)(?<!\.json)|(.*[ _-])?(train|training|trainval|val|valid|validation|"
    r"test|testing|list|labels?|split|annotations?|ground[ _-]?truth)([ _-].*|\d+)?\.(txt|lst)"
)
"""Names of files that may hold labels: tables of any name, text files such as train1.txt,
list_attr.txt and val_annotations.txt, and no JSON, which may hold anything."""


class LabelFile(NamedTuple):
    """A label file as it was understood."""

    splits: dict[str, FileSource]
    """The images of train, val and test in the order of the file; undivided ones are `WHOLE`."""
    problem: DataError | None
    """Why the images have no labels; None if they have."""


def is_label_file(path: str) -> bool:
    """Whether a path is that of a label file, by its extension."""
    return Path(path).suffix.lower() in LIST_EXTENSIONS and Path(path).is_file()


def label_files_in(folder: str) -> list[str]:
    """The files in a folder that may hold the labels of its images, or list those of a split."""
    with os.scandir(folder) as entries:  # looks at names first: there may be millions of images
        found = [
            entry.path for entry in entries
            if (name := entry.name.lower()).endswith(LIST_EXTENSIONS)
            and _LABELS.fullmatch(name)
            and not file_to_skip(entry.name)
            and entry.is_file()
        ]  # fmt: skip
    return sorted(found, key=natural_key)


def read_label_file(path: str, config: LabelFileConfig, *, multi_label: bool = False) -> LabelFile:
    """The images of a label file, their labels and their splits.

    Args:
        path: A table of one row per image (see `beit.data.tables.read_table`). Names are looked up
            as `beit.data.image_names.ImageNames` says.
        config: Options that settle what the headings leave open.
        multi_label: Whether an image that is listed several times has all these labels.

    Returns:
        The images. If the labels cannot be used, `problem` says why, so that training without
        labels can still read the images.

    Raises:
        DataError: If the file names no images, images that do not exist or are ambiguous, one image
            in two splits, or unknown splits.
        ConfigError: If an option names something that the file does not have.
    """
    names = ImageNames(_folder(path, config))
    table = LabelTable(path, names, config)
    images, notes = _images(table, names)
    splits, divided = _splits(table, images)
    labels, problem = _labels(table, splits)
    if labels is not None and multi_label:
        labels = _gathered(labels, images)
    unread = labels.unread if labels else frozenset[int]()
    unlabelled = sorted(
        {*splits} - {split for row, split in enumerate(splits) if row not in unread}
    )
    unanswered = [row for row in sorted(unread) if splits[row] not in unlabelled]
    kept, repeated, twice = _without_repeats(table, images, splits, labels, {*unanswered})
    if twice:
        labels, problem, unanswered = None, twice, []
        kept, repeated, _ = _without_repeats(table, images, splits, None, set())
    where = "" if len(table.columns) == 1 else f": images in {table.image.title}"
    layout = f"a list of images{where}{divided}"
    notes += table.notes
    if {*splits} == {WHOLE} and (others := _other_splits(path)):
        notes += (f"lists of other splits are not read: {quoted(others)}",)
    if labels is not None:
        layout = f"a label file{where}, {labels.layout}{divided}"
        notes += labels.notes
    if len(table.columns) > 1:
        notes += () if table.headed else ("the file has no headings",)
        if problem:
            unused = f"labels are not used: {problem.problem}"
            notes += (f"{unused}; if you need them, {problem.remedy}",)
    members: dict[str, list[int]] = {}
    for row in kept:
        members.setdefault(splits[row], []).append(row)
    notes += tuple(f"the split {split} has no labels" for split in unlabelled)
    # With several labels per image, the further rows of an image add theirs: none is skipped.
    skipped = SkippedFiles(() if multi_label else repeated.found())
    for row in unanswered:
        skipped.add("no label", images[row])
    sources = {}
    for split, found in members.items():
        own = None if split in unlabelled else labels
        source = sources[split] = FileSource(
            names.folder,
            [images[row] for row in found],
            targets=own.targets[found] if own else None,
            classes=own.classes if own else (),
        )
        source.account = account_for(
            source, path, layout, split=split, skipped=skipped.found(), notes=notes
        )
    return LabelFile(sources, problem)


def _other_splits(path: str) -> list[str]:
    """The validation and test lists beside a training list: val.csv beside train.csv."""
    if "train" not in Path(path).stem.lower():
        return []  # without a look at its folder, which may hold a million images
    beside = [Path(one) for one in label_files_in(str(Path(path).parent))]
    found = splits_among([one.stem for one in beside])
    if Path(path).stem not in found.pop("train", []):
        return []
    return [one.name for one in beside if one.stem in chain(*found.values())]


def _folder(path: str, config: LabelFileConfig) -> str:
    folder = config.image_folder
    if folder and not Path(folder).is_dir():
        raise ConfigError(
            f"image_folder is {folder}, and there is no such folder",
            remedy="name the folder that the names in the label file count from",
        )
    return folder or str(Path(path).parent)


def _images(table: LabelTable, names: ImageNames) -> tuple[list[str], tuple[str, ...]]:
    """The image of every row, and notes on how names were read; raises as `find_named_images`."""
    try:
        return find_named_images(table.path, table.lines, table.image.cells, names)
    except DataError as missing:
        if not (other := list_to_join(table.path, table.image.cells[0], names)):
            raise
        raise DataError(
            missing.problem,
            remedy=f"if these are the numbers that {other} gives to images, name that as the data, "
            f"with --join {Path(table.path).name}",
        ) from missing


def _splits(table: LabelTable, images: Sequence[str]) -> tuple[list[str], str]:
    """The split of every row, and where it was found, as the end of a sentence.

    It is stated by the cell in the column of splits or, without one, by the image's folder, if all
    images are in folders of splits.

    Raises:
        DataError: If a cell is empty, a number that may be a fold, or another word, or if only some
            of the images are in folders of splits.
        ConfigError: If an option names a fold that does not exist.
    """
    config, column = table.config, table.split
    folds = {
        option: value
        for option in ("validation_fold", "test_fold")
        if (value := getattr(config, option))
    }
    if column is None:
        if folds:
            raise ConfigError(
                f"a fold was named, and no column of {table.path} is recognised as the split",
                remedy="name the column with --split-column",
            )
        splits: list[str] = [split_above(image) or "" for image in images]
        found = {*splits}
        # A folder train/ alone may be a class: many data sets have one of trains.
        if config.split_column == NO_COLUMN or len(found) < 2 or found == {"", "train"}:
            return [WHOLE] * len(images), ""
        if "" in found:
            examples = [images[splits.index(each)] for each in sorted(found)]
            raise DataError(
                f"some images of {table.path} lie in folders of splits, others do not: "
                + quoted(examples),
                remedy="write the split of each into a column called split; or say with "
                "--split-column none that no folder is one",
            )
        return splits, ", splits by the folders of the images"
    for option, value in folds.items():
        if value not in column.cells:
            held = quoted(sorted(set(column.cells)), 8)
            raise ConfigError(
                f"{option} is {value}, and {column.title} of {table.path} holds {held}",
                remedy="name one of these values",
            )
    meaning: dict[str, str] = {cell: split_called(cell) or "" for cell in set(column.cells)}
    # A column such as is_test. One such as is_train does not say where the other images belong.
    named_by = split_called(plain(column.heading).removeprefix("is"))
    for cell in meaning:
        if named_by and cell.lower() in YES:
            meaning[cell] = named_by
        elif named_by in ("val", "test") and cell.lower() in NO:
            meaning[cell] = "train"
    if folds:
        # Except for values such as id_test, which name a test set other than test.
        meaning |= {cell: split or "train" for cell, split in meaning.items()
                    if cell and not any(map(split_called, re.split(r"[ _.-]", cell)))}  # fmt: skip
        named = {config.test_fold: "test", config.validation_fold: "val"}
        meaning |= {value: split for value, split in named.items() if value}
    for line, cell in zip(table.lines, column.cells, strict=True):
        if not meaning[cell]:
            raise _no_split(table, line, cell)
    return [meaning[cell] for cell in column.cells], f", splits in {column.title}"


def _no_split(table: LabelTable, line: int, cell: str) -> DataError:
    assert table.split is not None
    held = f"{cell!r}" if cell else "nothing"
    where = f"line {line} of {table.path} has {held} in {table.split.title}"
    options = (
        "say with --validation-fold and --test-fold which values these are (all others are for "
        "training), or with --split-column none that the column is not read"
    )
    if cell.replace(".", "", 1).isdecimal() or cell.lower() in (*YES, *NO):
        return DataError(
            f"{where}: it may be a fold, or stand for train, val or test", remedy=options
        )
    return DataError(
        f"{where}, which is no split", remedy=f"write train, val or test; or {options}"
    )


def _labels(table: LabelTable, splits: Sequence[str]) -> tuple[Labels | None, DataError | None]:
    """The labels, or why there are none. A list of names alone is labelled by the folders in the
    names. If an option names the column of the labels or their separator, errors are raised."""
    testing = {row for row, split in enumerate(splits) if split == "test"}
    try:
        return read_labels(table, testing), None
    except DataError as problem:
        if table.config.label_column or table.config.label_separator != "auto":
            raise
        by_folders = None if table.others() else _labels_by_folders(table)
        return by_folders, None if by_folders else problem


def _labels_by_folders(table: LabelTable) -> Labels | None:
    """The labels of a list of names alone, if class folders are part of these: `cat/1.jpg`."""
    paths = [PurePosixPath(as_text(cell).replace("\\", "/")).parts for cell in table.image.cells]
    if len({len(parts) for parts in paths}) > 1:
        return None
    levels = [names for names in zip(*(parts[:-1] for parts in paths), strict=True)
              if len({*names}) > 1 and not all(map(split_called, names))]  # fmt: skip
    if len(levels) != 1:
        return None
    (folders,) = levels
    files: dict[str, list[str]] = {}
    for folder, parts in zip(folders, paths, strict=True):
        files.setdefault(folder, []).append(PurePosixPath(parts[-1]).stem)
    if doubt({folder: len(names) for folder, names in files.items()}, lambda: files):
        return None
    classes, targets = number_labels([*map(composed, folders)])
    return Labels(classes, targets, "labels by the folders in the names", ())


def _gathered(labels: Labels, images: Sequence[str]) -> Labels:
    """The labels, where every row has all labels that its image has in any row, bool [n, C]."""
    targets = labels.targets
    if targets.ndim == 1:
        targets = targets[:, None] == np.arange(len(labels.classes))
    _, number = np.unique(np.array(images, object), return_inverse=True)
    together = np.zeros((number.max() + 1, targets.shape[1]), np.bool_)
    np.logical_or.at(together, number, targets)
    layout = labels.layout
    if len(together) < len(images):
        layout += ", the rows of an image taken together"
    return labels._replace(targets=together[number], layout=layout)


def _without_repeats(
    table: LabelTable,
    images: Sequence[str],
    splits: Sequence[str],
    labels: Labels | None,
    unanswered: Set[int],
) -> tuple[list[int], SkippedFiles, DataError | None]:
    """The rows that name an image for the first time, without unanswered ones; the rows that name
    one again; and the error if their labels differ.

    Raises DataError for an image in two splits: it would be evaluated after training on it.
    """
    first: dict[str, int] = {}
    repeated = SkippedFiles()
    different, divided = [], []
    for row, image in enumerate(images):
        before = first.setdefault(image, row) if row not in unanswered else row
        if before == row:
            continue
        above, line = table.lines[before], table.lines[row]
        lines = f"lines {above} and {line}" if above < line else f"line {line} twice"
        lines += f" ('{image}')"
        repeated.add("listed twice", image)
        if splits[before] != splits[row]:
            divided.append(lines)
        if labels is not None and not np.array_equal(labels.targets[before], labels.targets[row]):
            both = [_label_words(labels, each) for each in (before, row)]
            different.append(f"{lines[:-1]}: {' and '.join(both)})")
    if divided:
        raise DataError(
            f"{table.path} lists images in two splits: {first_few(divided)}",
            remedy="leave each image in one split",
        )
    several = "if an image has several labels, say so with --multi-label"
    remedy = f"list each image once; {several}, or write them into one cell under the heading tags"
    if table.answers is not None:
        remedy = (
            f"mark the annotation that is right as ground truth, or delete the others; {several}"
        )
    problem = different and DataError(
        f"{table.path} gives images two different labels: {first_few(different)}", remedy=remedy
    )
    return list(first.values()), repeated, problem or None


def _label_words(labels: Labels, row: int) -> str:
    """The label of a row, or all of them, for a message."""
    target = labels.targets[row]
    numbers = np.flatnonzero(target) if target.ndim else [target]
    return quoted([labels.classes[number] for number in numbers]) or "none"
