"""Pictures with masks: what the masks hold, and whether all of them may be used."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from beit.config.segment_run import Layout, MaskConfig
from beit.data.class_names import ADE20K_CLASSES, VOC_CLASSES
from beit.data.decode import orientation_of
from beit.data.file_types import FORMATS
from beit.data.label_maps import IGNORE, MaskReader, read_legend
from beit.data.listing import quoted
from beit.data.pairs import HeldOut, Pairs, part_pairs, read_names, training_pairs
from beit.data.pictures import cores
from beit.data.quiet import quiet
from beit.data.sources import FileSource, ImageSource, Record, must_exist
from beit.data.values import UnreadableError
from beit.errors import DataError

logger = logging.getLogger(__name__)

LAYOUT_CLASSES: dict[Layout, tuple[str, ...]] = {
    "folders": (),
    "ade20k": ADE20K_CLASSES,
    "voc": VOC_CLASSES,
}
NUMBER = re.compile(r"(class )?\d+")


class SegmentedSource(FileSource):
    """Pictures in files, each with a mask."""

    def __init__(
        self, root: str, pairs: Pairs, reader: MaskReader, classes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(root, [picture for picture, _ in pairs], classes=classes)
        self._masks = FileSource(root, [mask for _, mask in pairs])
        self._reader = reader

    def read(self, index: int) -> Record:
        """The encoded picture and its labels. Errors: UnreadableError for either."""
        labels = self._reader(self._masks.read(index).data)
        return super().read(index)._replace(labels=labels)

    def fingerprint(self) -> str:
        both = super().fingerprint() + self._masks.fingerprint()
        return hashlib.blake2b(both.encode(), digest_size=16).hexdigest()

    def mask(self, index: int) -> str:
        """Where the mask lies."""
        return str(self._masks.path(index))

    def count(self, index: int) -> np.ndarray:
        """How many pixels of the mask have each label, int64 [256].

        Errors: DataError, naming the file, if it cannot be read or has not the picture's size.
        """
        try:
            labels = self._reader(self._masks.read(index).data)
        except UnreadableError as error:
            raise DataError(
                f"the mask {self.mask(index)} cannot be read: {error.reason}",
                remedy="masks are indexed or grey PNG, or RGB with a legend",
            ) from error
        size = _size(self.path(index))
        if size is not None and size != labels.shape:
            raise DataError(
                f"the mask {self.mask(index)} has {labels.shape[0]} x {labels.shape[1]} pixels, "
                f"its picture {size[0]} x {size[1]}",
                remedy="make them alike, pictures and masks that are turned by EXIF count upright; "
                "masks are resized by the nearest label only",
            )
        return np.bincount(labels.reshape(-1), minlength=256)


class SegmentedSplits(NamedTuple):
    """The same classes with the same ids in both parts."""

    train: ImageSource
    validation: ImageSource


def _size(path: Path) -> tuple[int, int] | None:
    """Height and width of an upright picture, from its header; None if it cannot be read."""
    try:
        with quiet, Image.open(path, formats=FORMATS) as picture:
            turned = orientation_of(picture) >= 5
            width, height = picture.size
    except Exception:  # told when the picture itself is read, as for every task
        return None
    return (width, height) if turned else (height, width)


def _named_or_beside(option: str, path: str, name: str) -> Path | None:
    """The file that an option names, or the usual one beside the folders."""
    beside = Path(path, name)
    return Path(option) if option else beside if beside.is_file() else None


def _meaning(
    path: str, config: MaskConfig, known: tuple[str, ...]
) -> tuple[tuple[str, ...], MaskReader]:
    """The classes, none if only the masks can tell, and what reads them.

    A legend says nothing of the order of its classes: that is the one of `known`, if there are any.
    """
    listed = _named_or_beside(config.class_names, path, "classes.txt")
    names = read_names(listed) if listed else LAYOUT_CLASSES[config.layout]
    place = _named_or_beside(config.legend, path, "legend.json")
    legend = read_legend(place) if place else None
    if legend and not names:
        names = known or tuple(dict.fromkeys(name for name in legend.values() if name))
    if len(names) > IGNORE or len(set(names)) != len(names):
        raise DataError(
            f"{path} has {len(names)} class names, {len(set(names))} of them different",
            remedy=f"use up to {IGNORE} names, each of them once",
        )
    reduce = config.reduce_zero_label or config.layout == "ade20k"
    return names, MaskReader(legend=legend, classes=names, reduce_zero_label=reduce)


def _counts(source: SegmentedSource) -> np.ndarray:
    """How many pixels of each mask have each label, int64 [n,256]."""
    with ThreadPoolExecutor(cores()) as threads:
        return np.stack(list(threads.map(source.count, range(len(source)))))


def _check_labels(source: SegmentedSource, counts: np.ndarray, classes: int) -> None:
    """DataError, naming file and label, for labels beyond the class list."""
    beyond = np.argwhere(counts[:, classes:IGNORE])
    if len(beyond):
        index, label = int(beyond[0, 0]), int(beyond[0, 1]) + classes
        raise DataError(
            f"the mask {source.mask(index)} holds label {label} on {counts[index, label]} pixels, "
            f"and the {classes} classes end with {classes - 1}",
            remedy="complete the class list, mark these pixels as ignored with 255, or use "
            "--reduce-zero-label where classes are counted from 1",
        )


def _tell(part: str, counts: np.ndarray, classes: tuple[str, ...]) -> None:
    """Warn of what is allowed but rarely meant."""
    empty = int((counts[:, :IGNORE].sum(axis=1) == 0).sum())
    if empty == len(counts):
        raise DataError(
            f"every pixel of the {part} masks is ignored",
            remedy="check the labels, and whether 255 or --reduce-zero-label hides them",
        )
    if empty:
        logger.warning("%d %s masks have no pixel that is not ignored", empty, part)
    never = [name for name, pixels in zip(classes, counts.sum(axis=0), strict=False)
             if not pixels]  # fmt: skip
    if never:
        logger.warning("classes that never occur in %s: %s", part, quoted(never, 10))


def open_segmented(
    path: str, config: MaskConfig, *, split: float, seed: int, known: tuple[str, ...] = ()
) -> SegmentedSplits:
    """Pictures with masks in one of the layouts; every mask is read once, to be checked.

    Without a part for validation a share `split` is held out, the same for the same seed. With
    `known`, the classes of an earlier opening, no mask is read.
    Errors: DataError for a picture without a mask or the reverse, a mask of another size or that
    cannot be read, labels beyond the class list, other classes than the known ones.
    """
    must_exist(path)
    pairs = training_pairs(path, config.layout, HeldOut(split, seed))
    names, reader = _meaning(path, config, known)
    if known:
        if names and names != known:
            raise DataError(
                f"{path} has other classes than the run was trained on",
                remedy="bring back the class list of that time",
            )
        return SegmentedSplits(*(SegmentedSource(path, part, reader, known) for part in pairs))
    sources = [SegmentedSource(path, part, reader, names) for part in pairs]
    counts = [_counts(source) for source in sources]
    if not names:
        largest = max(np.flatnonzero(part.sum(axis=0)[:IGNORE]).max(initial=0) for part in counts)
        names = tuple(str(label) for label in range(largest + 1))
        sources = [SegmentedSource(path, part, reader, names) for part in pairs]
    for source, part in zip(sources, counts, strict=True):
        _check_labels(source, part, len(names))
    if len(names) < 2:
        raise DataError(
            f"{path} has a single class, {quoted(list(names))}", remedy="segmenting takes two"
        )
    _tell("training", counts[0], names)
    _tell("validation", counts[1], names)
    return SegmentedSplits(sources[0], sources[1])


def open_segmented_part(
    path: str,
    config: MaskConfig,
    *,
    part: str,
    classes: tuple[str, ...],
    only: Collection[str] | None = None,
) -> SegmentedSource:
    """One part of pictures with masks, for a model with these classes; every mask is read once, to
    be checked.

    Where there are no parts it is all pictures. With `only`, those of these names.
    Names are compared where both sides have them: a model or data with numbers for names only has
    to have as many classes.
    Errors: as `open_segmented`; DataError for other classes, naming the first that differs.
    """
    must_exist(path)
    pairs = part_pairs(path, config.layout, part)
    names, reader = _meaning(path, config, () if _are_numbers(classes) else classes)
    _check_same(path, names, classes)
    source = SegmentedSource(path, pairs, reader, classes)
    if only is not None:
        kept = [pair for index, pair in enumerate(pairs) if source.key(index) in only]
        source = SegmentedSource(path, kept, reader, classes)
    counts = _counts(source)
    _check_labels(source, counts, len(classes))
    _tell(part, counts, classes)
    return source


def _are_numbers(names: tuple[str, ...]) -> bool:
    """Whether classes were given numbers for want of names."""
    return all(NUMBER.fullmatch(name) for name in names)


def _check_same(path: str, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """DataError for classes of the data that are not those of the model, in its order."""
    if not names:
        return  # the masks hold the model's labels, or `_check_labels` says so
    remedy = "measure on data with the model's classes, or give their list with --class-names"
    if len(names) != len(classes):
        raise DataError(f"{path} has {len(names)} classes, the model {len(classes)}", remedy=remedy)
    if _are_numbers(names) or _are_numbers(classes):
        return
    for label, (name, own) in enumerate(zip(names, classes, strict=True)):
        if name.strip() != own.strip():  # a published list has "bed "
            raise DataError(
                f"label {label} is '{name}' in {path}, and '{own}' in the model", remedy=remedy
            )
