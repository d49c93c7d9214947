"""What the folders of a data set mean: splits, folds, masks, and folders that only hold the data.

Everything is recognised from one listing. Nothing ambiguous is decided silently: either the account
of the data names the meaning that was taken, or the data are refused and both meanings are named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from beit.data.folder_names import (
    FOLD,
    IMAGES,
    LOSSLESS,
    MASK_FOLDER,
    ROLES,
    Role,
    are_called_after,
    last_name,
    looks_like_masks,
    masks_beside,
    split_called,
    split_groups,
    splits_among,
)
from beit.data.image_names import composed
from beit.data.listing import natural_key
from beit.errors import DataError
from beit.terminal import quoted

_IMAGES_ONLY = r"(images?|imgs?|jpegimages|leftimg8bit)([ _-]?(png|jpe?g|tiff?))?"
WHOLE = ""
"""The split of data that are not divided into splits."""
MASKS = "masks"
"""Why masks beside images are skipped."""
BESIDE_SPLITS = "beside the splits"
"""Why images outside of all splits are skipped."""


class FolderTree:
    """The folders below a root, and how many images each holds."""

    def __init__(self, path: str, counts: Mapping[str, int], paths: Sequence[str]) -> None:
        self.path = path
        self._direct, self._paths = counts, paths
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

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self._paths:
            folder, _, name = path.rpartition("/")
            found.setdefault(folder, []).append(name)
        return found

    def files(self, folder: str, *, below: bool = True) -> list[str]:
        """The file names of the images in a folder and, with `below`, in the folders below it."""
        every = (folder, *(self.everything_below(folder) if below else ()))
        return [name for each in every for name in self._names.get(each, ())]

    def names(self, folder: str, *, below: bool = True) -> list[str]:
        """The same without extension."""
        return [name.rpartition(".")[0] for name in self.files(folder, below=below)]

    def children(self, folder: str) -> list[str]:
        """Folders directly in a folder, in natural order."""
        return self._children.get(folder, [])

    def filled(self, folder: str) -> list[str]:
        """Folders directly in a folder that hold images, in themselves or below."""
        return [child for child in self.children(folder) if self.total(child)]

    def everything_below(self, folder: str) -> Iterator[str]:
        """Every folder below a folder."""
        for child in self.children(folder):
            yield child
            yield from self.everything_below(child)

    def within(self, folders: Mapping[str, str]) -> dict[str, str]:
        """Some folders and all below them, each with the value of the given folder it is in."""
        found = dict(folders)
        for folder in sorted(self._direct, key=len):
            parent = folder.rpartition("/")[0]
            if folder and parent in found:
                found.setdefault(folder, found[parent])
        return found

    def without(self, folders: Collection[str]) -> FolderTree:
        """The tree without some folders."""
        counts = {at: n for at, n in self._direct.items() if at not in folders}
        return FolderTree(self.path, counts, self._paths)

    def below(self, folder: str, depth: int) -> list[str]:
        """Folders `depth` levels below a folder."""
        found = [folder]
        for _ in range(depth):
            found = [child for each in found for child in self.children(each)]
        return found

    def classes_at(self, folder: str, level: int) -> list[str]:
        """The names of folders with images `level` levels below a split, in natural order."""
        filled = [each for each in self.below(folder, level) if self.total(each)]
        return sorted({composed(last_name(each)) for each in filled}, key=natural_key)

    def class_levels(self, folder: str) -> dict[int, list[str]]:
        """The levels of folders below a split that may be its classes, with their names.

        They are the levels with two names or more, down to the first where a folder has images of
        its own, or one deeper if another folder there has none, but holds several folders. The
        second level is one of them if all folders of the first hold folders of the same names.
        """
        deepest, here = 0, self.filled(folder)
        while here:
            deepest += 1
            if any(map(self.direct, here)):
                divided = (not self.direct(each) and len(self.filled(each)) > 1 for each in here)
                deepest += any(divided)
                break
            here = [child for each in here for child in self.filled(each)]
        inside = [self.classes_at(top, 1) for top in self.filled(folder)]
        if len(inside) > 1 and len(inside[0]) > 1 and all(each == inside[0] for each in inside):
            deepest = max(deepest, 2)
        found = {level: self.classes_at(folder, level) for level in range(1, deepest + 1)}
        return {level: names for level, names in found.items() if len(names) > 1}


class Layout(NamedTuple):
    """What the folders of a data set mean."""

    splits: Mapping[str, str]
    """The folder of each split, relative to the root; undivided data are the split `WHOLE`."""
    folds: bool = False
    """Whether the splits are folds, any of which may be held out."""
    skipped: Mapping[str, str] = {}
    """Folders that are not read, with the reason."""
    notes: tuple[str, ...] = ()
    inside: str | None = None
    """While the layout is read: the one folder that holds the data and is to be read next."""


def read_layout(tree: FolderTree, *, classes_at_top: bool = False) -> Layout:
    """What folders mean, except for classes.

    A chain of single folders is followed to its end. `train/` beside `val/` or `test/` (also
    Training/, test_set/, dev/, pets_train/, ..., in any case) are splits; fold1/, fold2/, ... are
    folds; of `images/` beside `masks/`, and of `train/` beside `train_masks/`, only the images are
    read. With `classes_at_top`, folders that may be classes or splits are classes.

    Raises DataError if the layout is ambiguous, naming both meanings.
    """
    skipped = dict[str, str]()
    for folder in ("", *tree.everything_below("")):
        skipped |= _by_their_files(tree, folder)
    tree = tree.without(tree.within(skipped)) if skipped else tree
    found, notes = Layout({}, inside=""), list[str]()

    def take(one: Layout) -> None:
        skipped.update(one.skipped)
        notes.extend(one.notes)

    while found.inside is not None:
        readings = (recognise(tree, found.inside) for recognise in _RECOGNISED)
        found = next(filter(None, readings), None) or _undivided(tree, found.inside, classes_at_top)
        take(found)
    splits = dict(found.splits)
    for name, place in splits.items():
        if masked := _images_beside_masks(tree, place):
            take(masked)
            splits[name] = masked.inside or place
        for folder in tree.everything_below(splits[name]):
            if masked := _images_beside_masks(tree, folder):
                skipped.update(masked.skipped)
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
    return Layout(places, skipped=dict.fromkeys(others, BESIDE_SPLITS))


def _splits_in(tree: FolderTree, folder: str) -> dict[Role, list[str]]:
    children = {last_name(child): child for child in tree.children(folder)}
    found = splits_among([*children])
    return {role: [children[name] for name in names] for role, names in found.items()}


def _is_divided(tree: FolderTree, folder: str) -> bool:
    """Whether a folder holds train/ beside val/ or test/."""
    return len(found := _splits_in(tree, folder)) > 1 and "train" in found


def _folds(tree: FolderTree, folder: str) -> Layout | None:
    filled = tree.filled(folder)
    alike = all(FOLD.fullmatch(last_name(child).lower()) for child in filled)
    if len(filled) < 2 or not alike or tree.direct(folder):
        return None
    _refuse_divided_children(tree, folder)
    return Layout({last_name(child): child for child in filled}, folds=True)


def _images_beside_masks(tree: FolderTree, folder: str) -> Layout | None:
    filled = {last_name(child): child for child in tree.filled(folder)}
    pairs = masks_beside([*filled])
    if len(pairs) != 1 or tree.direct(folder):
        return None
    ((name, masks),) = pairs.items()
    images = filled.pop(name)
    usual = re.fullmatch(IMAGES, name.lower())
    # `face_mask` beside `face` may be a class; with as many masks as images it holds masks.
    if not usual and any(tree.total(filled[mask]) != tree.total(images) for mask in masks):
        return None
    others = f"beside {name}/ and {masks[0]}/"
    return Layout(
        {},
        skipped={one: MASKS if last in masks else others for last, one in filled.items()},
        notes=(
            f"{images}/ lies beside masks ({quoted([filled[mask] for mask in masks])}): only the "
            "images are read",
        ),
        inside=images,
    )


def _by_their_files(tree: FolderTree, folder: str) -> dict[str, str]:
    """Folders whose files are named after the images beside them, with the reason to skip them: if
    a word in the folder's name suggests it, they are masks; others beside `images/` are depths,
    instances or the like."""
    names = {last_name(child): child for child in tree.filled(folder)}
    known = {mask for masks in masks_beside([*names]).values() for mask in masks}
    masks = [name for name, child in names.items() if looks_like_masks(name) and name not in known
             and all(file.lower().endswith(LOSSLESS) for file in tree.files(child))]  # fmt: skip
    rest = [name for name in names if name not in masks and name not in known]
    usual = [name for name in rest if re.fullmatch(_IMAGES_ONLY, name.lower())]
    found: dict[str, str] = {}
    if masks:
        inside = tree.names(folder, below=False)  # if masks/ lies among the images themselves
        sides = [(tree.names(names[name]), name in usual) for name in rest]
        for mask in masks:
            files = tree.names(names[mask])
            if any(
                are_called_after(files, images, strictly=False, counted=certain)
                for images, certain in ([(inside, False)] if inside else sides)
            ):
                found[names[mask]] = MASKS
    if len(usual) == 1 and len(rest) > 1 and not _splits_in(tree, folder):
        images_of = tree.names(names[usual[0]])
        for name in rest:
            files = tree.names(names[name])
            if name != usual[0] and are_called_after(files, images_of, strictly=True):
                found[names[name]] = f"named as the images in {usual[0]}/"
    return found


def _only_folder(tree: FolderTree, folder: str) -> Layout | None:
    """The only folder with images in a folder that has no images of its own."""
    filled = tree.filled(folder)
    if len(filled) != 1 or tree.direct(folder):
        return None
    others = [last_name(child).lower() for child in tree.children(folder) if child != filled[0]]
    # Folders without images beside one with images are classes that lack them.
    if tree.direct(filled[0]) and not all(map(MASK_FOLDER.fullmatch, others)):
        return None
    note = f"{filled[0]}/ is the only folder with images there: its contents are read"
    return Layout({}, notes=(note,), inside=filled[0])


def _undivided(tree: FolderTree, folder: str, classes_at_top: bool) -> Layout:
    _refuse_divided_children(tree, folder)
    if not classes_at_top:
        _refuse_split_beside_others(tree, folder)
    return Layout({WHOLE: folder})


_RECOGNISED = (_splits, _folds, _images_beside_masks, _only_folder)
"""What a folder may be, in the order in which it is tried; else it is undivided."""


def _refuse_divided_children(tree: FolderTree, folder: str) -> None:
    """Raise DataError if one of several folders, at any depth, is divided into splits by itself."""
    below = filter(tree.total, tree.everything_below(folder))
    divided = [each for each in below if _is_divided(tree, each)]
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
    """Raise DataError if a folder has the name of a split and others beside it have not, or if
    there are splits of several things."""
    filled = tree.filled(folder)
    if groups := split_groups([*map(last_name, filled)]):
        several = [quoted([name for each in group.values() for name in each]) for group in groups]
        raise DataError(
            f"{tree.path} holds {' and '.join(several)}: they may be the splits of {len(groups)} "
            "data sets or classes",
            remedy="put each split into one folder: train/A, train/B, test/A, test/B; if all of "
            "them are classes, add --class-level 1",
        )
    for child in filled:
        role = split_called(last_name(child))
        others = [each for each in filled if each != child]
        # Many data sets have a class of trains; a train/ that holds folders of its own is a split.
        nested = not tree.direct(child) and len(tree.filled(child)) > 1
        if role and (others or tree.direct(folder)) and (role != "train" or nested):
            named = quoted(others) if others else "images of their own"
            raise DataError(
                f"{tree.path} holds {child}/ beside {named}: it may be the split for {role}, or a "
                "class",
                remedy="if it is a split, call the others "
                f"{'val or test' if role == 'train' else 'train'}, or move them away; if it is a "
                "class, add --class-level 1 or give its folder another name",
            )
