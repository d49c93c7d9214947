"""Text files that list the images of each split, beside folders of images and masks: train.txt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from beit.data.folder_names import split_called
from beit.data.image_names import ImageNames, cell_lines, find_named_images
from beit.data.layout import WHOLE
from beit.data.mask_classes import read_lines
from beit.data.mask_pairs import Matched, Pairs, Search
from beit.data.several_masks import Layers
from beit.errors import DataError
from beit.terminal import counted, printable, quoted

_FOLDERS = ("imagesets", "splits", "split", "lists", "annotations")
"""Folders of such lists, in lower case."""
_SEPARATED = re.compile(r"\s*[\t,;]\s*|\s+")


def find_split_lists(search: Search) -> dict[str, Path]:
    """The list of each split; empty if there are none.

    Lists are called `train.txt`, `val.txt` and `test.txt`, or `train_list.txt` and so on. They lie
    beside the folders of images and masks, or in splits/, lists/, annotations/ or
    ImageSets/Segmentation/. A single list of any name in the last, such as CVAT's default.txt,
    lists all images. If there are train.txt and trainval.txt, the former is for training.

    Raises:
        DataError: Lists lie in two places, or there are two for one split.
    """
    places = {folder: _lists_in(search, folder) for folder in _places(search)}
    found = {folder: lists for folder, lists in places.items() if lists}
    if len(found) > 1:
        named = [search.name_of(file) for lists in found.values() for file in lists.values()]
        raise DataError(
            f"{search.path} has lists of its splits in two places: {quoted(named, 8)}",
            remedy="keep those that count there, and move the others away",
        )
    return next(iter(found.values()), {})


def _places(search: Search) -> Iterator[str]:
    yield ""
    for name in search.folders():
        if name.lower() in _FOLDERS:
            yield name
            yield from (f"{name}/{one}" for one in search.folders(name) if one == "Segmentation")


def _lists_in(search: Search, folder: str) -> dict[str, Path]:
    files = sorted((search.root / folder).glob("*.txt"))
    by_split: dict[str, list[Path]] = {}
    for file in files:
        if split := search.split_called(re.sub(r"[ _-]?list$", "", file.stem)):
            by_split.setdefault(split, []).append(file)
    if not by_split and len(files) == 1 and folder.endswith("Segmentation"):
        return {WHOLE: files[0]}
    found: dict[str, Path] = {}
    for split, several in by_split.items():
        exact = [file for file in several if file.stem.lower() == split]
        if len(several) > 1 and len(exact) != 1:
            raise DataError(
                f"{search.path} has several lists for {split}: "
                + quoted([search.name_of(file) for file in several]),
                remedy=f"call the one that counts {split}.txt",
            )
        found[split] = (exact or several)[0]
        for other in several:
            if other != found[split]:
                search.note(f"{search.name_of(other)} is not read: {split}.txt is there, too")
    return found


def divided_by_lists(
    search: Search, matched: Matched, lists: Mapping[str, Path]
) -> dict[str, Pairs]:
    """The pairs of each split, in the order of its list.

    Args:
        search: The search in the data's folder, to which notes and skipped images are added.
        matched: All images, with their masks.
        lists: The list of each split.

    Raises:
        DataError: A listed name is that of no image or of several, a listed mask is not the one
            of its image, or a listed image has no mask and --unmasked does not say what it is.
    """
    found: dict[str, Pairs] = {}
    split_of: dict[str, str] = {}
    for split, file in lists.items():
        name = search.name_of(file)
        images = _images(search, file, matched)
        search.read.add(file)
        shared = [image for image in images if image in split_of]
        if shared and split_called(split):
            search.note(
                f"{counted(len(shared), 'image')} of {name} are also in another list: scores will "
                f"be too high ({quoted(shared)})"
            )
        split_of |= dict.fromkeys(images, split)
        unmasked = [image for image in images if matched[image] is None]
        if split == "test" and len(unmasked) == len(images):  # often published without masks
            search.note(f"the images of {name} have no masks, and are not used")
            continue
        listed = {image: matched[image] for image in images}
        found[split] = search.with_masks(listed, f"of those in {name}")
    for image in matched:
        if image not in split_of:
            search.skipped.add("in no list of a split", image)
    return found


class _Rows(NamedTuple):
    """The content of a list: line numbers, names of images and, if it has them, names of masks."""

    lines: list[int]
    images: list[str]
    masks: list[str]


def _images(search: Search, file: Path, matched: Matched) -> list[str]:
    """The images that a list names, each once."""
    names = ImageNames(search.path, among=[*matched])
    rows = _rows(search, file, names)
    images, notes = find_named_images(str(file), rows.lines, rows.images, names, option="")
    for note in notes:
        search.note(f"{search.name_of(file)}: {note}")
    strange = [(line, image) for line, image in zip(rows.lines, images, strict=True)
               if image not in matched]  # fmt: skip
    if strange:
        raise DataError(
            f"{counted(len(strange), 'line')} of {file} name files that are not among the images: "
            + cell_lines(strange),
            remedy="list images, not masks",
        )
    if rows.masks:
        _check_masks(file, rows, images, matched)
    return list(dict.fromkeys(images))


def _rows(search: Search, file: Path, names: ImageNames) -> _Rows:
    """The rows of a list: whole lines if any of them is the name of an image; else their first
    words, with the second words as masks if they look like files."""
    texts = list(enumerate(map(str.strip, read_lines(file, "list", "check it")), start=1))
    texts = [(line, text) for line, text in texts if text and not text.startswith("#")]
    if not texts:
        raise DataError(f"the list {file} is empty", remedy="write one name per line, or delete it")
    lines = [line for line, _ in texts]
    cells = [_SEPARATED.split(text) for _, text in texts]
    if min(map(len, cells)) < 2 or any(names.find(text) for _, text in texts):
        return _Rows(lines, [text for _, text in texts], [])
    masks = [each[1] for each in cells]
    if not all(re.search(r"\.[A-Za-z]{3,4}$", mask) for mask in masks):
        masks = []
        search.note(f"of the lines of {search.name_of(file)} only the first word is read")
    return _Rows(lines, [each[0] for each in cells], masks)


def _check_masks(file: Path, rows: _Rows, images: list[str], matched: Matched) -> None:
    """Raises DataError if a list gives an image another mask than the one with its name."""
    for line, image, listed in zip(rows.lines, images, rows.masks, strict=True):
        mask = matched[image]
        masks = mask.files if isinstance(mask, Layers) else [mask] if mask else []
        last = listed.replace("\\", "/").rpartition("/")[2]
        if masks and last not in [each.rpartition("/")[2] for each in masks]:
            raise DataError(
                f"line {line} of {file} gives {printable(image)} the mask {printable(listed)}, and "
                f"by its name it has {printable(masks[0])}",
                remedy="give masks the names of their images, or correct the list",
            )
