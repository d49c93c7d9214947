"""Pictures with masks: which layouts are known, how both are paired, and what the masks hold."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from beit.config.segment_run import MaskConfig
from beit.data.decode import UnreadableError
from beit.data.label_maps import IGNORE, MaskReader, read_legend
from beit.data.listing import find_pictures, no_pictures, quoted
from beit.data.order import derive_seed
from beit.data.pictures import cores
from beit.data.sources import (
    VALIDATION_FOLDERS,
    FileSource,
    ImageSource,
    Record,
    must_exist,
    split_folder,
)
from beit.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

TRAINING_FOLDERS = ("train", "training")
MASK_FOLDERS = ("masks", "annotations", "labels")
PAIRED = "give every picture a mask of the same name and folder, or move it away"
ADE20K_CLASSES = tuple(str(number) for number in range(1, 151))
"""As ADE20K numbers them; a class list gives them names."""
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
LAYOUT_CLASSES = {"folders": (), "ade20k": ADE20K_CLASSES, "voc": VOC_CLASSES}

Pairs = list[tuple[str, str]]
"""Picture and mask, relative to the data's folder."""


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
                remedy="make them alike; masks are resized by the nearest label only",
            )
        return np.bincount(labels.reshape(-1), minlength=256)


class SegmentedSplits(NamedTuple):
    """The same classes with the same ids in both parts."""

    train: ImageSource
    validation: ImageSource


def _size(path: Path) -> tuple[int, int] | None:
    """Height and width of an upright picture, from its header; None if it cannot be read."""
    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            width, height = picture.size
    except Exception:  # told when the picture itself is read, as for every task
        return None
    return (width, height) if turned else (height, width)


def _by_stem(root: str, folder: str) -> dict[str, str]:
    """Files below a folder by their path without extension."""
    found = find_pictures(str(Path(root, folder)))
    if not found.paths:
        raise no_pictures(str(Path(root, folder)), found.others)
    files: dict[str, str] = {}
    for name in found.paths:
        stem = name.rpartition(".")[0]
        if stem in files:
            raise DataError(
                f"{folder}/{name} and {files[stem]} differ in their extension only",
                remedy="keep one of them",
            )
        files[stem] = f"{folder}/{name}"
    return files


def _paired(root: str, pictures: str, masks: str) -> Pairs:
    """The files of two folders, paired by name. Errors: DataError naming what stands alone."""
    first, second = _by_stem(root, pictures), _by_stem(root, masks)
    alone = [name for stem, name in first.items() if stem not in second]
    if alone:
        raise DataError(
            f"{len(alone)} of {len(first)} pictures have no mask in {masks}: {quoted(alone)}",
            remedy=PAIRED,
        )
    alone = [name for stem, name in second.items() if stem not in first]
    if alone:
        raise DataError(
            f"{len(alone)} of {len(second)} masks have no picture in {pictures}: {quoted(alone)}",
            remedy=PAIRED,
        )
    return [(name, second[stem]) for stem, name in first.items()]


def _held_out(pairs: Pairs, split: float, seed: int) -> tuple[Pairs, Pairs]:
    """A share for validation, drawn by each picture's name alone."""
    if not 0 < split < 1 or len(pairs) < 2:
        raise ConfigError(
            f"split is {split} of {len(pairs)} pictures, and there is no val/ folder",
            remedy="use a share between 0 and 1, such as 0.2, or provide train/ and val/",
        )
    ranked = sorted(pairs, key=lambda pair: derive_seed("split", seed, pair[0]))
    held = set(ranked[: min(max(round(len(pairs) * split), 1), len(pairs) - 1)])
    return [pair for pair in pairs if pair not in held], [pair for pair in pairs if pair in held]


def _folders(path: str, split: float, seed: int) -> tuple[Pairs, Pairs]:
    masks = split_folder(path, MASK_FOLDERS)
    if masks is None or not Path(path, "images").is_dir():
        raise DataError(
            f"{path} has no images/ beside masks/, annotations/ or labels/",
            remedy="use this layout, with train/ and val/ in both or in neither; or --layout voc",
        )
    parts: list[Pairs] = []
    for names in (TRAINING_FOLDERS, VALIDATION_FOLDERS):
        picture, mask = (
            split_folder(str(Path(path, folder)), names) for folder in ("images", masks)
        )
        if picture and mask:
            parts.append(_paired(path, f"images/{picture}", f"{masks}/{mask}"))
        elif picture or mask:
            has, lacks = ("images", masks) if picture else (masks, "images")
            raise DataError(
                f"{path}/{has}/ has {picture or mask}/, {lacks}/ has not", remedy=PAIRED
            )
    if len(parts) == 1:
        raise DataError(
            f"{path} has only one of train/ and val/", remedy="provide both, or neither"
        )
    if parts:
        return parts[0], parts[1]
    return _held_out(_paired(path, "images", masks), split, seed)


def _voc(path: str) -> tuple[Pairs, Pairs]:
    parts = []
    for part in ("train", "val"):
        names = _lines(Path(path, "ImageSets", "Segmentation", f"{part}.txt"))
        pairs = [(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png") for name in names]
        missing = [name for pair in pairs for name in pair if not Path(path, name).is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} files of {part}.txt are missing in {path}: {quoted(missing)}",
                remedy="give the folder VOC2012 with all of its parts",
            )
        parts.append(pairs)
    return parts[0], parts[1]


def _lines(path: Path) -> tuple[str, ...]:
    """The lines of a list that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"the list {path} cannot be read: {error}", remedy="check it") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise DataError(f"the list {path} is empty", remedy="write one name per line")
    return found


def _named_or_beside(option: str, path: str, name: str) -> Path | None:
    """The file that an option names, or the usual one beside the folders."""
    beside = Path(path, name)
    return Path(option) if option else beside if beside.is_file() else None


def _meaning(path: str, config: MaskConfig) -> tuple[tuple[str, ...], MaskReader]:
    """The classes, none if only the masks can tell, and what reads them."""
    listed = _named_or_beside(config.class_names, path, "classes.txt")
    names = _lines(listed) if listed else LAYOUT_CLASSES[config.layout]
    place = _named_or_beside(config.legend, path, "legend.json")
    legend = read_legend(place) if place else None
    if legend and not names:
        names = tuple(dict.fromkeys(name for name in legend.values() if name))
    if len(names) > IGNORE or len(set(names)) != len(names):
        raise DataError(
            f"{path} has {len(names)} class names, {len(set(names))} of them different",
            remedy=f"use up to {IGNORE} names, each of them once",
        )
    reduce = config.reduce_zero_label or config.layout == "ade20k"
    return names, MaskReader(legend=legend, classes=names, reduce_zero_label=reduce)


def _check_labels(source: SegmentedSource, counts: np.ndarray, classes: int) -> None:
    """DataError, naming file and label, for labels beyond the class list."""
    beyond = np.argwhere(counts[:, classes:IGNORE])
    if len(beyond):
        index, label = int(beyond[0, 0]), int(beyond[0, 1]) + classes
        raise DataError(
            f"the mask {source.mask(index)} holds label {label} on {counts[index, label]} pixels, "
            f"and the {classes} classes end with {classes - 1}",
            remedy="complete the class list, or mark these pixels as ignored with 255",
        )


def _tell(train: np.ndarray, validation: np.ndarray, classes: tuple[str, ...]) -> None:
    """Warn of what is allowed but rarely meant."""
    seen = {"training": train, "validation": validation}
    for part, counts in seen.items():
        empty = int((counts[:, :IGNORE].sum(axis=1) == 0).sum())
        if empty == len(counts):
            raise DataError(
                f"every pixel of the {part} masks is ignored",
                remedy="check the labels, and whether 255 or reduce_zero_label hides them",
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
    pairs = _voc(path) if config.layout == "voc" else _folders(path, split, seed)
    names, reader = _meaning(path, config)
    if known:
        if names and names != known:
            raise DataError(
                f"{path} has other classes than the run was trained on",
                remedy="bring back the class list of that time",
            )
        return SegmentedSplits(*(SegmentedSource(path, part, reader, known) for part in pairs))
    sources = [SegmentedSource(path, part, reader, names) for part in pairs]
    with ThreadPoolExecutor(cores()) as threads:
        counts = [np.stack(list(threads.map(one.count, range(len(one))))) for one in sources]
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
    _tell(counts[0], counts[1], names)
    return SegmentedSplits(sources[0], sources[1])
