"""Searches a folder for images and masks, and matches them by name."""

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
"""Images with the file of their mask or, if there are several, the files; None without a mask. All
paths are relative to the data's folder."""

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
    """A region with one label. Its repr is part of fingerprints: if a field had another name, known
    data would look changed."""

    kind: Literal["coco", "polygon", "rectangle", "circle", "bitmap"]
    label: str
    data: Any
    """For COCO, polygons or run lengths; for LabelMe, points [[x, y], ...]; for a bitmap, its upper
    left corner and a PNG file in base64."""


class Shapes(NamedTuple):
    """The shapes of one image, which are drawn in their order, later ones over earlier ones."""

    name: str
    """Where it comes from, for messages."""
    height: int
    width: int
    shapes: tuple[Shape, ...]


Pairs = list[tuple[str, str | Layers | Shapes | None]]
"""Images with their masks: a file, several files, shapes to be drawn, or None for an image that is
all background. Paths are relative to the data's folder."""


class FoundMasks(NamedTuple):
    """The images and masks of a folder, by split."""

    layout: Layout
    """The recognised layout; never `auto`."""
    description: str
    """The layout in words, for the account."""
    splits: dict[str, Pairs]
    """`train`, `val`, `test`, a requested one, or the single split `WHOLE`."""
    classes: tuple[str, ...] = ()
    """Classes that the layout itself defines; empty if it defines none."""
    ignored: tuple[str, ...] = ()
    """Values that the layout itself ignores, as one types them for an option."""
    several: SeveralMasks = "auto"
    """What the masks of an image with several show; `auto` where no image has several."""

    @property
    def drawn(self) -> bool:
        """Whether labels follow from shapes or file names, whatever values mask files hold."""
        return self.layout in ("coco", "labelme") or self.several == "classes"


class Side(NamedTuple):
    """The images, or the masks, of some pairs: a folder, and the files in it, relative to it."""

    folder: str
    files: list[str]
    suffix: str = ""
    """Only files whose names end in this, before their extension, count."""

    def path(self, name: str) -> str:
        """The path of one of the files relative to the data's folder."""
        return f"{self.folder}/{name}" if self.folder else name

    def stems(self, spelled: Callable[[str], str] = str) -> dict[str, str]:
        """The files that have the suffix, by their stem without it, which `spelled` may normalise.

        Raises:
            DataError: Two of them differ in extension or spelling only.
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
    """The folder that holds the data, if it lies in folders with nothing else but a README."""
    while Path(path).is_dir():
        entries = [one for one in Path(path).iterdir() if not file_to_skip(one.name)]
        folders = [one for one in entries if one.is_dir() and not folder_to_skip(one.name)]
        words = all(one.stem.lower() in _WORDS for one in entries if not one.is_dir())
        if len(folders) != 1 or not words or split_called(folders[0].name):
            break
        path = str(folders[0])
    return path


class Search:
    """Lists folders, each once, and collects notes and skipped files on the way."""

    def __init__(self, path: str, config: MaskConfig, extra_split: str = "") -> None:
        self.path, self.root, self.config = path, Path(path), config
        self._extra_split = extra_split
        self._listing = cache(self._listed)
        self.folders = cache(self._folders)
        """The names of the folders directly in a folder; empty if that is not a folder."""
        self.notes: dict[str, None] = {}
        self.skipped = SkippedFiles()
        self.read = set[Path]()
        """Files beside the data, such as lists and legends, that were read."""

    def note(self, remark: str) -> None:
        """Add a remark to the account, unless it is there already."""
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
        """All image files below a folder, as one side of some pairs.

        Args:
            folder: Relative to the data's folder.
            suffix: Only files whose names end in this, before their extension, count.
            remedy: What the error message advises; by default what is there decides.

        Raises:
            DataError: The folder has no image files.
        """
        paths = self.images(folder)
        if not paths:
            raise self.no_images(folder, remedy)
        self.count_skipped(folder)
        return Side(folder, paths, suffix)

    def by_stem(self, folder: str) -> dict[str, str]:
        """The image files below a folder by their names without extension, as paths relative to the
        data's folder. Raises DataError for two that differ in their extension only."""
        side = Side(folder, self.images(folder))
        return {stem: side.path(name) for stem, name in side.stems().items()}

    def no_images(self, folder: str, remedy: str = "") -> DataError:
        """The error for a folder without image files, which says what files are there instead."""
        error = no_images(str(self.root / folder), self._listing(folder).skipped)
        return DataError(error.problem, remedy=remedy or error.remedy)

    def count_skipped(self, folder: str) -> None:
        """Count what was skipped in a folder whose images are read."""
        self.skipped.add_below(folder, self._listing(folder).skipped)

    def _folders(self, base: str = "") -> list[str]:
        if not (self.root / base).is_dir():
            return []
        with os.scandir(self.root / base) as entries:  # needs no system call for each image
            return sorted((entry.name for entry in entries if entry.is_dir()), key=natural_key)

    def splits(self, base: str = "") -> dict[str, str]:
        """The folders of splits directly in a folder, by split; the extra split is one of them.

        Raises DataError if two folders stand for the same split.
        """
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
        """The split that a name stands for: `train`, `val`, `test`, or the extra split itself."""
        return name if name and name == self._extra_split else split_called(name)

    def unmasked_are_background(self, unmasked: list[str], total: int, where: str) -> bool:
        """Whether images without a mask are used, as background.

        Args:
            unmasked: The images without a mask.
            total: The number of images among which they are.
            where: Where no mask was found, in words for the error message.

        Raises:
            DataError: There are such images, and --unmasked does not say what they are.
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
        """Match every image with its mask, if it has one.

        Their names are equal but for the extension; or the names of all masks include the extension
        of their image (`x.jpg.png`), or have one ending (`x_mask.png`). Case and Unicode form may
        differ. If none of this holds, an image may have several masks, each with an addition to its
        name (`x_1.png`, `road/x.png`).

        Raises:
            DataError: A mask has no image, or the names can be read in two ways.
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
        """Match every image with several masks; or with any number if --several-masks is given.

        Raises DataError if the names do not allow it.
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
        for name in side.files:  # in this order, as the account names the first ones
            if name not in read:
                self.skipped.add(f"its name does not end in '{side.suffix}'", side.path(name))

    def with_masks(self, matched: Matched, where: str) -> Pairs:
        """Every image with its mask; images without one as --unmasked says. `where` is where no
        mask was found, in words. Raises DataError for such images without that option."""
        unmasked = [image for image, mask in matched.items() if mask is None]
        background = self.unmasked_are_background(unmasked, len(matched), where)
        return [(image, mask) for image, mask in matched.items() if mask or background]


def by_folders(path: str, pairs: Iterable[tuple[str, Mask]]) -> dict[str, list[tuple[str, Mask]]]:
    """Divide images, each with its mask, by the splits that folders in their paths name.

    Raises:
        DataError: Only some of the images lie in such folders.
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
    """Ways to read the names of all masks, each as a remark and the image's stem by mask's stem."""
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
    # What img_10 and img_11 share ends before their numbers.
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
    """The readings that give every mask an image of its own, each different reading once."""
    ways: list[tuple[str, dict[str, str]]] = []
    for remark, found in _rules(masks, images):
        if len(set(found.values())) == len(found) and found not in [other for _, other in ways]:
            ways.append((remark, found))
    return ways
