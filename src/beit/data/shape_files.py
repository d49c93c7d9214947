"""Shapes in the JSON files of COCO and LabelMe: read, checked, and paired with their images.

Read here, and drawn by faster-coco-eval (Apache 2.0, kept up), which draws as the COCO API does and
refuses broken run lengths. The API itself (pycocotools) warns under today's NumPy; labelme is GPL,
and larger readers bring OpenCV and more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from beit.config.segment_run import MaskConfig
from beit.data.legends import CLASS_LISTS, find_beside, read_classes
from beit.data.listing import find_images, natural_key, quoted
from beit.data.mask_pairs import Notes, Pairs, require_masks
from beit.data.shapes import Kind, Shape, Shapes
from beit.errors import DataError
from beit.json_object import parse_json
from beit.terminal import printable

BACKGROUND = "background"
IGNORED = "__ignore__"
"""LabelMe's name for what is no class."""
_BACKGROUNDS = (BACKGROUND, "_background_")
_COCO_KEYS = ("images", "annotations", "categories")
_IMAGE_ROOTS = ("", "images", "JPEGImages", "img", "imgs")
_WITHOUT_AREA = ("point", "line", "linestrip", "points")


class ShapeSplits(NamedTuple):
    """Images with their shapes, and the classes: the background, then those of the files."""

    splits: dict[str, Pairs]
    classes: tuple[str, ...]


def _json(place: Path) -> Any:
    try:
        return parse_json(place.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{place} cannot be read as JSON: {error}", remedy="export it anew, or move it away"
        ) from error


# -- COCO ----------------------------------------------------------------------------------------


def coco_files(path: str) -> list[str]:
    """The COCO files of a folder: directly in it, in annotations/, or beside the images of a split;
    where some are called instances, these."""
    root = Path(path)
    places = [*root.glob("*.json"), *root.glob("annotations/*.json"), *root.glob("*/*coco*.json")]
    found = [
        place.relative_to(root).as_posix()
        for place in sorted({*places})
        if not place.name.startswith(".") and _is_coco(place)
    ]
    instances = [name for name in found if PurePosixPath(name).name.startswith("instances")]
    return sorted(instances or found, key=natural_key)


def _is_coco(place: Path) -> bool:
    """Whether a JSON file has the lists of COCO, by its text: files may have hundreds of
    megabytes, and are read as a whole once it is known that they count."""
    try:
        content = place.read_bytes()
    except OSError:
        return False
    return all(b'"%s"' % key.encode() in content for key in _COCO_KEYS)


def read_coco(path: str, files: Mapping[str, str], config: MaskConfig, notes: Notes) -> ShapeSplits:
    """The images of COCO files by split.

    Classes are the background and the categories by their ids; a category called background is the
    background. Crowds are drawn first, then what is larger before what is smaller.
    Errors: DataError for files of another form, categories that differ, images that are not there
    or in two splits.
    """
    contents = {split: _coco(Path(path, name)) for split, name in files.items()}
    categories: dict[int, str] = {}
    for split, content in contents.items():
        own = {int(each["id"]): str(each["name"]) for each in content["categories"]}
        if categories and own != categories:
            raise DataError(
                f"the categories of {files[split]} are not those of the other files of {path}",
                remedy="give all of them the same categories with the same ids",
            )
        categories = own
    classes = (BACKGROUND, *(categories[key] for key in sorted(categories)
                             if categories[key] not in _BACKGROUNDS))  # fmt: skip
    splits: dict[str, Pairs] = {}
    met: dict[str, str] = {}
    roots: dict[PurePosixPath, list[str]] = {}
    for split, content in contents.items():
        pairs, root = _coco_pairs(path, files[split], content, categories, notes)
        roots.setdefault(root, []).append(split)
        shared = [name for name, _ in pairs if met.get(name, split) != split]
        if shared:
            notes.add(f"{len(shared)} images of {files[split]} are also in another split: scores "
                      f"will be too high ({quoted([*map(printable, shared)])})")  # fmt: skip
        met.update(dict.fromkeys((name for name, _ in pairs), split))
        splits[split] = pairs
    _add_unlisted(path, roots, splits, config, notes)
    return ShapeSplits(splits, classes)


def _add_unlisted(
    path: str,
    roots: Mapping[PurePosixPath, list[str]],
    splits: dict[str, Pairs],
    config: MaskConfig,
    notes: Notes,
) -> None:
    """The images that lie beside those of the files and are in none, as `unmasked` says."""
    listed = {name for pairs in splits.values() for name, _ in pairs}
    for root, found in roots.items():
        if str(root) == ".":
            continue  # other things lie there, too
        names = [(root / each).as_posix() for each in find_images(str(Path(path, root))).paths]
        bare = [name for name in names if name not in listed]
        require_masks(bare, len(names), "in a COCO file", config, notes)
        if bare and config.unmasked == "background":
            if len(found) > 1:
                raise DataError(
                    f"{len(bare)} images in {root}/ are in no COCO file, which would say whether "
                    f"they are {' or '.join(found)}",
                    remedy="add them to one of the files, or leave them out with --unmasked skip",
                )
            splits[found[0]] += [(name, None) for name in bare]


def _coco(place: Path) -> dict[str, Any]:
    """The content of a COCO file, of which the parts that are used have the right form."""
    content = _json(place)
    forms: dict[str, dict[str, type]] = {
        "images": {"id": int, "file_name": str, "height": int, "width": int},
        "annotations": {"image_id": int, "category_id": int},
        "categories": {"id": int, "name": str},
    }
    for key, form in forms.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(
                f"{place} is no COCO file: it has no list '{key}'",
                remedy="export it anew as COCO, with segmentations",
            )
        for number, entry in enumerate(entries):
            wrong = [
                name
                for name, kind in form.items()
                if not isinstance(entry, dict) or not isinstance(entry.get(name), kind)
            ]
            if wrong:
                raise DataError(
                    f"entry {number + 1} of '{key}' in {place} has no sound '{wrong[0]}'",
                    remedy="export it anew as COCO",
                )
    if not content["categories"]:
        raise DataError(f"{place} has no categories", remedy="export it anew with its classes")
    return dict(content)


def _coco_pairs(
    path: str,
    name: str,
    content: dict[str, Any],
    categories: dict[int, str],
    notes: Notes,
) -> tuple[Pairs, PurePosixPath]:
    """The images of one file, each with its shapes, and the folder that holds them."""
    shapes: dict[int, list[tuple[tuple[bool, float], Shape]]] = {}
    known = {entry["id"] for entry in content["images"]}
    for entry in content["annotations"]:
        image, category = entry["image_id"], entry["category_id"]
        if image not in known or category not in categories:
            raise DataError(
                f"an annotation of {name} is of image {image} and category {category}, and one of "
                "them is not in the file",
                remedy="export it anew",
            )
        segmentation = entry.get("segmentation")
        if not segmentation or (isinstance(segmentation, list) and not any(segmentation)):
            notes.skipped.add("annotation without a shape", name)
            continue
        label = categories[category]
        label = BACKGROUND if label in _BACKGROUNDS else label
        crowd, area = bool(entry.get("iscrowd")), float(entry.get("area") or 0)
        if isinstance(segmentation, list):
            segmentation = [polygon for polygon in segmentation if polygon]
        order = (not crowd, -area)
        shapes.setdefault(image, []).append((order, Shape("coco", label, segmentation)))
    root = _image_root(path, name, [entry["file_name"] for entry in content["images"]])
    pairs: Pairs = []
    for entry in content["images"]:
        drawn = sorted(shapes.get(entry["id"], ()), key=lambda each: each[0])
        place = (root / entry["file_name"]).as_posix()
        height, width = entry["height"], entry["width"]
        whole = Shapes(f"{name} ({entry['file_name']})", height, width, tuple(s for _, s in drawn))
        pairs.append((place, whole))
    return pairs, root


def _image_root(path: str, name: str, files: list[str]) -> PurePosixPath:
    """The folder to which the file names of a COCO file are relative.

    Errors: DataError if there is none in which all of them are.
    """
    file = PurePosixPath(name)
    ends = [file.stem.removeprefix("instances_"), *(part for part in file.parent.parts)]
    splits = [each.name for each in Path(path).iterdir() if each.is_dir()]
    inside = [each for each in splits if each in ends or each.casefold() in file.stem.casefold()]
    below = ["", *inside, *ends]
    roots = [file.parent, *(PurePosixPath(first, last) for last in below for first in _IMAGE_ROOTS)]
    roots += [PurePosixPath(first, "images") for first in inside]
    lacking = {root: [each for each in files if not Path(path, root, each).is_file()]
               for root in dict.fromkeys(roots)}  # fmt: skip
    best = min(lacking, key=lambda root: len(lacking[root]))
    if lacking[best]:
        raise DataError(
            f"{len(lacking[best])} of {len(files)} images of {name} are not below {path}: "
            + quoted([*map(printable, lacking[best])]),
            remedy="bring all images to where 'file_name' says, relative to the folder, to "
            "images/, or to the folder of the split",
        )
    return best


# -- LabelMe -------------------------------------------------------------------------------------


def with_labelme(path: str) -> str:
    """The name of a LabelMe file in a folder, empty if there is none."""
    for place in sorted(Path(path).rglob("*.json"))[:20]:
        try:
            if b'"shapes"' in place.read_bytes():
                return place.relative_to(path).as_posix()
        except OSError:
            continue
    return ""


def read_labelme(
    path: str, config: MaskConfig, notes: Notes, split_called: Callable[[str], str | None]
) -> ShapeSplits:
    """The images of LabelMe files, which lie beside them or in another folder under the same name.

    Classes are those of `classes.txt`, or the background and all labels by name; `_background_` is
    the background, `__ignore__` is ignored. Shapes are drawn in their order, later over earlier.
    Errors: DataError for files of another form, and files or images that stand alone.
    """
    files = sorted(Path(path).rglob("*.json"), key=lambda place: natural_key(place.as_posix()))
    contents = {
        place.relative_to(path).as_posix(): content
        for place in files
        if isinstance(content := _json(place), dict) and "shapes" in content
    }
    images = {name.rpartition(".")[0]: name for name in find_images(path).paths}
    by_name: dict[str, list[str]] = {}
    for stem in images:
        by_name.setdefault(PurePosixPath(stem).name, []).append(stem)
    splits: dict[str, Pairs] = {}
    labels: set[str] = set()
    used: set[str] = set()
    for name, content in contents.items():
        stem = name.removesuffix(".json")
        others = by_name.get(PurePosixPath(stem).name, [])
        stem = stem if stem in images else others[0] if len(others) == 1 else ""
        if not stem:
            raise DataError(
                f"{path}/{printable(name)} has {len(others)} images of its name",
                remedy="put every image beside its file, under the same name",
            )
        used.add(stem)
        shapes = _labelme_shapes(f"{path}/{printable(name)}", name, content, notes)
        labels |= {shape.label for shape in shapes.shapes}
        split = next(filter(None, map(split_called, PurePosixPath(images[stem]).parts[:-1])), "")
        splits.setdefault(split, []).append((images[stem], shapes))
    bare = [images[stem] for stem in images if stem not in used]
    require_masks(bare, len(images), "in a LabelMe file", config, notes)
    if config.unmasked == "background":
        for name in bare:
            split = next(filter(None, map(split_called, PurePosixPath(name).parts[:-1])), "")
            splits.setdefault(split, []).append((name, None))
    if "" in splits and len(splits) > 1:
        raise DataError(
            f"some images of {path} lie in folders of splits, others do not",
            remedy="put all of them into train/, val/ or test/, or none",
        )
    listed = find_beside(config.class_names, path, CLASS_LISTS, "--class-names")
    named = read_classes(listed) if listed else ()
    if named:
        missing = sorted(labels - {*named, BACKGROUND, IGNORED})
        if missing:
            raise DataError(
                f"labels of {path} are not in {listed}: {quoted([*map(printable, missing)])}",
                remedy="complete the list",
            )
        named = tuple(BACKGROUND if name in _BACKGROUNDS else name for name in named
                      if name != IGNORED)  # fmt: skip
        labels = set()
    known = named if BACKGROUND in named else (BACKGROUND, *named)
    others = sorted(labels - {BACKGROUND, IGNORED}, key=natural_key)
    return ShapeSplits(splits, (*known, *others))


def _labelme_shapes(place: str, name: str, content: dict[str, Any], notes: Notes) -> Shapes:
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
            notes.skipped.add(f"a {kind} has no area", name)
            continue
        least = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 1}.get(kind)
        if least is None or len(points) < least:
            raise DataError(
                f"shape {number} of {place} is a '{printable(kind)}' of {len(points)} points",
                remedy="use polygons, rectangles, circles or masks, with all of their points",
            )
        label = BACKGROUND if label in _BACKGROUNDS else label
        if kind == "mask":
            shapes.append(Shape("bitmap", label, (points[0], entry.get("mask"))))
        else:
            drawn: Kind = kind
            shapes.append(Shape(drawn, label, points))
    return Shapes(place, height, width, tuple(shapes))
