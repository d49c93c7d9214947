"""A search for images and masks below a folder: what is there, and which mask is whose, by name."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeVar

from beit.config.segment_run import Layout, MaskConfig, SeveralMasks
from beit.data.account import SkippedFiles
from beit.data.file_types import file_to_skip, folder_to_skip
from beit.data.folder_names import ending_of, split_above, split_called
from beit.data.label_studio import BY_TASK, are_by_task, named_by_image
from beit.data.layout import WHOLE
from beit.data.listing import Found, find_images, natural_key, no_images
from beit.data.several_masks import Layers, layers_of
from beit.errors import DataError
from beit.terminal import counted, printable, quoted

Matched = Mapping[str, str | Layers | None]
"""The file of the mask of each image, or the files, relative to the data's folder like the image;
None where there is none."""

Mask = TypeVar("Mask")
_WORDS = ("readme", "license", "licence", "citation")
_SEPARATORS = "_-. "
_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("", str),
    ("in their Unicode form (NFC, NFD)", lambda name: unicodedata.normalize("NFC", name)),
    ("in case", lambda name: unicodedata.normalize("NFC", name).casefold()),
)
"""How names are compared, strictest first."""


class Shape(NamedTuple):
    """A region with one label. How it is written goes into fingerprints: other names in here would
    make known data look changed."""

    kind: Literal["coco", "polygon", "rectangle", "circle", "bitmap"]
    label: str
    data: Any
    """Of COCO its polygons or run lengths; of LabelMe points [[x, y], ...]; of a bitmap its corner
    and a PNG file in base64."""


class Shapes(NamedTuple):
    """What is drawn for one image, later shapes over earlier ones."""

    name: str
    """Where it comes from, for messages."""
    height: int
    width: int
    shapes: tuple[Shape, ...]


Pairs = list[tuple[str, str | Layers | Shapes | None]]
"""Images relative to the data's folder, each with its mask: a file likewise, or several, shapes to
be drawn, or None for an image that is all background."""


class FoundMasks(NamedTuple):
    """The images and masks of a folder, by split."""

    layout: Layout
    """What was recognised; never `auto`."""
    description: str
    """The same in words, for the account."""
    splits: dict[str, Pairs]
    """`train`, `val`, `test`, a requested one, or the single split `WHOLE`."""
    classes: tuple[str, ...] = ()
    """Classes that the layout itself defines; empty if none."""
    ignored: tuple[str, ...] = ()
    """Values that the layout itself ignores, as they are typed as an option."""
    several: SeveralMasks = "auto"
    """What several masks of one image are; `auto` where none has several."""

    @property
    def drawn(self) -> bool:
        """Whether the labels of masks are known, whatever values their files hold."""
        return self.layout in ("coco", "labelme") or self.several == "classes"


class Side(NamedTuple):
    """One side of the pairs: a folder, and the files below it, relative to it."""

    folder: str
    files: list[str]
    suffix: str = ""
    """What the names of those that count end in, before their extension."""

    def path(self, name: str) -> str:
        """Relative to the data's folder."""
        return f"{self.folder}/{name}" if self.folder else name

    def stems(self, spelled: Callable[[str], str] = str) -> dict[str, str]:
        """The files that have the suffix, by their stem without it.

        Errors: DataError for two that differ in extension or spelling only.
        """
        found: dict[str, str] = {}
        for name in self.files:
            stem = _stem(name)
            if not stem.endswith(self.suffix):
                continue
            key = spelled(stem.removesuffix(self.suffix))
            if key in found:
                what = "extension" if _stem(found[key]) == stem else "spelling"
                raise DataError(
                    f"{printable(self.path(name))} and {printable(found[key])} differ in their "
                    f"{what} only",
                    remedy="keep one of them",
                )
            found[key] = name
        return found


def inside_wrappers(path: str) -> str:
    """The folder that holds the data, where those above hold nothing but it and a README."""
    while Path(path).is_dir():
        entries = [one for one in Path(path).iterdir() if not file_to_skip(one.name)]
        folders = [one for one in entries if one.is_dir() and not folder_to_skip(one.name)]
        words = all(one.stem.lower() in _WORDS for one in entries if not one.is_dir())
        if len(folders) != 1 or not words or split_called(folders[0].name):
            break
        path = str(folders[0])
    return path


class Search:
    """Reads folders, each once, and collects what is decided and skipped on the way."""

    def __init__(self, path: str, config: MaskConfig, extra_split: str = "") -> None:
        self.path, self.root, self.config = path, Path(path), config
        self._extra_split = extra_split
        self._listing = cache(self._listed)
        self.folders = cache(self._folders)
        """The names of the folders directly in a folder; none of what is no folder."""
        self.notes: dict[str, None] = {}
        self.skipped = SkippedFiles()
        self.read = set[Path]()
        """Files that say something, and were heard."""

    def note(self, remark: str) -> None:
        """Keep a remark for the account, once."""
        self.notes[remark] = None

    def name_of(self, place: Path) -> str:
        """A path relative to the data's folder."""
        return place.relative_to(self.root).as_posix()

    def _listed(self, folder: str) -> Found:
        place = self.root / folder
        return find_images(str(place)) if place.is_dir() else Found([], SkippedFiles(), {})

    def images(self, folder: str) -> list[str]:
        """The image files below a folder, relative to it."""
        return self._listing(folder).paths

    def side(self, folder: str, suffix: str = "", *, remedy: str = "") -> Side:
        """All image files below a folder. Errors: DataError if there is none."""
        paths = self.images(folder)
        if not paths:
            raise self.no_images(folder, remedy)
        self.count_skipped(folder)
        return Side(folder, paths, suffix)

    def by_stem(self, folder: str) -> dict[str, str]:
        """The image files below a folder, relative to the data's, by their names without extension.

        Errors: DataError for two that differ in it only.
        """
        side = Side(folder, self.images(folder))
        return {stem: side.path(name) for stem, name in side.stems().items()}

    def no_images(self, folder: str, remedy: str = "") -> DataError:
        """The error for a folder without image files, which names those that are there."""
        error = no_images(str(self.root / folder), self._listing(folder).skipped)
        return DataError(error.problem, remedy=remedy or error.remedy)

    def count_skipped(self, folder: str) -> None:
        """Count what was skipped in a folder whose images are read."""
        self.skipped.add_below(folder, self._listing(folder).skipped)

    def _folders(self, base: str = "") -> list[str]:
        if not (self.root / base).is_dir():
            return []
        with os.scandir(self.root / base) as entries:  # of a million images, asks none
            return sorted((entry.name for entry in entries if entry.is_dir()), key=natural_key)

    def splits(self, base: str = "") -> dict[str, str]:
        """The folders directly in a folder that are splits, or the extra one, by what they are."""
        found: dict[str, str] = {}
        for name in self.folders(base):
            split = self.split_called(name)
            if split in found:
                raise DataError(
                    f"{self.root / base} has {found[split]}/ and {name}/, both of them {split}",
                    remedy="keep one of them there",
                )
            if split:
                found[split] = name
        return found

    def split_called(self, name: str) -> str | None:
        """The split that a name stands for: `train`, `val` or `test`, or the extra one itself."""
        return name if name and name == self._extra_split else split_called(name)

    def unmasked_are_background(self, unmasked: list[str], total: int, where: str) -> bool:
        """Whether images without a mask are used, as background.

        Errors: DataError for such images, unless `unmasked` says what they are.
        """
        choice = self.config.unmasked
        if unmasked and choice == "refuse":
            raise DataError(
                f"{len(unmasked)} of {total} images have no mask {where}: "
                + quoted([*map(printable, unmasked)]),
                remedy="give every image a mask of the same name, or say what they are: all "
                "background (--unmasked background), or not to be used (--unmasked skip)",
            )
        if unmasked and choice == "background":
            self.note(
                f"{counted(len(unmasked), 'image')} without a mask: all background "
                "(--unmasked background)"
            )
        for name in unmasked if choice == "skip" else ():
            self.skipped.add("no mask (--unmasked skip)", name)
        return choice == "background"

    def match(self, images: Side, masks: Side) -> Matched:
        """Every image, and its mask if it has one.

        Names are alike, but for the extension; or all masks carry the extension of their image
        (`x.jpg.png`), or end alike (`x_mask.png`); upper and lower case and Unicode forms may
        differ. Else an image may have several, with more in their names (`x_1.png`, `road/x.png`).
        Errors: DataError for masks without an image, and names with two readings.
        """
        stated = self.config.several_masks != "auto"
        for difference, spelled in () if stated else _SPELLINGS:  # noqa: B007 - read below
            by_image, by_mask = images.stems(spelled), masks.stems(spelled)
            if not by_mask:
                raise DataError(
                    f"no name of a mask in {masks.folder} ends in '{masks.suffix}'",
                    remedy="give another --mask-suffix, or none",
                )
            ways = _ways(by_mask, by_image)
            if ways:
                break
        else:
            return self._several(images, masks)
        if len(ways) > 1 and ways[0][0]:
            raise DataError(
                f"the names in {masks.folder} can be read in two ways: {ways[0][0]}, or "
                f"{ways[1][0]}",
                remedy="say which with --mask-suffix",
            )
        self._skip_others(images, by_image)
        self._skip_others(masks, by_mask)
        remark, image_of = ways[0]
        if remark:
            self.note(remark)
        if difference:
            self.note(f"names of images and masks differ {difference}")
        found = {image_of[stem]: masks.path(name) for stem, name in by_mask.items()}
        return {images.path(name): found.get(stem) for stem, name in by_image.items()}

    def _several(self, images: Side, masks: Side) -> Matched:
        """Every image, with the masks that it has: several, or as many as an option takes so.

        Errors: DataError if there is no such reading.
        """
        by_image, by_mask = images.stems(), masks.stems()
        files = {stem: masks.path(name) for stem, name in by_mask.items()}
        if by_task := are_by_task(files):
            files = named_by_image(self.root, files, by_image)
        found = layers_of(files, by_image)
        stated = self.config.several_masks != "auto"
        if not found or not (stated or any(each.files[1:] for each in found.values())):
            alone = [masks.path(name) for stem, name in by_mask.items() if stem not in by_image]
            raise DataError(
                f"{len(alone)} of {len(by_mask)} masks have no image in "
                f"{images.folder or 'the folder'}: {quoted([*map(printable, alone)])}",
                remedy=BY_TASK
                if by_task and not found
                else "give every mask the name of its image, or move it away; where all masks have "
                "more at the end of their names, say what with --mask-suffix (and --image-suffix)",
            )
        self._skip_others(images, by_image)
        self._skip_others(masks, by_mask)
        return {images.path(name): found.get(stem) for stem, name in by_image.items()}

    def _skip_others(self, side: Side, used: Mapping[str, str]) -> None:
        read = {*used.values()}
        for name in side.files:  # in their order: the account names the first ones
            if name not in read:
                self.skipped.add(f"its name does not end in '{side.suffix}'", side.path(name))

    def with_masks(self, matched: Matched, where: str) -> Pairs:
        """Every image with its mask.

        Errors: DataError for images without one, unless `unmasked` says what they are.
        """
        unmasked = [image for image, mask in matched.items() if mask is None]
        background = self.unmasked_are_background(unmasked, len(matched), where)
        return [(image, mask) for image, mask in matched.items() if mask or background]


def by_folders(path: str, pairs: Iterable[tuple[str, Mask]]) -> dict[str, list[tuple[str, Mask]]]:
    """Images with what belongs to each, by the splits that their folders are called.

    Errors: DataError if only some lie in such folders.
    """
    splits: dict[str, list[tuple[str, Mask]]] = {}
    for image, mask in pairs:
        splits.setdefault(split_above(image) or WHOLE, []).append((image, mask))
    if WHOLE in splits and len(splits) > 1:
        others = quoted([each[0][0] for each in splits.values()])
        raise DataError(
            f"some images of {path} lie in folders of splits, others do not: {others}",
            remedy="put all of them into train/, val/ or test/, or none",
        )
    return splits


def _stem(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _rules(masks: dict[str, str], images: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Ways to read the names of all masks: a remark, and the image's stem for each mask's."""
    if masks.keys() <= images.keys():
        yield "", {stem: stem for stem in masks}
    names = {stem + PurePosixPath(name).suffix: stem for stem, name in images.items()}
    if masks.keys() <= names.keys():
        yield "masks carry the extension of their image", {stem: names[stem] for stem in masks}
    first = next(iter(masks))
    for end in range(1, len(first)):
        suffix = first[end:]
        if suffix[0] in _SEPARATORS and first[:end] in images:
            found = {stem: stem.removesuffix(suffix) for stem in masks if stem.endswith(suffix)}
            if len(found) == len(masks) and set(found.values()) <= images.keys():
                yield f"the names of masks end in '{printable(suffix)}'", found
    # The numbers of img_10 and img_11 are no part of what they share.
    begins = [
        os.path.commonprefix([*names]).rstrip("0123456789")  # noqa: RUF071
        for names in (masks, images)
    ]
    ends = [ending_of([*names]) for names in (masks, images)]
    for word, (begin, of_images), (mask_end, image_end) in (
        ("begin", begins, ("", "")),
        ("end", ("", ""), ends),
    ):
        found = {
            stem: of_images + stem.removeprefix(begin).removesuffix(mask_end) + image_end
            for stem in masks
        }
        if (begin, mask_end) != (of_images, image_end) and set(found.values()) <= images.keys():
            yield (
                f"the names of masks {word} with '{printable(begin + mask_end)}', where those of "
                f"images {word} with '{printable(of_images + image_end)}'",
                found,
            )


def _ways(masks: dict[str, str], images: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """The rules that give every mask an image of its own, but for those that give the same."""
    ways: list[tuple[str, dict[str, str]]] = []
    for remark, found in _rules(masks, images):
        if len(set(found.values())) == len(found) and found not in [other for _, other in ways]:
            ways.append((remark, found))
    return ways
