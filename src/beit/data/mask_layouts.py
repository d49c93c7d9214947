"""Recognises the layout of a folder of images and masks, and pairs them by split."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from beit.config.segment_run import Layout
from beit.data.class_names import ADE20K_CLASSES, VOC_CLASSES
from beit.data.file_types import folder_to_skip
from beit.data.folder_names import IMAGES, ROLES, masks_among, masks_beside, splits_among
from beit.data.layout import WHOLE
from beit.data.mask_classes import LEGENDS
from beit.data.mask_pairs import FoundMasks, Matched, Search, Side, by_folders
from beit.data.nnunet import is_nnunet, read_nnunet
from beit.data.several_masks import Layers, settle
from beit.data.shape_files import (
    classes_of,
    coco_files,
    example_of_labelme,
    read_coco,
    read_labelme,
)
from beit.data.split_lists import divided_by_lists, find_split_lists
from beit.errors import DataError
from beit.terminal import quoted


def find_masks(search: Search) -> FoundMasks:
    """The images and masks of a folder, in the layout that the config names or else recognised.

    Raises:
        DataError: Images or masks lack their partner, or the folder fits no layout, or two.
    """
    layout = search.config.layout
    found = LAYOUTS[_recognised(search) if layout == "auto" else layout](search)
    pairs = [pair for part in found.splits.values() for pair in part]
    layers = {image: mask for image, mask in pairs if isinstance(mask, Layers)}
    settled = settle(search.path, layers, search.config.several_masks)
    if not layers:
        return found
    if settled.several == "classes" and any(isinstance(mask, str) for _, mask in pairs):
        raise DataError(
            f"some images of {search.path} have a mask for each class, {quoted(settled.classes)}, "
            "and those of another split have one mask",
            remedy="divide both alike; or read all by their names, with --several-masks classes",
        )
    if settled.note:
        search.note(settled.note)
    splits = {split: [(image, settled.masks.get(image, mask)) for image, mask in part]
              for split, part in found.splits.items()}  # fmt: skip
    found = found._replace(splits=splits, several=settled.several)
    if not found.drawn:
        return found
    return found._replace(classes=classes_of(search, {*settled.classes}))


def _recognised(search: Search) -> Layout:
    """The layout that a folder has. Raises DataError if it has two."""
    annotations = search.config.annotations
    if annotations:
        return "coco" if annotations.lower().endswith(".json") else "folders"
    if is_nnunet(search):
        return "nnunet"
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
    """The folders of images and of masks of each split, relative to the data's folder, and a
    description of them for the account."""

    description: str
    by_split: dict[str, tuple[str, str]]


def _paired_folders(search: Search) -> _Folders:
    """Finds images/ and masks/ directly below the folder, undivided or with the same splits in
    both; or below folders of splits; or train/ beside train_masks/. Empty if there are none."""
    found: dict[str, tuple[str, str]] = {}
    requested, outside = search.config.annotations, search.splits()
    inside = search.splits(requested) if requested else {}
    if inside and inside.keys() <= outside.keys():  # such as train/ and annotations/train/
        found = {split: (outside[split], f"{requested}/{name}") for split, name in inside.items()}
    for split, base in {WHOLE: "", **outside}.items() if not found else ():
        pairs = _pairs_in(search, base)
        roles = {role: names[0] for role, names in splits_among([*pairs]).items() if len(names) < 2}
        if not base and len(roles) == len(pairs):
            found |= {role: (name, pairs[name]) for role, name in roles.items()}
        elif len(pairs) > 1:
            raise DataError(
                f"{search.path} has several folders of images: {quoted([*pairs])}",
                remedy="keep one of them there",
            )
        elif pairs:
            (found[split],) = pairs.items()
    if not found:
        return _Folders("", {})
    _refuse_unmasked_splits(search, found)
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


def _pairs_in(search: Search, base: str) -> dict[str, str]:
    """The folders of images in a folder, each with its folder of masks.

    Raises DataError if one has several folders of masks.
    """
    requested = search.config.annotations
    names = [name for name in search.folders(base) if not folder_to_skip(name)]
    known = masks_beside(names)
    if requested:
        if not (search.root / base / requested).is_dir():
            return {}
        others = [name for name in names if name != PurePosixPath(requested).parts[0]]
        usual = [name for name in others if name in known or re.fullmatch(IMAGES, name.lower())]
        known = {name: [requested] for name in usual or others
                 if search.images(str(PurePosixPath(base, name)))}  # fmt: skip
    pairs: dict[str, str] = {}
    for name, masks in known.items():
        found = [str(PurePosixPath(base, mask)) for mask in masks]
        found = [folder for folder in found if search.images(folder)]
        if len(found) > 1:
            raise DataError(
                f"{search.path} has several folders of masks: {quoted(found)}",
                remedy=f"say which counts, as with --annotations {PurePosixPath(found[0]).name}",
            )
        pairs |= {str(PurePosixPath(base, name)): folder for folder in found}
    return pairs


def _count_others(search: Search, pairs: Collection[tuple[str, str]]) -> None:
    """Count the images in folders that lie beside the paired ones as skipped."""
    read = [f"{folder}/" for pair in pairs for folder in pair]
    for base in {os.path.commonpath(pair) for pair in pairs}:
        for name in search.folders(base):
            folder = str(PurePosixPath(base, name))
            if folder_to_skip(name) or any(each.startswith(f"{folder}/") for each in read):
                continue
            if files := search.images(folder):
                search.skipped.add("beside images and masks", f"{folder}/{files[0]}", len(files))


def _refuse_unmasked_splits(search: Search, found: Collection[str]) -> None:
    """Raises DataError for a split without masks where others have some; a test split is noted."""
    for split, folder in search.splits().items():
        if split in found or not search.images(folder):
            continue
        if split != "test" and WHOLE not in found:
            raise DataError(
                f"{search.path}/{folder}/ has no masks, and there are masks of {', '.join(found)}",
                remedy="add those that lack, or move the folder away",
            )
        search.note(f"{folder}/ has no masks, and is not used")


def _folders(search: Search) -> FoundMasks:
    description, found = _paired_folders(search)
    if found:
        _count_others(search, found.values())
        of_images, of_masks = search.config.image_suffix, search.config.mask_suffix
        matched = {
            split: search.match(search.side(images, of_images), search.side(masks, of_masks))
            for split, (images, masks) in found.items()
        }
        places = {split: f"in {masks}" for split, (_, masks) in found.items()}
        return _divided(search, description, matched, places)
    alone = _a_folder_each(search)
    beside = alone or _beside_images(search)
    if beside:
        description = "a folder for each image" if alone else "masks beside their images"
        where = dict.fromkeys(beside, "in the folder")
        return _divided(search, description, beside, where)
    for base in ("", *search.splits().values()):
        for masks in masks_beside(search.folders(base)).values():
            raise search.no_images(
                str(PurePosixPath(base, masks[0])),
                "masks are PNG, TIFF, BMP or GIF files, or shapes in COCO or LabelMe files; "
                "--annotations names a folder of masks with another name",
            )
    others = [search.name_of(each) for each in search.root.rglob("*.json")]
    shapes = f"; {quoted(sorted(others)[:3])} hold neither COCO nor LabelMe" if others else ""
    raise DataError(
        f"{search.path} has no images/ beside masks/, annotations/ or labels/ (nor img_dir/ and "
        f"ann_dir/, nor masks named x_mask.png beside x.jpg){shapes}",
        remedy="use one of these layouts, with train/ and val/ above or below, or without; or "
        "--layout voc, coco or labelme; --annotations names a folder of masks with another name, "
        "--mask-suffix what the names of masks among the images end in",
    )


def _divided(
    search: Search, description: str, matched: Mapping[str, Matched], where: Mapping[str, str]
) -> FoundMasks:
    """The pairs by split, which follows from the folders or, if these are undivided, from lists."""
    lists = find_split_lists(search)
    names = [*map(search.name_of, lists.values())]
    if lists and WHOLE in matched:
        pairs = divided_by_lists(search, matched[WHOLE], lists)
        return FoundMasks("folders", f"{description}, divided by {', '.join(names)}", pairs)
    if lists:
        search.note(f"{', '.join(names)}: not read, as the folders are splits")
        search.read |= {*lists.values()}
    if len(divided := by_folders(search.path, matched.get(WHOLE, {}).items())) > 1:
        description += ", divided by the folders in their paths"
        matched = {split: dict(part) for split, part in divided.items()}
        where = dict.fromkeys(matched, where[WHOLE])
        if "test" in matched and not any(matched["test"].values()):
            del matched["test"]
            search.note("the images of test have no masks, and are not used")
    pairs = {split: search.with_masks(each, where[split]) for split, each in matched.items()}
    return FoundMasks("folders", description, pairs)


def _a_folder_each(search: Search) -> dict[str, Matched]:
    """Finds a folder for each image, with the image alone in images/ and its masks in masks/,
    undivided or by split, as in the Data Science Bowl 2018. Empty if the data are not laid out so.
    """
    names = splits_among(search.folders())
    splits: dict[str, str] = {role: names[role][0] for role in ROLES if role in names}
    found: dict[str, Matched] = {}
    for split, base in (splits or {WHOLE: ""}).items():
        folders = [str(PurePosixPath(base, name)) for name in search.folders(base)
                   if not folder_to_skip(name)]  # fmt: skip
        pairs = {folder: _pairs_in(search, folder) for folder in folders}
        if split == "test" and found and not any(pairs.values()):
            search.note(f"{base}/ has no masks, and is not used")
            continue
        alone = [(images, search.images(images), masks) for pair in pairs.values()
                 for images, masks in pair.items()]  # fmt: skip
        if not alone or len(alone) < len(folders) or any(len(each) != 1 for _, each, _ in alone):
            return {}
        found[split] = {
            f"{folder}/{image}": Layers(
                tuple(f"{masks}/{file}" for file in search.images(masks)),
                tuple(PurePosixPath(file).stem for file in search.images(masks)),
            )
            for folder, (image,), masks in alone
        }
    return found


def _beside_images(search: Search) -> dict[str, Matched]:
    """Finds masks in the folders of their images, undivided or by split; empty without any."""
    found: dict[str, Matched] = {}
    suffix = search.config.mask_suffix
    for split, folder in (search.splits() or {WHOLE: ""}).items():
        files = search.images(folder)
        masks = masks_among(files)
        if suffix:  # masks with other endings are skipped, and are not images either
            ends = {name for name in files if PurePosixPath(name).stem.endswith(suffix)}
            masks = masks | ends if ends else ends
        if masks:
            images = [name for name in files if name not in masks]
            masked = Side(folder, [name for name in files if name in masks], suffix)
            found[split] = search.match(Side(folder, images, search.config.image_suffix), masked)
            search.count_skipped(folder)
    if found:
        _refuse_unmasked_splits(search, found)
    return found


# -- Pascal VOC, also as CVAT exports it ---------------------------------------------------------


def _voc(search: Search) -> FoundMasks:
    lists = find_split_lists(search)
    if not lists:
        raise DataError(
            f"{search.path} has no ImageSets/Segmentation/ with train.txt and val.txt",
            remedy="give the folder VOC2012 with all of its parts; or read all of its images, with "
            "--layout folders",
        )
    images, masks = map(search.by_stem, ("JPEGImages", "SegmentationClass"))
    matched = {image: masks.get(stem) for stem, image in images.items()}
    found = divided_by_lists(search, matched, lists)
    words = f"Pascal VOC, with {', '.join(map(search.name_of, lists.values()))}"
    has_legend = search.config.legend or any((search.root / name).is_file() for name in LEGENDS)
    return FoundMasks("voc", words, found, () if has_legend else VOC_CLASSES)


def _ade20k(search: Search) -> FoundMasks:
    found = _folders(search)
    return FoundMasks("ade20k", f"ADE20K: {found.description}", found.splits, ADE20K_CLASSES)


LAYOUTS: dict[Layout, Callable[[Search], FoundMasks]] = {
    "folders": _folders,
    "ade20k": _ade20k,
    "voc": _voc,
    "nnunet": read_nnunet,
    "coco": read_coco,
    "labelme": read_labelme,
}
