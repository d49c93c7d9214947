"""Which layout a folder of images and masks has, and its pairs by split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

from beit.config.segment_run import Layout
from beit.data.class_names import ADE20K_CLASSES, VOC_CLASSES
from beit.data.layout import WHOLE
from beit.data.legends import LEGENDS, read_names
from beit.data.listing import quoted
from beit.data.mask_pairs import FoundMasks, Pairs, Search, Side
from beit.data.shape_files import coco_files, example_of_labelme, read_coco, read_labelme
from beit.errors import DataError
from beit.terminal import printable

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "leftimg8bit")
MASK_FOLDERS = (
    "masks", "mask", "annotations", "annotation", "labels", "label", "ann_dir", "gt", "gtfine",
    "ground_truth", "segmentation", "segmentations", "segmentationclass",
)  # fmt: skip
MASK_SUFFIXES = (
    "_mask", "-mask", ".mask", "_masks", "_gt", "-gt", "_label", "_labels", "_labelIds", "_seg",
    "_segmentation", "_annotation", "_manual1",
)  # fmt: skip
"""Of masks that lie among the images."""
_LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")


def find_masks(search: Search) -> FoundMasks:
    """The images and masks of a folder in the layout that the config names, or that it has.

    Errors: DataError for images or masks that stand alone, for a folder in no layout, and for one
    that can be read in two.
    """
    layout = search.config.layout
    return LAYOUTS[_recognised(search) if layout == "auto" else layout](search)


def _recognised(search: Search) -> Layout:
    """The layout that a folder has. Errors: DataError if it has two."""
    annotations = search.config.annotations
    if annotations:
        return "coco" if annotations.lower().endswith(".json") else "folders"
    voc = {"JPEGImages", "SegmentationClass"} <= {*search.folders()}
    files: Layout | None = "voc" if voc else "folders" if _paired_folders(search).by_split else None
    coco = coco_files(search)
    shapes: Layout = "coco" if coco else "labelme"
    names = quoted(coco) if coco else example_of_labelme(search)
    if names and files:
        raise DataError(
            f"{search.path} has masks in image files, and shapes in {names}",
            remedy=f"say which count: --layout {files} or --layout {shapes}",
        )
    return shapes if names else files or "folders"


# -- images and masks in folders -----------------------------------------------------------------


class _Folders(NamedTuple):
    """Folders of images and of masks, relative to the data's folder, by split; and in words."""

    description: str
    by_split: dict[str, tuple[str, str]]


def _paired_folders(search: Search) -> _Folders:
    """images/ and masks/ directly below, undivided or with the same splits in both; or below
    folders that are splits. Empty if there are none."""
    found: dict[str, tuple[str, str]] = {}
    for split, base in {WHOLE: "", **search.splits()}.items():
        inside = search.folders(base)
        usual = [name for name in inside if name.casefold() in IMAGE_FOLDERS]
        mask_folder = _mask_folder(search, base, inside) if usual else None
        if mask_folder:
            if len(usual) > 1:
                raise DataError(
                    f"{search.path} has several folders of images: {quoted(usual)}",
                    remedy="keep one of them there",
                )
            found[split] = str(PurePosixPath(base, usual[0])), mask_folder
    if not found:
        return _Folders("", {})
    images, masks = found.get(WHOLE, next(iter(found.values())))
    words = f"{images}/ and {masks}/"
    if WHOLE not in found:
        return _Folders(f"{words}, and so for each split", found)
    in_images, in_masks = search.splits(images), search.splits(masks)
    for one, other, splits, others in (
        (images, masks, in_images, in_masks),
        (masks, images, in_masks, in_images),
    ):
        for split, name in splits.items():
            # Test images are often published without their masks.
            if split not in others and (split != "test" or not others):
                raise DataError(
                    f"{search.path}/{one}/ has {name}/, {other}/ has not",
                    remedy="use the same folders in both",
                )
    if not in_images:
        return _Folders(words, {WHOLE: (images, masks)})
    for split in in_images.keys() - in_masks.keys():
        search.note(f"{images}/{in_images[split]}/ has no masks, and is not used")
    names = [f"{name}/" for name in in_images.values()]
    return _Folders(
        f"{words}, with {', '.join(names)} below both",
        {
            split: (f"{images}/{name}", f"{masks}/{in_masks[split]}")
            for split, name in in_images.items()
            if split in in_masks
        },
    )


def _mask_folder(search: Search, base: str, names: list[str]) -> str | None:
    """The folder of masks in a folder; of those with a usual name the one that holds image files.

    Errors: DataError for several.
    """
    requested = search.config.annotations
    if requested:
        inside = str(PurePosixPath(base, requested))
        return inside if (search.root / inside).is_dir() else None
    usual = [str(PurePosixPath(base, name)) for name in names if name.casefold() in MASK_FOLDERS]
    found = [folder for folder in usual if search.images(folder)]
    if len(found) > 1:
        raise DataError(
            f"{search.path} has several folders of masks: {quoted(found)}",
            remedy=f"say which counts, as with --annotations {PurePosixPath(found[0]).name}",
        )
    return found[0] if found else None


def _folders(search: Search) -> FoundMasks:
    description, found = _paired_folders(search)
    if found:
        suffix = search.config.mask_suffix
        pairs = {
            split: search.pair_up(search.side(images), search.side(masks), suffix)
            for split, (images, masks) in found.items()
        }
        return FoundMasks("folders", description, pairs)
    beside = _beside_images(search)
    if beside:
        return FoundMasks("folders", "masks beside their images", beside)
    others = [each.relative_to(search.root).as_posix() for each in search.root.rglob("*.json")]
    shapes = f"; {quoted(sorted(others)[:3])} hold neither COCO nor LabelMe" if others else ""
    raise DataError(
        f"{search.path} has no images/ beside masks/, annotations/ or labels/ (nor img_dir/ and "
        f"ann_dir/, nor masks named x_mask.png beside x.jpg){shapes}",
        remedy="use one of these layouts, with train/ and val/ above or below, or without; or "
        "--layout voc, coco or labelme; --annotations names a folder of masks with another name",
    )


def _beside_images(search: Search) -> dict[str, Pairs]:
    """Masks in the folder of their images, undivided or by split; empty if there are none."""
    found: dict[str, Pairs] = {}
    for split, folder in (search.splits() or {WHOLE: ""}).items():
        files = search.images(folder)
        ending = _mask_ending(files, search.config.mask_suffix)
        if ending is None:
            continue
        by_extension = ending.startswith(".") and ending in _LOSSLESS
        sides = Side(folder, []), Side(folder, [])
        for name in files:
            end = name.lower() if by_extension else PurePosixPath(name).stem
            sides[end.endswith(ending)].files.append(name)
        search.note(f"masks are the files whose names end in '{ending}'")
        suffix = search.config.mask_suffix if by_extension else ending
        found[split] = search.pair_up(*sides, suffix)
    return found


def _mask_ending(files: list[str], suffix: str) -> str | None:
    """What the names of masks end in, among the images of a folder: a suffix or an extension."""
    for known in (suffix,) if suffix else MASK_SUFFIXES:
        if any(PurePosixPath(name).stem.endswith(known) for name in files):
            return known
    stems: dict[str, set[str]] = {}
    for name in files:
        extension = PurePosixPath(name).suffix
        stems.setdefault(extension.lower(), set()).add(name.removesuffix(extension))
    if len(stems) == 2 and len({*map(frozenset, stems.values())}) == 1:
        for extension, other in (tuple(stems), tuple(stems)[::-1]):
            if extension in _LOSSLESS and other in (".jpg", ".jpeg"):
                return extension
    return None


# -- Pascal VOC, and what CVAT writes in its layout ----------------------------------------------


def _voc(search: Search) -> FoundMasks:
    lists = search.root / "ImageSets" / "Segmentation"
    files = {each.stem: each for each in sorted(lists.glob("*.txt"))}
    splits = search.split_files(files)
    if not splits and len(files) == 1:  # CVAT's default.txt
        splits = {WHOLE: next(iter(files.values()))}
    remedy = "give the folder VOC2012 with all of its parts"
    if not splits:
        raise DataError(
            f"{search.path} has no ImageSets/Segmentation/ with train.txt and val.txt",
            remedy=remedy,
        )
    images, masks = (
        {name.rpartition(".")[0]: f"{folder}/{name}" for name in search.images(folder)}
        for folder in ("JPEGImages", "SegmentationClass")
    )
    found: dict[str, Pairs] = {}
    for split, file in splits.items():
        names = read_names(file)
        missing = [f"JPEGImages/{name}.jpg" for name in names if name not in images]
        if missing:
            raise DataError(
                f"{len(missing)} files of {file.name} are missing in {search.path}: "
                + quoted([*map(printable, missing)]),
                remedy=remedy,
            )
        bare = [f"SegmentationClass/{name}.png" for name in names if name not in masks]
        background = search.unmasked_are_background(bare, len(names), f"in {search.path}")
        found[split] = [
            (images[name], masks.get(name)) for name in names if name in masks or background
        ]
    words = f"Pascal VOC, with {', '.join(file.name for file in splits.values())}"
    has_legend = search.config.legend or any((search.root / name).is_file() for name in LEGENDS)
    return FoundMasks("voc", words, found, () if has_legend else VOC_CLASSES)


def _ade20k(search: Search) -> FoundMasks:
    found = _folders(search)
    return FoundMasks("ade20k", f"ADE20K: {found.description}", found.splits, ADE20K_CLASSES)


LAYOUTS: dict[Layout, Callable[[Search], FoundMasks]] = {
    "folders": _folders,
    "ade20k": _ade20k,
    "voc": _voc,
    "coco": read_coco,
    "labelme": read_labelme,
}
