"""Label files: the images they list, with their labels and splits; and what was understood."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beit.config.label_file import LabelFileConfig
from beit.data.account import Account, Skipped, SkippedFiles
from beit.data.image_names import ImageNames, find_named_images
from beit.data.label_cells import Labels
from beit.data.label_columns import Columns, find_columns, is_heading
from beit.data.label_splits import find_splits
from beit.data.label_values import read_labels
from beit.data.listing import LIST_EXTENSIONS, quoted
from beit.data.sources import FileSource, ImageSource, class_counts, images_per_class
from beit.data.tables import read_table
from beit.errors import ConfigError, DataError
from beit.terminal import printable


class ListedImages(NamedTuple):
    """Images of one split, in the order of the file."""

    paths: list[str]
    """Relative to the folder."""
    targets: np.ndarray | None
    """Class ids, int64 [n]; of several labels per image bool [n, C]; None without labels."""


class LabelFile(NamedTuple):
    """A label file as it was understood."""

    folder: str
    """What the paths are relative to."""
    classes: tuple[str, ...]
    """The same in every split; empty without labels."""
    splits: dict[str, ListedImages]
    """train, val and test; undivided images are the split ``."""
    layout: str
    """What was recognised, for the user."""
    notes: tuple[str, ...]
    """What else was decided, and by which rule."""
    skipped: tuple[Skipped, ...]
    problem: DataError | None
    """Why the images have no labels; None where they have."""


def is_label_file(path: str) -> bool:
    """Whether a path is that of a label file, by its extension."""
    return Path(path).suffix.lower() in LIST_EXTENSIONS and Path(path).is_file()


def read_label_file(path: str, config: LabelFileConfig, *, multi_label: bool = False) -> LabelFile:
    """The images of a label file, their labels and their splits.

    Args:
        path: A table of one row per image (see `beit.data.tables.read_table`). Names are looked up
            as `beit.data.image_names.ImageNames` says.
        config: Options that settle what the headings leave open.
        multi_label: Images may have several labels: one that is listed several times has all.

    Returns:
        The images. Without labels that can be used, `problem` says why, so that what needs none
        can read the images.

    Raises:
        DataError: If the file names no images, some that do not exist or that may be several, one
            image in two splits, or splits that are not known.
        ConfigError: If an option names what the file does not have.
    """
    folder = _folder(path, config)
    names = ImageNames(folder)
    table = read_table(path, names.as_written, names.names_image, is_heading)
    columns = find_columns(path, table, names, config)
    lines = [row.line for row in columns.rows]
    images, moved = find_named_images(path, lines, columns.cells(columns.image), names)
    splits, divided = find_splits(path, columns, images, config)
    labels, problem = _labels(path, columns, splits, config)
    if labels is not None and multi_label:
        labels = _gathered(labels, images)
    skipped = SkippedFiles()
    repeated = SkippedFiles() if multi_label else skipped  # then nothing of these rows is lost
    kept, twice = _without_repeats(path, columns, images, splits, labels, repeated)
    labels, problem = (None, twice) if twice else (labels, problem)
    where = "" if len(columns.headings) == 1 else f": images in {columns.name(columns.image)}"
    notes: tuple[str, ...] = ()
    if moved:
        notes += (moved,)
    if table.comments:
        notes += (f"comment lines (#) passed over: {table.comments}",)
    layout = f"a label file{where}" if labels else f"a list of images{where}"
    if labels is not None:
        layout += f", {labels.layout}"
        notes += labels.notes
    layout += divided
    if not any(columns.headings) and len(columns.headings) > 1:
        notes += ("the file has no headings",)
    if problem is not None and len(columns.headings) > 1:
        notes += (f"labels are not used: {problem.problem}",)
    parts = {}
    for split in dict.fromkeys(splits):
        rows = [row for row in kept if splits[row] == split]
        targets = None
        if labels is not None and labels.rows.issuperset(rows):
            targets = labels.targets[rows]
        elif labels is not None:
            notes += (f"the split {split} has no labels",)
        parts[split] = ListedImages([images[row] for row in rows], targets)
    classes = () if labels is None else labels.classes
    return LabelFile(folder, classes, parts, layout, notes, skipped.found(), problem)


def sources_from_list(
    path: str, label_file: LabelFileConfig, *, labelled: bool = False, multi_label: bool = False
) -> dict[str, ImageSource]:
    """The images of a label file by split, in its order; undivided ones are the split ``.

    With `multi_label` an image that is listed several times has all these labels. Errors: as
    `read_label_file`, and DataError for labels that cannot be used if images must be `labelled`.
    """
    read = read_label_file(path, label_file, multi_label=multi_label)
    if labelled and read.problem is not None:
        raise read.problem
    found: dict[str, ImageSource] = {}
    for split, images in read.splits.items():
        classes = () if images.targets is None else read.classes
        source = FileSource(read.folder, images.paths, targets=images.targets, classes=classes)
        source.account = Account(
            data=path,
            layout=read.layout,
            images={split: len(source)},
            classes={split: images_per_class(source)},
            skipped=read.skipped,
            notes=read.notes,
        )
        found[split] = source
    return found


def check_learnable(path: str, train: ImageSource) -> None:
    """DataError if the labels of a label file are nothing to learn classes from: some classes have
    no image, or none has two."""
    if train.targets is None or train.targets.ndim > 1:
        return
    counts = class_counts(train).tolist()
    absent = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    if absent:
        raise DataError(
            f"{path} has no image to learn from of the classes {quoted(absent, 5)}",
            remedy="add some to the training split, or remove these classes from all splits",
        )
    if max(counts) == 1 and len(counts) > 2:
        raise DataError(
            f"each of the {len(train)} images to learn from in {path} has a label of its own: "
            + quoted(list(train.classes)),
            remedy="a class needs several images: name the column of the classes with "
            "--label-column",
        )


def _folder(path: str, config: LabelFileConfig) -> str:
    if not config.image_folder:
        return str(Path(path).parent)
    if not Path(config.image_folder).is_dir():
        raise ConfigError(
            f"image_folder is {config.image_folder}, and there is no such folder",
            remedy="name the folder that the names in the label file count from",
        )
    return config.image_folder


def _labels(
    path: str, columns: Columns, splits: list[str], config: LabelFileConfig
) -> tuple[Labels | None, DataError | None]:
    """The labels, or why there are none; a column that was named must do."""
    testing = {row for row, split in enumerate(splits) if split == "test"}
    try:
        return read_labels(path, columns, testing, config), None
    except DataError as problem:
        if config.label_column or config.label_separator != "auto":
            raise
        return None, problem


def _gathered(labels: Labels, images: Sequence[str]) -> Labels:
    """Every row with all labels that its image has in any row, bool [n, C]."""
    targets = labels.targets
    if targets.ndim == 1:
        targets = targets[:, None] == np.arange(len(labels.classes))
    rows: dict[str, list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(image, []).append(row)
    targets = np.stack([targets[rows[image]].any(axis=0) for image in images])
    layout = labels.layout
    if len(rows) < len(images):
        layout += ", the rows of an image taken together"
    return labels._replace(targets=targets, layout=layout)


def _without_repeats(
    path: str,
    columns: Columns,
    images: Sequence[str],
    splits: Sequence[str],
    labels: Labels | None,
    skipped: SkippedFiles,
) -> tuple[list[int], DataError | None]:
    """The rows that name an image for the first time, and the problem if labels differ.

    Raises DataError for an image in two splits: what is measured would have been learned.
    """
    first: dict[str, int] = {}
    different, divided = [], []
    for row, image in enumerate(images):
        before = first.setdefault(image, row)
        if before == row:
            continue
        lines = f"lines {columns.rows[before].line} and {columns.rows[row].line} "
        lines += f"('{printable(image)}')"
        skipped.add("listed twice", image)
        if splits[before] != splits[row]:
            divided.append(lines)
        if labels is not None and not np.array_equal(labels.targets[before], labels.targets[row]):
            different.append(lines)
    if divided:
        raise DataError(
            f"{path} lists images in two splits: {_first(divided)}",
            remedy="leave each image in one split",
        )
    problem = None
    if different:
        problem = DataError(
            f"{path} gives images two different labels: {_first(different)}",
            remedy="list each image once; if an image has several labels, say so with "
            "--multi-label, or write them into one cell under the heading tags",
        )
    return list(first.values()), problem


def _first(lines: list[str], limit: int = 3) -> str:
    more = f" and {len(lines) - limit} more" if len(lines) > limit else ""
    return ", ".join(lines[:limit]) + more
