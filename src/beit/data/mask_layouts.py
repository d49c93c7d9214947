"""Where images and their masks lie: which layout a folder has, and its pairs by split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from beit.config.segment_run import Layout, MaskConfig
from beit.data.class_names import ADE20K_CLASSES, VOC_CLASSES
from beit.data.layout import WHOLE, split_called
from beit.data.legends import LEGENDS, read_names
from beit.data.listing import find_images, natural_key, no_images, quoted
from beit.data.mask_pairs import KNOWN_SUFFIXES, Notes, Pairs, Side, pair_up, require_masks
from beit.data.shape_files import coco_files, read_coco, read_labelme, with_labelme
from beit.errors import DataError
from beit.terminal import printable

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "leftimg8bit")
MASK_FOLDERS = (
    "masks", "mask", "annotations", "annotation", "labels", "label", "ann_dir", "gt", "gtfine",
    "ground_truth", "segmentation", "segmentations", "segmentationclass",
)  # fmt: skip
_LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")


class FoundMasks(NamedTuple):
    """The images and masks of a folder, by split."""

    layout: Layout
    """What was recognised; never `auto`."""
    description: str
    """The same in words, for the account."""
    splits: dict[str, Pairs]
    """`train`, `val`, `test`, or the one split `WHOLE`."""
    classes: tuple[str, ...]
    """Classes that the layout has of itself; empty if none."""


def _children(path: str, names: tuple[str, ...]) -> list[str]:
    """Folders directly below with one of these names, in any case."""
    if not Path(path).is_dir():
        return []
    found = [each.name for each in Path(path).iterdir() if each.is_dir()]
    return sorted((name for name in found if name.casefold() in names), key=natural_key)


def _splits_below(path: str, extra: str = "") -> dict[str, str]:
    """The folders directly below that are splits, or the one that is asked for by its name."""
    found: dict[str, str] = {}
    for each in sorted(Path(path).iterdir()):
        if not each.is_dir():
            continue
        split = split_called(each.name) or (extra if each.name == extra else None)
        if split in found:
            raise DataError(
                f"{path} has {found[split]}/ and {each.name}/, both of them {split}",
                remedy="keep one of them there",
            )
        if split:
            found[split] = each.name
    return found


def _side(root: str, folder: str, notes: Notes) -> Side:
    """All image files below a folder. Errors: DataError if there is none."""
    found = find_images(str(Path(root, folder)))
    if not found.paths:
        raise no_images(str(Path(root, folder)), found.skipped)
    notes.skipped.add_below(folder, found.skipped)
    return Side(folder, found.paths)


def find_masks(path: str, config: MaskConfig, notes: Notes, extra: str = "") -> FoundMasks:
    """The images and masks of a folder in the layout that the config names, or that it has; also
    of an extra split, beside the usual ones.

    Errors: DataError for images or masks that stand alone, for a folder in no layout, and for one
    that can be read in two.
    """
    layout = _recognised(path, config) if config.layout == "auto" else config.layout
    if layout == "voc":
        return _of_voc(path, config, notes, extra)
    if layout == "coco":
        return _of_coco(path, config, notes)
    if layout == "labelme":
        found = read_labelme(path, config, notes, split_called)
        return FoundMasks("labelme", "LabelMe files beside the images", found.splits, found.classes)
    description, splits = _of_folders(path, config, notes, extra)
    if layout == "ade20k":
        return FoundMasks("ade20k", f"ADE20K: {description}", splits, ADE20K_CLASSES)
    return FoundMasks("folders", description, splits, ())


def _recognised(path: str, config: MaskConfig) -> Layout:
    """The layout that a folder has. Errors: DataError if it has two."""
    if config.annotations:
        return "coco" if config.annotations.lower().endswith(".json") else "folders"
    voc = Path(path, "JPEGImages").is_dir() and Path(path, "SegmentationClass").is_dir()
    plain = not voc and any(True for _ in _kinds(path, config))
    shapes: list[tuple[Layout, str]] = []
    if files := coco_files(path):
        shapes.append(("coco", quoted(files)))
    elif example := with_labelme(path):
        shapes.append(("labelme", example))
    if shapes and (plain or voc):
        layout, names = shapes[0]
        other = "voc" if voc else "folders"
        raise DataError(
            f"{path} has masks in image files, and shapes in {names}",
            remedy=f"say which count: --layout {other} or --layout {layout}",
        )
    return "voc" if voc else shapes[0][0] if shapes else "folders"


# -- images and masks in folders ---------------------------------------------------------------


class _Kinds(NamedTuple):
    """A folder of images and one of masks, relative to the data's folder; and their split."""

    images: str
    masks: str
    split: str


def _mask_folder(path: str, base: str, config: MaskConfig) -> str | None:
    """The folder of masks below a folder, of those that hold image files.

    Errors: DataError for several.
    """
    if config.annotations:
        inside = str(PurePosixPath(base, config.annotations))
        return inside if Path(path, inside).is_dir() else None
    found = [
        str(PurePosixPath(base, name))
        for name in _children(str(Path(path, base)), MASK_FOLDERS)
        if find_images(str(Path(path, base, name))).paths
    ]
    if len(found) > 1:
        raise DataError(
            f"{path} has several folders of masks: {quoted(found)}",
            remedy=f"say which counts, as with --annotations {PurePosixPath(found[0]).name}",
        )
    return found[0] if found else None


def _kinds(path: str, config: MaskConfig, extra: str = "") -> Iterator[_Kinds]:
    """Folders of images and masks: directly below, or below folders that are splits."""
    for split, base in {WHOLE: "", **_splits_below(path, extra)}.items():
        images = _children(str(Path(path, base)), IMAGE_FOLDERS)
        masks = _mask_folder(path, base, config) if images else None
        if images and masks:
            if len(images) > 1:
                raise DataError(
                    f"{path} has several folders of images: {quoted(images)}",
                    remedy="keep one of them there",
                )
            yield _Kinds(str(PurePosixPath(base, images[0])), masks, split)


def _of_folders(
    path: str, config: MaskConfig, notes: Notes, extra: str
) -> tuple[str, dict[str, Pairs]]:
    """The pairs by split, and where they lie, in words."""
    kinds = {kind.split: kind for kind in _kinds(path, config, extra)}
    if WHOLE in kinds:
        return _beside_each_other(path, kinds[WHOLE], config, notes, extra)
    if kinds:
        splits = {
            split: pair_up(
                _side(path, kind.images, notes), _side(path, kind.masks, notes), config, notes
            )
            for split, kind in kinds.items()
        }
        example = next(iter(kinds.values()))
        return f"{example.images}/ and {example.masks}/, and so for each split", splits
    mixed = _mixed(path, config, notes)
    if mixed:
        return "masks beside their images", mixed
    others = [each.relative_to(path).as_posix() for each in sorted(Path(path).rglob("*.json"))[:3]]
    shapes = f"; {quoted(others)} hold neither COCO nor LabelMe" if others else ""
    raise DataError(
        f"{path} has no images/ beside masks/, annotations/ or labels/ (nor img_dir/ and ann_dir/, "
        f"nor masks named x_mask.png beside x.jpg){shapes}",
        remedy="use one of these layouts, with train/ and val/ above or below, or without; or "
        "--layout voc, coco or labelme; --annotations names a folder of masks with another name",
    )


def _beside_each_other(
    path: str, kind: _Kinds, config: MaskConfig, notes: Notes, extra: str
) -> tuple[str, dict[str, Pairs]]:
    """images/ and masks/, undivided or with splits below both."""
    images, masks = (_splits_below(str(Path(path, folder)), extra) for folder in kind[:2])
    for has, lacks, one, other in (
        (kind.images, kind.masks, images, masks),
        (kind.masks, kind.images, masks, images),
    ):
        for split, name in one.items():
            if split not in other and (split != "test" or not other):
                raise DataError(
                    f"{path}/{has}/ has {name}/, {lacks}/ has not",
                    remedy="use the same folders in both",
                )
    words = f"{kind.images}/ and {kind.masks}/"
    if not images:
        side = _side(path, kind.images, notes)
        return words, {WHOLE: pair_up(side, _side(path, kind.masks, notes), config, notes)}
    splits: dict[str, Pairs] = {}
    for split, name in images.items():
        if split not in masks:  # test images are often published without their masks
            notes.add(f"{kind.images}/{name}/ has no masks, and is not used")
            continue
        side = _side(path, f"{kind.images}/{name}", notes)
        mask_side = _side(path, f"{kind.masks}/{masks[split]}", notes)
        splits[split] = pair_up(side, mask_side, config, notes)
    return f"{words}, with {', '.join(f'{name}/' for name in images.values())} below both", splits


def _mixed(path: str, config: MaskConfig, notes: Notes) -> dict[str, Pairs]:
    """Masks in the folder of their images, undivided or by split; empty if there are none."""
    splits = _splits_below(path) or {WHOLE: ""}
    found: dict[str, Pairs] = {}
    for split, folder in splits.items():
        files = find_images(str(Path(path, folder))).paths
        divided = _divided_by_name(files, config)
        if divided is None:
            continue
        images, masks, suffix = divided
        notes.add(f"masks are the files whose names end in '{suffix}'")
        own = config if suffix.startswith(".") else _with_suffix(config, suffix)
        found[split] = pair_up(Side(folder, images), Side(folder, masks), own, notes)
    return found


def _with_suffix(config: MaskConfig, suffix: str) -> MaskConfig:
    return replace(config, mask_suffix=suffix)


def _divided_by_name(
    files: list[str], config: MaskConfig
) -> tuple[list[str], list[str], str] | None:
    """The images and masks among the files of a folder, and what the names of masks end in."""
    for suffix in (config.mask_suffix,) if config.mask_suffix else KNOWN_SUFFIXES:
        masks = [name for name in files if PurePosixPath(name).stem.endswith(suffix)]
        if masks:
            chosen = set(masks)
            return [name for name in files if name not in chosen], masks, suffix
    by_extension = {
        extension: [name for name in files if PurePosixPath(name).suffix.lower() == extension]
        for extension in {PurePosixPath(name).suffix.lower() for name in files}
    }
    if len(by_extension) == 2:
        for extension, masks in by_extension.items():
            (other,) = by_extension.keys() - {extension}
            stems = [
                {name[: -len(each)] for name in by_extension[each]} for each in (extension, other)
            ]
            if extension in _LOSSLESS and other in (".jpg", ".jpeg") and stems[0] == stems[1]:
                return by_extension[other], masks, extension
    return None


# -- Pascal VOC, and what CVAT writes in its layout ----------------------------------------------


def _of_voc(path: str, config: MaskConfig, notes: Notes, extra: str) -> FoundMasks:
    lists = Path(path, "ImageSets", "Segmentation")
    names = {each.stem: each for each in sorted(lists.glob("*.txt"))} if lists.is_dir() else {}
    splits: dict[str, Path] = {
        split: file for name, file in names.items() if (split := split_called(name))
    }
    if extra in names:
        splits[extra] = names[extra]
    if not splits and len(names) == 1:  # CVAT's default.txt
        splits = {WHOLE: next(iter(names.values()))}
    if not splits:
        raise DataError(
            f"{path} has no ImageSets/Segmentation/ with train.txt and val.txt",
            remedy="give the folder VOC2012 with all of its parts",
        )
    images, masks = (_by_stem(path, folder) for folder in ("JPEGImages", "SegmentationClass"))
    pairs = {
        split: _listed(path, file, images, masks, config, notes) for split, file in splits.items()
    }
    named = any(Path(path, name).is_file() for name in LEGENDS) or config.legend
    return FoundMasks(
        "voc",
        f"Pascal VOC, with {', '.join(file.name for file in splits.values())}",
        pairs,
        () if named else VOC_CLASSES,
    )


def _by_stem(path: str, folder: str) -> dict[str, str]:
    files = find_images(str(Path(path, folder))).paths
    return {name.rpartition(".")[0]: f"{folder}/{name}" for name in files}


def _listed(
    path: str,
    file: Path,
    images: dict[str, str],
    masks: dict[str, str],
    config: MaskConfig,
    notes: Notes,
) -> Pairs:
    """The images of a list with their masks."""
    names = read_names(file)
    missing = [f"JPEGImages/{name}.jpg" for name in names if name not in images]
    if missing:
        raise DataError(
            f"{len(missing)} files of {file.name} are missing in {path}: "
            + quoted([*map(printable, missing)]),
            remedy="give the folder VOC2012 with all of its parts",
        )
    bare = [f"SegmentationClass/{name}.png" for name in names if name not in masks]
    require_masks(bare, len(names), f"in {path}", config, notes)
    return [
        (images[name], masks.get(name))
        for name in names
        if name in masks or config.unmasked == "background"
    ]


# -- COCO ----------------------------------------------------------------------------------------


def _of_coco(path: str, config: MaskConfig, notes: Notes) -> FoundMasks:
    """One file for each split, or one for all."""
    files = [config.annotations] if config.annotations else coco_files(path)
    if not files:
        raise DataError(
            f"{path} has no COCO file: JSON with images, annotations and categories, directly in "
            "it, in annotations/, or beside the images of a split",
            remedy="name one with --annotations, relative to the folder",
        )
    by_split: dict[str, str] = {}
    for name in files:
        split = _split_of(name) or WHOLE
        if split in by_split:
            raise DataError(
                f"{path} has {by_split[split]} and {name}, which may both be meant",
                remedy="say which with --annotations, or put train and val into their names",
            )
        by_split[split] = name
    if WHOLE in by_split and len(by_split) > 1:
        raise DataError(
            f"{by_split[WHOLE]} of {path} says by no name which split it is, and there are others: "
            + quoted(files),
            remedy="put train or val into its name, or say which file counts with --annotations",
        )
    found = read_coco(path, by_split, config, notes)
    words = ", ".join(by_split.values())
    return FoundMasks("coco", f"COCO: shapes in {words}", found.splits, found.classes)


def _split_of(name: str) -> str | None:
    """The split that a part of a file's name, or its folder, says it is."""
    file = PurePosixPath(name)
    words = re.split(r"[^0-9A-Za-z]+", file.stem)
    found = {split for word in (*words, file.parent.name) if (split := split_called(word))}
    return found.pop() if len(found) == 1 else None
