"""Which mask belongs to which image, by their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from beit.config.segment_run import MaskConfig
from beit.data.account import SkippedFiles
from beit.data.listing import quoted
from beit.data.shapes import Shapes
from beit.errors import DataError
from beit.terminal import printable

Pairs = list[tuple[str, str | Shapes | None]]
"""Images relative to the data's folder, each with its mask: a file likewise, shapes to be drawn, or
None for an image that is all background."""

SEPARATORS = "_-. "
KNOWN_SUFFIXES = (
    "_mask", "-mask", ".mask", "_masks", "_gt", "-gt", "_label", "_labels", "_labelIds", "_seg",
    "_segmentation", "_annotation", "_manual1",
)  # fmt: skip
"""Of masks that lie among the images."""


class Side(NamedTuple):
    """One side of the pairs: a folder, and the files below it, relative to it."""

    folder: str
    files: list[str]

    def path(self, name: str) -> str:
        """Relative to the data's folder."""
        return f"{self.folder}/{name}" if self.folder else name


class Notes:
    """What is learned of data on the way to an account of them."""

    def __init__(self) -> None:
        self.skipped = SkippedFiles()
        self.remarks: list[str] = []

    def add(self, remark: str) -> None:
        """Keep a remark, once."""
        if remark not in self.remarks:
            self.remarks.append(remark)


def _stem(name: str) -> str:
    return name[: -len(suffix)] if (suffix := PurePosixPath(name).suffix) else name


def _spellings() -> Iterator[tuple[str, Callable[[str], str]]]:
    """How names are compared, strictest first."""
    yield "", str
    yield "in their Unicode form (NFC, NFD)", lambda name: unicodedata.normalize("NFC", name)
    yield "in case", lambda name: unicodedata.normalize("NFC", name).casefold()


def _stems(side: Side, suffix: str, spelled: Callable[[str], str], notes: Notes) -> dict[str, str]:
    """The files of a side by their stem without the suffix; those without it are skipped."""
    found: dict[str, str] = {}
    for name in side.files:
        stem = _stem(name)
        if suffix and not stem.endswith(suffix):
            notes.skipped.add(f"its name does not end in '{suffix}'", side.path(name))
            continue
        key = spelled(stem.removesuffix(suffix))
        if key in found:
            other = found[key]
            alike = _stem(other) == stem
            raise DataError(
                f"{printable(side.path(name))} and {printable(other)} differ in "
                f"{'their extension' if alike else 'their spelling'} only",
                remedy="keep one of them",
            )
        found[key] = name
    return found


def _suffixes(stem: str, images: dict[str, str]) -> list[str]:
    """What may follow the name of an image in this stem of a mask."""
    ends = (place for place in range(1, len(stem)) if stem[place] in SEPARATORS)
    return [stem[end:] for end in ends if stem[:end] in images]


def _rules(masks: dict[str, str], images: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Ways to read the names of all masks: a note, and the image's stem for each mask's."""
    if masks.keys() <= images.keys():
        yield "", {stem: stem for stem in masks}
    names = {stem + PurePosixPath(name).suffix: stem for stem, name in images.items()}
    if masks.keys() <= names.keys():
        yield "masks carry the extension of their image", {stem: names[stem] for stem in masks}
    for suffix in _suffixes(next(iter(masks)), images):
        found = {stem: stem.removesuffix(suffix) for stem in masks if stem.endswith(suffix)}
        if len(found) == len(masks) and set(found.values()) <= images.keys():
            yield f"the names of masks end in '{printable(suffix)}'", found


def _ways(masks: dict[str, str], images: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """The rules that give every mask an image of its own, but for those that give the same."""
    ways: list[tuple[str, dict[str, str]]] = []
    for remark, found in _rules(masks, images):
        if len(set(found.values())) == len(found) and found not in [other for _, other in ways]:
            ways.append((remark, found))
    return ways


def _alone(masks: Side, images: Side, config: MaskConfig) -> DataError:
    """What to say where not every mask has an image."""
    images_by_stem = _stems(images, config.image_suffix, str, Notes())
    stems = _stems(masks, config.mask_suffix, str, Notes())
    alone = [masks.path(name) for stem, name in stems.items() if stem not in images_by_stem]
    return DataError(
        f"{len(alone)} of {len(stems)} masks have no image in {images.folder or 'the folder'}: "
        + quoted([*map(printable, alone)]),
        remedy="give every mask the name of its image, or move it away; where all masks have more "
        "at the end of their names, say what with --mask-suffix (and --image-suffix)",
    )


def pair_up(images: Side, masks: Side, config: MaskConfig, notes: Notes) -> Pairs:
    """Every image with its mask.

    Names are alike, but for the extension; or all masks carry the extension of their image
    (`x.jpg.png`), or end alike (`x_mask.png`); upper and lower case and Unicode forms may differ.
    Errors: DataError for masks without an image, images without a mask (unless `unmasked` says
    what they are), and names that can be read in two ways.
    """
    for difference, spelled in _spellings():
        with_image = _stems(images, config.image_suffix, spelled, Notes())
        with_mask = _stems(masks, config.mask_suffix, spelled, Notes())
        if not with_mask:
            break
        ways = _ways(with_mask, with_image)
        if len(ways) > 1 and ways[0][0]:
            raise DataError(
                f"the names in {masks.folder} can be read in two ways: {ways[0][0]}, or "
                f"{ways[1][0]}",
                remedy="say which with --mask-suffix",
            )
        if ways:
            _stems(images, config.image_suffix, spelled, notes)  # to count what is skipped
            _stems(masks, config.mask_suffix, spelled, notes)
            remark, image_of = ways[0]
            if remark:
                notes.add(remark)
            if difference:
                notes.add(f"names of images and masks differ {difference}")
            found = {image_of[stem]: name for stem, name in with_mask.items()}
            return _all_images(with_image, found, images, masks, config, notes)
    if config.mask_suffix and not with_mask:
        raise DataError(
            f"no name of a mask in {masks.folder} ends in '{config.mask_suffix}'",
            remedy="give another --mask-suffix, or none",
        )
    raise _alone(masks, images, config)


def _all_images(
    stems: dict[str, str],
    found: dict[str, str],
    images: Side,
    masks: Side,
    config: MaskConfig,
    notes: Notes,
) -> Pairs:
    bare = [images.path(name) for stem, name in stems.items() if stem not in found]
    require_masks(bare, len(stems), f"in {masks.folder or 'the folder'}", config, notes)
    return [
        (images.path(name), masks.path(found[stem]) if stem in found else None)
        for stem, name in stems.items()
        if stem in found or config.unmasked == "background"
    ]


def require_masks(
    bare: list[str], total: int, where: str, config: MaskConfig, notes: Notes
) -> None:
    """DataError for images without a mask, unless `unmasked` says what they are."""
    if not bare:
        return
    if config.unmasked == "refuse":
        raise DataError(
            f"{len(bare)} of {total} images have no mask {where}: "
            + quoted([*map(printable, bare)]),
            remedy="give every image a mask of the same name, or say what they are: all background "
            "(--unmasked background), or not to be used (--unmasked skip)",
        )
    if config.unmasked == "background":
        notes.add(f"{len(bare)} images without a mask are all background (--unmasked background)")
        return
    for name in bare:
        notes.skipped.add("no mask (--unmasked skip)", name)
