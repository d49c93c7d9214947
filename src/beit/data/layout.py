"""What the folders of a data set mean: splits, folds, masks, and folders around it all.

Everything is recognised from one listing. Nothing that may mean two things is chosen silently:
the reading is named in the account of the data, or both are named and the data are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

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
MASKS = "masks"
"""Why a folder of masks beside images is skipped."""


@lru_cache(maxsize=1024)
def split_called(name: str) -> Role | None:
    """`train`, `val` or `test` for what a split may be called, in any case; else None."""
    word = name.strip().lower()
    return next((role for role, known in ROLES.items() if known.fullmatch(word)), None)


def split_name(name: str) -> str:
    """The same; other names stay."""
    return split_called(name) or name


def last_name(folder: str) -> str:
    """The name of a folder without those above it."""
    return folder.rpartition("/")[2]


class FolderTree:
    """The folders below a root, and how many images each holds."""

    def __init__(self, path: str, counts: Mapping[str, int]) -> None:
        self.path = path
        self._direct = counts
        self._totals = dict.fromkeys(counts, 0)
        self._children: dict[str, list[str]] = {}
        for folder in sorted(counts, key=natural_key):
            if folder:
                self._children.setdefault(folder.rpartition("/")[0], []).append(folder)
        for folder, count in counts.items():
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


class Layout(NamedTuple):
    """What the folders mean."""

    splits: Mapping[str, str]
    """The folder of each split, relative to the root; undivided data are the split `WHOLE`."""
    folds: bool = False
    """Whether the splits are folds, any of which may be held out."""
    skipped: Mapping[str, str] = {}
    """Folders that are not read, with the reason."""
    notes: tuple[str, ...] = ()
    inside: str | None = None
    """While it is read: the one folder that holds the data, which is read instead."""


def read_layout(tree: FolderTree) -> Layout:
    """What folders mean, but for their classes.

    A chain of single folders is gone down; `train/` beside `val/` or `test/` (also Training/,
    test_set/, dev/, valid/, ...) are splits, in any case; fold1/, fold2/, ... are folds; of
    `images/` beside `masks/` only the images are read.
    Errors: DataError for what can be read in two ways, naming both.
    """
    found, skipped, notes = Layout({}, inside=""), dict[str, str](), list[str]()

    def take(one: Layout) -> None:
        skipped.update(one.skipped)
        notes.extend(one.notes)

    while found.inside is not None:
        readings = (recognise(tree, found.inside) for recognise in _RECOGNISED)
        found = next(reading for reading in readings if reading)
        take(found)
    splits = dict(found.splits)
    for name, place in splits.items():
        if masked := _images_beside_masks(tree, place):
            take(masked)
            splits[name] = masked.inside or place
    return Layout(splits, found.folds, skipped, tuple(notes))


def _splits(tree: FolderTree, folder: str) -> Layout | None:
    """`train/` beside `val/` or `test/`, or a split alone."""
    found = _splits_in(tree, folder)
    every = [child for children in found.values() for child in children]
    filled = tree.filled(folder)
    others = [each for each in filled if each not in every]
    if not _is_divided(tree, folder) and (others or not filled or tree.direct(folder)):
        return None
    for role, folders in found.items():
        if len(folders) > 1:
            raise DataError(
                f"{tree.path} has {len(folders)} folders for the split {role}: {quoted(folders)}",
                remedy="keep one of them, or join them",
            )
    places = {str(role): found[role][0] for role in ROLES if role in found}
    return Layout(places, skipped=dict.fromkeys(others, "beside the splits"))


def _splits_in(tree: FolderTree, folder: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for child in tree.children(folder):
        if role := split_called(last_name(child)):
            found.setdefault(role, []).append(child)
    return found


def _is_divided(tree: FolderTree, folder: str) -> bool:
    """Whether a folder holds train/ beside val/ or test/."""
    return len(found := _splits_in(tree, folder)) > 1 and "train" in found


def _folds(tree: FolderTree, folder: str) -> Layout | None:
    filled = tree.filled(folder)
    alike = all(_FOLD.fullmatch(last_name(child).lower()) for child in filled)
    if len(filled) < 2 or not alike or tree.direct(folder):
        return None
    _refuse_divided_children(tree, folder)
    return Layout({last_name(child): child for child in filled}, folds=True)


def _images_beside_masks(tree: FolderTree, folder: str) -> Layout | None:
    filled = tree.filled(folder)
    images = [child for child in filled if _IMAGES.fullmatch(last_name(child).lower())]
    masks = [child for child in filled if _MASKS.fullmatch(last_name(child).lower())]
    if len(images) != 1 or not masks or tree.direct(folder):
        return None
    others = [child for child in filled if child not in images]
    return Layout(
        {},
        skipped={one: MASKS if one in masks else "beside images/ and masks/" for one in others},
        notes=(f"{images[0]}/ lies beside masks ({quoted(masks)}): only the images are read",),
        inside=images[0],
    )


def _only_folder(tree: FolderTree, folder: str) -> Layout | None:
    """The only folder in one without images, but for folders of labels without images."""
    filled = tree.filled(folder)
    if len(filled) != 1 or tree.direct(folder):
        return None
    others = [last_name(child).lower() for child in tree.children(folder) if child != filled[0]]
    if not all(map(_MASKS.fullmatch, others)):
        return None
    note = f"{filled[0]}/ is the only folder with images there: its contents are read"
    return Layout({}, notes=(note,), inside=filled[0])


def _undivided(tree: FolderTree, folder: str) -> Layout:
    _refuse_divided_children(tree, folder)
    _refuse_split_beside_others(tree, folder)
    return Layout({WHOLE: folder})


_RECOGNISED = (_splits, _folds, _images_beside_masks, _only_folder, _undivided)
"""What a folder may be, in the order in which it is tried."""


def _refuse_divided_children(tree: FolderTree, folder: str) -> None:
    """DataError if one of several folders is divided into splits by itself."""
    divided = [child for child in tree.filled(folder) if _is_divided(tree, child)]
    if divided:
        name = last_name(divided[0])
        inside = [last_name(child) for child in tree.children(divided[0])]
        raise DataError(
            f"{tree.path} holds {quoted(divided)}, each divided by itself into {quoted(inside)}: "
            "they may be classes, or data sets of their own",
            remedy=f"name one of them, --data {tree.path}/{divided[0]}; or put the splits above: "
            f"train/{name}/... and test/{name}/...",
        )


def _refuse_split_beside_others(tree: FolderTree, folder: str) -> None:
    """DataError if a folder is called as a split, and others beside it are not."""
    filled = tree.filled(folder)
    for child in filled:
        role = split_called(last_name(child))
        others = [each for each in filled if each != child]
        # Trains are a class in many data sets; one that holds folders of its own is a split.
        nested = not tree.direct(child) and len(tree.filled(child)) > 1
        if role and (others or tree.direct(folder)) and (role == "test" or nested):
            named = quoted(others) if others else "images of their own"
            raise DataError(
                f"{tree.path} holds {child}/ beside {named}: it may be the split for {role}, or a "
                "class",
                remedy="if it is a split, put the others into "
                f"{'val' if role == 'train' else 'train'}/; if it is a class, give its folder "
                "another name",
            )
