"""Reads shapes from the JSON files of COCO and LabelMe, checks them and pairs them with images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from beit.data.folder_names import split_named_by
from beit.data.layout import WHOLE
from beit.data.listing import natural_key
from beit.data.mask_classes import CLASS_LISTS, find_beside, read_classes
from beit.data.mask_pairs import FoundMasks, Pairs, Search, Shape, Shapes, by_folders
from beit.errors import DataError
from beit.json_object import read_json
from beit.terminal import counted, printable, quoted

BACKGROUND = "background"
IGNORED = "__ignore__"
"""LabelMe's label for regions that are ignored."""
_BACKGROUNDS = (BACKGROUND, "_background_")
_COCO_LISTS: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}
"""The lists of a COCO file, with the keys that are read of their entries and their types."""
_BESIDE_IMAGES = ("*/*coco*.json", "*/*annotations*.json", "*/instances*.json", "*/labels.json")
_IMAGE_FOLDERS = ("", "images", "JPEGImages", "img", "imgs", "data")
_WITHOUT_AREA = ("point", "line", "linestrip", "points")
_LEAST_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 1}


def _json(place: Path) -> Any:
    return read_json(place, DataError, "export it anew, or move it away")


def _holds(place: Path, *keys: str) -> bool:
    """Whether these keys occur in the text of a JSON file: a quick test, as files may have hundreds
    of megabytes, and only those that are used are parsed."""
    try:
        content = place.read_bytes()
    except OSError:
        return False
    return all(f'"{key}"'.encode() in content for key in keys)


# -- COCO ----------------------------------------------------------------------------------------


def coco_files(search: Search) -> list[str]:
    """The COCO files of a folder: directly in it, in annotations/, or beside the images of a split.
    If the names of some begin with `instances`, only these."""
    places = {
        place
        for pattern in ("*.json", "annotations/*.json", *_BESIDE_IMAGES)
        for place in search.root.glob(pattern)
        if not place.name.startswith(".") and _holds(place, *_COCO_LISTS)
    }
    instances = {place for place in places if place.name.startswith("instances")}
    return sorted(map(search.name_of, instances or places), key=natural_key)


def read_coco(search: Search) -> FoundMasks:
    """The images of COCO files, one for each split or one for all.

    Classes are the background and the categories in the order of their ids; a category called
    background is the background. Crowds are drawn first, then larger shapes before smaller ones.

    Raises:
        DataError: There is no file, or several that may be meant; one has another form; the
            categories of two files differ; or images are missing.
    """
    files = _coco_splits(search)
    contents = {split: _coco(search.root / name) for split, name in files.items()}
    categories: dict[int, str] = {}
    for split, content in contents.items():
        own = {int(each["id"]): str(each["name"]) for each in content["categories"]}
        if categories and own != categories:
            raise DataError(
                f"the categories of {files[split]} are not those of the other files of "
                f"{search.path}",
                remedy="give all of them the same categories with the same ids",
            )
        categories = own
    names = [categories[key] for key in sorted(categories) if categories[key] not in _BACKGROUNDS]
    splits: dict[str, Pairs] = {}
    split_of: dict[str, str] = {}
    splits_in: dict[str, list[str]] = {}
    for split, content in contents.items():
        folder = _image_folder(search, files[split], content)
        splits_in.setdefault(folder, []).append(split)
        splits[split] = list(_coco_pairs(search, files[split], content, categories, folder))
        keys = [image for image, _ in splits[split]]
        shared = [printable(key) for key in keys if split_of.get(key, split) != split]
        if shared:
            search.note(
                f"{counted(len(shared), 'image')} of {files[split]} are also in another split: "
                f"scores will be too high ({quoted(shared)})"
            )
        split_of |= dict.fromkeys(keys, split)
    for folder, here in splits_in.items():
        _add_unlisted(search, folder, {*split_of}, {split: splits[split] for split in here})
    words = f"COCO: shapes in {', '.join(files.values())}"
    return FoundMasks("coco", words, splits, (BACKGROUND, *names))


def _coco_splits(search: Search) -> dict[str, str]:
    """The COCO file of each split, or the single one of undivided data."""
    requested = search.config.annotations
    files = [requested] if requested else coco_files(search)
    if not files:
        raise DataError(
            f"{search.path} has no COCO file: JSON with images, annotations and categories, "
            "directly in it, in annotations/, or beside the images of a split",
            remedy="name one with --annotations, relative to the folder",
        )
    found: dict[str, str] = {}
    for name in files:
        file = PurePosixPath(name)
        words = [*re.split(r"[^0-9A-Za-z]+", file.stem), file.parent.name]
        split = split_named_by(words) or WHOLE
        if split in found:
            raise DataError(
                f"{search.path} has {found[split]} and {name}, which may both be meant",
                remedy="say which with --annotations, or put train and val into their names",
            )
        found[split] = name
    if WHOLE in found and len(found) > 1:
        raise DataError(
            f"the name of {found[WHOLE]} in {search.path} does not say which split it is, and "
            f"there are others: {quoted(files)}",
            remedy="put train or val into its name, or say which file counts with --annotations",
        )
    return found


def _coco(place: Path) -> dict[str, Any]:
    """The content of a COCO file, after a check of the parts that are used."""
    content = _json(place)
    for key, form in _COCO_LISTS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(
                f"{place} is not a COCO file: it has no list '{key}'",
                remedy="export it anew as COCO, with segmentations",
            )
        for number, entry in enumerate(entries, start=1):
            for name, kind in form.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
                    panoptic = isinstance(entry, dict) and "segments_info" in entry
                    raise DataError(
                        f"entry {number} of '{key}' in {place} has no sound '{name}'"
                        + ": it describes a panoptic mask, which is not supported" * panoptic,
                        remedy="export it anew as COCO, with a shape for each object",
                    )
    for key in ("images", "categories"):
        ids = Counter(entry["id"] for entry in content[key])
        twice = [number for number, times in ids.items() if times > 1]
        if twice:
            raise DataError(
                f"several entries of '{key}' in {place} have the id {twice[0]}",
                remedy="export it anew, or give each an id of its own",
            )
    for entry in content["images"]:
        entry["file_name"] = entry["file_name"].replace("\\", "/")  # written on Windows
    files = Counter(entry["file_name"] for entry in content["images"])
    twice = [name for name, times in files.items() if times > 1]
    if twice:
        raise DataError(
            f"{place} lists images twice: {quoted([*map(printable, twice)])}",
            remedy="list each once, with all of its shapes",
        )
    if not content["categories"]:
        raise DataError(f"{place} has no categories", remedy="export it anew with its classes")
    return dict(content)


def _coco_pairs(
    search: Search, name: str, content: dict[str, Any], categories: dict[int, str], folder: str
) -> Iterator[tuple[str, Shapes]]:
    """The images of one file, each with its shapes in the order of drawing."""
    ordered: dict[int, list[tuple[tuple[bool, float], Shape]]] = {
        entry["id"]: [] for entry in content["images"]
    }
    for entry in content["annotations"]:
        image, category = entry["image_id"], entry["category_id"]
        if image not in ordered or category not in categories:
            raise DataError(
                f"an annotation of {name} is of image {image} and category {category}, and one of "
                "them is not in the file",
                remedy="export it anew",
            )
        segmentation = entry.get("segmentation")
        if isinstance(segmentation, list):
            segmentation = [polygon for polygon in segmentation if polygon]
        if not segmentation:
            search.skipped.add("annotation without a shape", name)
            continue
        order = not entry.get("iscrowd"), -float(entry.get("area") or 0)
        shape = Shape("coco", _class(categories[category]), segmentation)
        ordered[image].append((order, shape))
    for entry in content["images"]:
        file = entry["file_name"]
        shapes = sorted(ordered[entry["id"]], key=lambda each: each[0])
        drawn = tuple(shape for _, shape in shapes)
        whole = Shapes(f"{name} ({file})", entry["height"], entry["width"], drawn)
        yield PurePosixPath(folder, file).as_posix(), whole


def _class(label: str) -> str:
    return BACKGROUND if label in _BACKGROUNDS else label


def _image_folder(search: Search, name: str, content: dict[str, Any]) -> str:
    """The folder to which the file names of a COCO file are relative.

    Raises DataError if no folder has all of the images.
    """
    names = [entry["file_name"] for entry in content["images"]]
    file = PurePosixPath(name)
    ends = [file.stem.removeprefix("instances_"), *file.parent.parts]
    inside = [
        each for each in search.folders() if each in ends or each.casefold() in file.stem.casefold()
    ]
    folders = [file.parent]
    folders += [
        PurePosixPath(first, last) for last in ("", *inside, *ends) for first in _IMAGE_FOLDERS
    ]
    folders += [PurePosixPath(first, last) for first in inside for last in ("images", "data")]
    lacking = {
        folder: [each for each in names if not (search.root / folder / each).is_file()]
        for folder in dict.fromkeys(folders)
    }
    best = min(lacking, key=lambda folder: len(lacking[folder]))
    if lacking[best]:
        raise DataError(
            f"{len(lacking[best])} of {len(names)} images of {name} are not below {search.path}: "
            + quoted([*map(printable, lacking[best])]),
            remedy="bring all images to where 'file_name' says, relative to the folder, to "
            "images/, or to the folder of the split",
        )
    return best.as_posix()


def _add_unlisted(search: Search, folder: str, listed: set[str], splits: dict[str, Pairs]) -> None:
    """Treat images that lie beside the listed ones, and that no file lists, as --unmasked says."""
    if folder == ".":
        return  # images for other purposes may lie there, too
    names = [f"{folder}/{name}" for name in search.images(folder)]
    unmasked = [name for name in names if name not in listed]
    if search.unmasked_are_background(unmasked, len(names), "in a COCO file") and unmasked:
        if len(splits) > 1:
            raise DataError(
                f"{len(unmasked)} images in {folder}/ are in no COCO file, which would say whether "
                f"they are {' or '.join(splits)}",
                remedy="add them to one of the files, or leave them out with --unmasked skip",
            )
        next(iter(splits.values())).extend((name, None) for name in unmasked)


# -- LabelMe -------------------------------------------------------------------------------------


def example_of_labelme(search: Search) -> str:
    """The name of a LabelMe file below a folder; empty if none is found."""
    first = sorted(search.root.rglob("*.json"))[:20]
    return next((search.name_of(place) for place in first if _holds(place, "shapes")), "")


def read_labelme(search: Search) -> FoundMasks:
    """The images of LabelMe files, which lie beside them or in another folder under the same name.

    Classes are those of `classes.txt`, or the background and all labels by name; `_background_` is
    the background, and `__ignore__` is ignored. Later shapes are drawn over earlier ones.

    Raises:
        DataError: A file has another form, or files or images lack their partner.
    """
    images = search.by_stem("")
    by_name: dict[str, list[str]] = {}
    for stem in images:
        by_name.setdefault(PurePosixPath(stem).name, []).append(stem)
    files = sorted(search.root.rglob("*.json"), key=lambda place: natural_key(place.as_posix()))
    pairs: Pairs = []
    labels: set[str] = set()
    for place in files:
        content = _json(place)
        if not isinstance(content, dict) or "shapes" not in content:
            continue
        name = search.name_of(place)
        stem = name.removesuffix(".json")
        others = [stem] if stem in images else by_name.get(PurePosixPath(stem).name, [])
        if len(others) != 1:
            raise DataError(
                f"{search.path}/{printable(name)} has {len(others)} images of its name",
                remedy="put every image beside its file, under the same name",
            )
        shapes = _labelme_shapes(search, name, content)
        labels |= {shape.label for shape in shapes.shapes}
        pairs.append((images[others[0]], shapes))
    if not pairs:
        raise DataError(
            f"{search.path} has no LabelMe file: JSON with shapes, beside its image",
            remedy="choose another --layout, or auto",
        )
    unmasked = sorted({*images.values()} - {name for name, _ in pairs}, key=natural_key)
    if search.unmasked_are_background(unmasked, len(images), "in a LabelMe file"):
        pairs += [(name, None) for name in unmasked]
    splits = by_folders(search.path, pairs)
    words = "LabelMe files beside the images"
    return FoundMasks("labelme", words, splits, classes_of(search, labels))


def classes_of(search: Search, labels: set[str]) -> tuple[str, ...]:
    """The background and the listed classes or, without a list, all labels.

    Raises:
        DataError: A label is missing from the list.
    """
    listed = find_beside(search.config.class_names, search.path, CLASS_LISTS, "--class-names")
    if listed is None:
        return (BACKGROUND, *sorted(labels - {BACKGROUND, IGNORED}, key=natural_key))
    names = tuple(_class(name) for name in read_classes(listed) if name != IGNORED)
    missing = sorted(labels - {*names, BACKGROUND, IGNORED})
    if missing:
        raise DataError(
            f"labels of {search.path} are not in {listed}: {quoted([*map(printable, missing)])}",
            remedy="complete the list",
        )
    return names if BACKGROUND in names else (BACKGROUND, *names)


def _labelme_shapes(search: Search, name: str, content: dict[str, Any]) -> Shapes:
    place = f"{search.path}/{printable(name)}"
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if not isinstance(height, int) or not isinstance(width, int):
        raise DataError(
            f"{place} does not say imageHeight and imageWidth", remedy="save it anew in LabelMe"
        )
    shapes = []
    for number, entry in enumerate(content["shapes"], start=1):
        kind: Any = entry.get("shape_type") or "polygon"
        label, points = entry.get("label"), entry.get("points")
        if not isinstance(label, str) or not isinstance(points, list):
            raise DataError(
                f"shape {number} of {place} has no label or no points",
                remedy="repair it in LabelMe",
            )
        if kind in _WITHOUT_AREA or not points:
            search.skipped.add(f"a {kind} has no area", name)
            continue
        if kind not in _LEAST_POINTS or len(points) < _LEAST_POINTS[kind]:
            raise DataError(
                f"shape {number} of {place} is a '{printable(kind)}' of {len(points)} points",
                remedy="use polygons, rectangles, circles or masks, with all of their points",
            )
        if kind == "mask":
            shapes.append(Shape("bitmap", _class(label), (points[0], entry.get("mask"))))
        else:
            shapes.append(Shape(kind, _class(label), points))
    return Shapes(place, height, width, tuple(shapes))
