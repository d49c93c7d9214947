"""The folders of nnU-Net: imagesTr/CASE_0000.png, labelsTr/CASE.png, and dataset.json.

Source: nnU-Net v2, documentation/dataset_format.md; in v1 `labels` maps values to names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from beit.data.listing import natural_key
from beit.data.mask_pairs import FoundMasks, Matched, Search
from beit.errors import DataError
from beit.json_object import read_object
from beit.terminal import counted, printable, quoted

TRAINING = ("imagesTr", "labelsTr")
TESTING = ("imagesTs", "labelsTs")
_CHANNEL = re.compile(r"_(\d{4})$")
_DATASET = "dataset.json"
_VOLUMES = (
    "write the slices of each volume as images of 8 or 16 bits, imagesTr/CASE-SLICE_0000.png with "
    "labelsTr/CASE-SLICE.png, with nibabel and Pillow; then --groups '(.*)-' keeps the slices of a "
    "case together"
)


class _Labels(NamedTuple):
    classes: tuple[str, ...]
    ignored: tuple[str, ...]
    """Values, as one types them for an option."""


def is_nnunet(search: Search) -> bool:
    """Whether a folder has the layout of nnU-Net."""
    return {*TRAINING} <= {*search.folders()}


def read_nnunet(search: Search) -> FoundMasks:
    """The images of imagesTr/ for training, with the labels of their cases; if there is labelsTs/,
    the images of imagesTs/ are the test split.

    Raises:
        DataError: The files are volumes, channels lie in files of their own, images or labels lack
            their partner, or dataset.json has another form or regions.
    """
    labels = _labels(search)
    splits = {"train": search.with_masks(_matched(search, *TRAINING), f"in {TRAINING[1]}")}
    images, masks = TESTING
    if search.images(masks):
        splits["test"] = search.with_masks(_matched(search, images, masks), f"in {masks}")
    elif search.images(images):
        search.note(f"{images}/ has no masks, and is not used")
    words = f"nnU-Net: {' and '.join(f'{name}/' for name in TRAINING)}"
    return FoundMasks("nnunet", words, splits, labels.classes, labels.ignored)


def _matched(search: Search, images: str, masks: str) -> Matched:
    """Every image, with the file of labels of its case if there is one."""
    of_images, of_masks = (search.side(folder, remedy=_VOLUMES) for folder in (images, masks))
    files: dict[str, str] = {}
    for stem, name in of_images.stems().items():
        channel = _CHANNEL.search(stem)
        if channel is None or channel[1] != "0000":
            problem = "is a channel in a file of its own" if channel else "ends in no _0000"
            raise DataError(
                f"{printable(name)} in {search.path}/{images} {problem}",
                remedy="write all channels of a case into one image, CASE_0000.png or .tif, and "
                "give their number with --channels",
            )
        files[stem[: channel.start()]] = of_images.path(name)
    labels = {stem: of_masks.path(name) for stem, name in of_masks.stems().items()}
    alone = sorted(labels.keys() - files.keys(), key=natural_key)
    if alone:
        raise DataError(
            f"{len(alone)} of {counted(len(labels), 'file')} in {search.path}/{masks} have no "
            f"image in {images}: {quoted([*map(printable, alone)])}",
            remedy="give each case its image, CASE_0000.png, or move its labels away",
        )
    return {name: labels.get(case) for case, name in files.items()}


def _labels(search: Search) -> _Labels:
    """The classes that dataset.json names, in the order of their values; none without that file."""
    place = search.root / _DATASET
    if not place.is_file():
        return _Labels((), ())
    search.read.add(place)
    values = _values(place)
    ignored = tuple(str(value) for name, value in values.items() if name == "ignore")
    names = {value: name for name, value in values.items() if name != "ignore"}
    if sorted(names) != list(range(len(names))):
        raise DataError(
            f"the labels of {place} are {', '.join(map(str, sorted(names)))}",
            remedy="number them from 0 without a gap, as nnU-Net requires",
        )
    return _Labels(tuple(names[value] for value in range(len(names))), ignored)


def _values(place: Path) -> dict[str, int]:
    """The value of each label in dataset.json."""
    form = 'write "labels": {"background": 0, "tumour": 1}, as nnU-Net does'
    labels = read_object(place, DataError, form).get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError(f"{place} has no labels", remedy=form)
    if any(isinstance(value, list) for value in labels.values()):
        raise DataError(
            f"the labels of {place} are regions, which overlap",
            remedy="give each pixel one class, with a number of its own",
        )
    if all(isinstance(value, str) for value in labels.values()):  # version 1
        labels = {
            name: int(value) if value.isdecimal() else value for value, name in labels.items()
        }
    if not all(type(value) is int for value in labels.values()):
        raise DataError(f"the labels of {place} are not numbers", remedy=form)
    return labels
