"""Pictures and the masks that belong to them, in one of the known layouts of folders."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from beit.chance import derive_seed
from beit.config.segment_run import Layout
from beit.data.listing import find_pictures, no_pictures, quoted
from beit.data.sources import VALIDATION_FOLDERS, split_folder
from beit.errors import ConfigError, DataError

TRAINING_FOLDERS = ("train", "training")
PARTS = (TRAINING_FOLDERS, VALIDATION_FOLDERS)
MASK_FOLDERS = ("masks", "annotations", "labels")
PAIRED = "give every picture a mask of the same name and folder, or move it away"

Pairs = list[tuple[str, str]]
"""Picture and mask, relative to the data's folder."""


class HeldOut(NamedTuple):
    """How pictures without parts are divided: the share for validation, and what draws it."""

    split: float
    seed: int


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


def _divided(pairs: Pairs, held_out: HeldOut) -> tuple[Pairs, Pairs]:
    """A share for validation, drawn by each picture's name alone."""
    split, seed = held_out
    if not 0 < split < 1 or len(pairs) < 2:
        raise ConfigError(
            f"split is {split} of {len(pairs)} pictures, and there is no val/ folder",
            remedy="use a share between 0 and 1, such as 0.2, or provide train/ and val/",
        )
    ranked = sorted(pairs, key=lambda pair: derive_seed("split", seed, pair[0]))
    held = set(ranked[: min(max(round(len(pairs) * split), 1), len(pairs) - 1)])
    return [pair for pair in pairs if pair not in held], [pair for pair in pairs if pair in held]


def _folders_below(path: str) -> str:
    """The name of the folder of masks beside images/."""
    masks = split_folder(path, MASK_FOLDERS)
    if masks is None or not Path(path, "images").is_dir():
        raise DataError(
            f"{path} has no images/ beside masks/, annotations/ or labels/",
            remedy="use this layout, with train/ and val/ in both or in neither; or --layout voc",
        )
    return masks


def _folders_part(path: str, masks: str, names: tuple[str, ...]) -> Pairs | None:
    """The pairs of the part with one of these names; None if there is no such part."""
    picture, mask = (split_folder(str(Path(path, folder)), names) for folder in ("images", masks))
    if picture and mask:
        return _paired(path, f"images/{picture}", f"{masks}/{mask}")
    if picture or mask:
        has, lacks = ("images", masks) if picture else (masks, "images")
        raise DataError(f"{path}/{has}/ has {picture or mask}/, {lacks}/ has not", remedy=PAIRED)
    return None


def _voc_part(path: str, part: str) -> Pairs:
    names = read_names(Path(path, "ImageSets", "Segmentation", f"{part}.txt"))
    pairs = [(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png") for name in names]
    missing = [name for pair in pairs for name in pair if not Path(path, name).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} files of {part}.txt are missing in {path}: {quoted(missing)}",
            remedy="give the folder VOC2012 with all of its parts",
        )
    return pairs


def is_divided(path: str, layout: Layout) -> bool:
    """Whether the pictures come in parts."""
    return layout == "voc" or split_folder(str(Path(path, "images")), sum(PARTS, ())) is not None


def training_pairs(path: str, layout: Layout, held_out: HeldOut) -> tuple[Pairs, Pairs]:
    """The pairs of training and of validation, for which a share may have to be held out.

    Errors: DataError for pictures or masks that stand alone, or a layout that is not there.
    """
    if layout == "voc":
        return _voc_part(path, "train"), _voc_part(path, "val")
    masks = _folders_below(path)
    train, validation = (_folders_part(path, masks, names) for names in PARTS)
    if train and validation:
        return train, validation
    if train or validation:
        raise DataError(
            f"{path} has only one of train/ and val/", remedy="provide both, or neither"
        )
    return _divided(_paired(path, "images", masks), held_out)


def part_pairs(path: str, layout: Layout, part: str) -> Pairs:
    """The pairs of one part: `val`, `train`, or what else its folder or list is called; all of
    them where there are no parts.

    Errors: as `training_pairs`; DataError for a part that is not there.
    """
    if layout == "voc":
        return _voc_part(path, part)
    masks = _folders_below(path)
    names = next((alike for alike in PARTS if part in alike), (part,))
    found = _folders_part(path, masks, names)
    if found is None and is_divided(path, layout):
        raise DataError(
            f"{path}/images has parts, but none called {part}/", remedy="choose another --split"
        )
    return _paired(path, "images", masks) if found is None else found


def read_names(path: Path) -> tuple[str, ...]:
    """The lines of a list that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"the list {path} cannot be read: {error}", remedy="check it") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise DataError(f"the list {path} is empty", remedy="write one name per line")
    return found
