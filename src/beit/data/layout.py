"""What the folders of a data set mean: splits, folds, classes, masks, and folders around it all.

Everything is recognised from one listing. Nothing that may mean two things is chosen silently:
the reading is named in the account of the data, or both are named and the data are refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from beit.data.listing import natural_key, quoted
from beit.errors import DataError

WHOLE = ""
"""The split of data that are not divided into splits."""
Role = Literal["train", "val", "test"]

_WHAT = r"([ _-]?(set|data|dataset|images|imgs|split)|(19|20)[0-9]{2})?"
"""What the name of a split may have behind it: training_set, train2017."""
ROLES: dict[Role, re.Pattern[str]] = {
    "train": re.compile(rf"(train|training|trn){_WHAT}"),
    "val": re.compile(rf"(val|valid|validation|dev){_WHAT}"),
    "test": re.compile(rf"(test|testing|tst){_WHAT}"),
}
_FOLD = re.compile(r"(fold|split|cv)[ _-]?\d+")
_IMAGES = re.compile(r"(images?|imgs?|img_dir|images?_dir|jpegimages|pictures|photos)")
_MASKS = re.compile(
    r"(masks?|labels?|annotations?|ann_dir|masks?_dir|segmentations?|segmentationclass|gt|"
    r"ground[ _-]?truth|trimaps?)"
)
_NAMED = 4
MASKS = "masks"
"""Why a folder of masks beside images is skipped."""


def split_called(name: str) -> Role | None:
    """`train`, `val` or `test` for what a split may be called, in any case; else None."""
    word = name.strip().lower()
    return next((role for role, known in ROLES.items() if known.fullmatch(word)), None)


def split_name(name: str) -> str:
    """The same; other names stay."""
    return split_called(name) or name


def class_name(folder: str) -> str:
    """The class that a folder stands for: composed and decomposed accents are the same name."""
    return unicodedata.normalize("NFC", folder)


def _last(folder: str) -> str:
    return folder.rpartition("/")[2]


class FolderTree:
    """The folders below a root, and how many images each holds."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._direct = counts
        self._totals = dict.fromkeys(counts, 0)
        self._children: dict[str, list[str]] = {}
        for folder in sorted(counts, key=natural_key):
            if folder:
                self._children.setdefault(folder.rpartition("/")[0], []).append(folder)
        for folder, count in counts.items():
            self._count(folder, count)

    def _count(self, folder: str, count: int) -> None:
        while count and folder:
            self._totals[folder] = self._totals.get(folder, 0) + count
            folder = folder.rpartition("/")[0]
        self._totals[""] = self._totals.get("", 0) + count

    def direct(self, folder: str) -> int:
        """Images directly in a folder."""
        return self._direct.get(folder, 0)

    def total(self, folder: str) -> int:
        """Images in a folder and below it."""
        return self._totals.get(folder, 0)

    def children(self, folder: str) -> list[str]:
        """Folders directly in a folder, in natural order."""
        return self._children.get(folder, [])

    def filled(self, folder: str) -> list[str]:
        """Those of them that hold images."""
        return [child for child in self.children(folder) if self.total(child)]

    def below(self, folder: str, depth: int) -> list[str]:
        """Folders so many levels below a folder."""
        found = [folder]
        for _ in range(depth):
            found = [child for each in found for child in self.children(each)]
        return found


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the folders mean."""

    splits: Mapping[str, str]
    """The folder of each split, relative to the root; undivided data are the split `WHOLE`."""
    folds: bool = False
    """Whether the splits are folds, any of which may be held out."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Folders that are not read, with the reason."""
    notes: tuple[str, ...] = ()


def _splits_in(tree: FolderTree, folder: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for child in tree.children(folder):
        role = split_name(_last(child))
        if role in ROLES:
            found.setdefault(role, []).append(child)
    return found


def _is_divided(tree: FolderTree, folder: str) -> bool:
    """Whether a folder holds train/ beside val/ or test/."""
    return len(found := _splits_in(tree, folder)) > 1 and "train" in found


def _refuse_divided_children(path: str, tree: FolderTree, folder: str) -> None:
    """DataError if one of several folders is divided into splits by itself."""
    divided = [child for child in tree.filled(folder) if _is_divided(tree, child)]
    if divided:
        inside = [_last(child) for child in tree.children(divided[0])]
        raise DataError(
            f"{path} holds {quoted(divided)}, each divided by itself into {quoted(inside)}: they "
            "may be classes, or data sets of their own",
            remedy=f"name one of them, --data {path}/{divided[0]}; or put the splits above: "
            f"train/{_last(divided[0])}/... and test/{_last(divided[0])}/...",
        )


def _refuse_split_beside_others(path: str, tree: FolderTree, folder: str) -> None:
    """DataError if a folder is called as a split, and others beside it are not."""
    filled = tree.filled(folder)
    for child in filled:
        role = split_name(_last(child))
        if role not in ROLES:
            continue
        others = [each for each in filled if each != child]
        beside = bool(others or tree.direct(folder))
        # Trains are a class in many data sets; one that holds folders of its own is a split.
        nested = not tree.direct(child) and len(tree.filled(child)) > 1
        if beside and (role == "test" or nested):
            named = quoted(others) if others else "images of their own"
            raise DataError(
                f"{path} holds {child}/ beside {named}: it may be the split for {role}, or a class",
                remedy="if it is a split, put the others into "
                f"{'val' if role == 'train' else 'train'}/; if it is a class, give its folder "
                "another name",
            )


def _one_of_each(path: str, found: Mapping[str, Sequence[str]]) -> dict[str, str]:
    for role, folders in found.items():
        if len(folders) > 1:
            raise DataError(
                f"{path} has {len(folders)} folders for the split {role}: {quoted(list(folders))}",
                remedy="keep one of them, or join them",
            )
    return {role: found[role][0] for role in ROLES if role in found}


class _Reader:
    """Goes down from the root until the folders mean splits, folds, classes or nothing."""

    def __init__(self, path: str, tree: FolderTree) -> None:
        self._path, self._tree = path, tree
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []

    def images_beside_masks(self, folder: str) -> str | None:
        """The folder of the images where masks lie beside them, which are skipped."""
        filled = self._tree.filled(folder)
        images = [child for child in filled if _IMAGES.fullmatch(_last(child).lower())]
        masks = [child for child in filled if _MASKS.fullmatch(_last(child).lower())]
        if len(images) != 1 or not masks or self._tree.direct(folder):
            return None
        for child in filled:
            if child not in images:
                what = MASKS if child in masks else "beside images/ and masks/"
                self.skipped[child] = what
        self.notes.append(
            f"{images[0]}/ lies beside {quoted(masks)}, which hold masks: only the images are read"
        )
        return images[0]

    def only_child(self, folder: str) -> str | None:
        """The only folder in a folder without images, but for folders of labels without images."""
        tree = self._tree
        filled = tree.filled(folder)
        if len(filled) != 1 or tree.direct(folder):
            return None
        others = [child for child in tree.children(folder) if child != filled[0]]
        return filled[0] if all(_MASKS.fullmatch(_last(each).lower()) for each in others) else None

    def divided(self, folder: str) -> dict[str, str]:
        """Splits directly in a folder; empty if there are none."""
        tree = self._tree
        found = _splits_in(tree, folder)
        splits = [child for children in found.values() for child in children]
        filled = tree.filled(folder)
        if _is_divided(tree, folder):
            self.skipped |= {each: "beside the splits" for each in filled if each not in splits}
            return _one_of_each(self._path, found)
        alone = filled and set(filled) <= set(splits) and not tree.direct(folder)
        return _one_of_each(self._path, found) if alone else {}

    def folds(self, folder: str) -> dict[str, str]:
        """Folds directly in a folder; empty if there are none."""
        filled = self._tree.filled(folder)
        alike = all(_FOLD.fullmatch(_last(child).lower()) for child in filled)
        if len(filled) < 2 or not alike or self._tree.direct(folder):
            return {}
        _refuse_divided_children(self._path, self._tree, folder)
        return {_last(child): child for child in filled}

    def inside(self, folder: str) -> str | None:
        """The one folder in it that holds the data, if there is one."""
        below = self.images_beside_masks(folder)
        if below is None:
            below = self.only_child(folder)
            if below is not None:
                self.notes.append(
                    f"{below}/ is the only folder with images there, and is gone into"
                )
        return below


def read_layout(path: str, tree: FolderTree) -> Layout:
    """What the folders of the data at `path` mean, but for their classes.

    A chain of single folders is gone down; `train/` beside `val/` or `test/` (also Training/,
    test_set/, dev/, valid/, ...) are splits, in any case; fold1/, fold2/, ... are folds; of
    `images/` beside `masks/` only the images are read.
    Errors: DataError for what can be read in two ways, naming both.
    """
    reader, folder = _Reader(path, tree), ""
    while True:
        splits = reader.divided(folder)
        folds = {} if splits else reader.folds(folder)
        if splits or folds:
            break
        inside = reader.inside(folder)
        if inside is None:
            _refuse_divided_children(path, tree, folder)
            _refuse_split_beside_others(path, tree, folder)
            splits = {WHOLE: folder}
            break
        folder = inside
    places = {
        name: place if name == WHOLE else reader.images_beside_masks(place) or place
        for name, place in (splits or folds).items()
    }
    return Layout(
        splits=places, folds=bool(folds), skipped=reader.skipped, notes=tuple(reader.notes)
    )


def names_at(tree: FolderTree, folder: str, level: int) -> list[str]:
    """The classes that folders so many levels below a split stand for, in natural order."""
    filled = [each for each in tree.below(folder, level) if tree.total(each)]
    return sorted({class_name(_last(each)) for each in filled}, key=natural_key)


def _shallowest(tree: FolderTree, folder: str) -> int:
    """How far below a folder the first folder lies that holds images itself; 0 if there is none."""
    level, here = 0, tree.filled(folder)
    while here:
        level += 1
        if any(tree.direct(each) for each in here):
            return level
        here = [child for each in here for child in tree.filled(each)]
    return 0


def class_levels(tree: FolderTree, folder: str) -> dict[int, list[str]]:
    """The levels of folders below a split that may be its classes, with their names.

    Those at which there are two names or more, down to the first folder with images of its own; and
    the second level, where all folders of the first hold the same ones.
    """
    deepest = _shallowest(tree, folder)
    tops = tree.filled(folder)
    inside = [{class_name(_last(each)) for each in tree.filled(top)} for top in tops]
    repeated = len(tops) > 1 and len(inside[0]) > 1 and all(each == inside[0] for each in inside)
    levels = range(1, max(deepest, 2 if repeated else 0) + 1)
    found = {level: names_at(tree, folder, level) for level in levels}
    return {level: names for level, names in found.items() if len(names) > 1}


def two_readings(path: str, levels: Mapping[int, list[str]]) -> DataError:
    """What to say where folders at several levels may be the classes."""
    readings = "; or ".join(
        f"{'inside of these' if level > 1 else 'at the top'}, {quoted(names, _NAMED)} "
        f"(--class-level {level})"
        for level, names in levels.items()
    )
    return DataError(
        f"the classes of {path} may be the folders {readings}",
        remedy=f"say which: --class-level {', or --class-level '.join(map(str, levels))}",
    )


def words_for(layout: Layout, tree: FolderTree, classes: Collection[str], level: int) -> str:
    """The layout in a few words, for the account."""
    what = "one folder per class" if classes else "images without classes"
    if classes and level > 1:
        what += f" at level {level}"
    if layout.folds:
        return f"{what}, in folds: {', '.join(f'{name}/' for name in layout.splits)}"
    places = [f"{place}/" for split, place in layout.splits.items() if split]
    if places:
        return f"{what}, in the splits {', '.join(places)}"
    place = layout.splits[WHOLE]
    inside = f", in {place}/" if place else ""
    nested = not classes and bool(tree.filled(place))
    return what + (", in nested folders" if nested else "") + inside


def empty_classes(tree: FolderTree, folder: str, level: int) -> list[str]:
    """Classes whose folders hold no images."""
    every = {class_name(_last(each)) for each in tree.below(folder, level)}
    return sorted(every - set(names_at(tree, folder, level)), key=natural_key)
