"""The classes of published sets, in the order of their labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from beit.terminal import quoted

if TYPE_CHECKING:
    from timm.data import ImageNetInfo

IMAGENET = {1000: "imagenet-1k", 21841: "imagenet-22k"}
"""ImageNet's sets by their number of classes."""


def imagenet_classes(count: int) -> ImageNetInfo:
    """WordNet ids and descriptions of ImageNet's set of `count` classes, a key of `IMAGENET`."""
    from timm.data import ImageNetInfo  # here, as timm takes seconds to import

    return ImageNetInfo(IMAGENET[count])


ALIKE = 0.9
"""Fraction of the names that must be ImageNet's for classes to count as its classes."""


def wordnet_ids(classes: Sequence[str]) -> tuple[str, ...]:
    """The WordNet ids of classes, if these are ImageNet's in its order; else empty."""
    if len(classes) not in IMAGENET:
        return ()
    info = imagenet_classes(len(classes))
    pairs = zip(classes, info.label_descriptions(), strict=True)
    alike = sum(name == description for name, description in pairs) > ALIKE * len(classes)
    return tuple(info.label_names()) if alike else ()


UNNAMED = re.compile(r"class \d+")
"""Placeholder names, for the classes of a file that does not name them."""


def are_unnamed(classes: Sequence[str]) -> bool:
    """Whether all classes have placeholder names, because their file does not name them."""
    return all(map(UNNAMED.fullmatch, classes))


def as_numbers(names: Sequence[str], count: int) -> list[int] | None:
    """The names as numbers, if these are exactly 0 to `count` - 1 in some order; else None."""
    numbers = [int(name) for name in names if name.isdecimal()]
    return numbers if len(names) == count and sorted(numbers) == list(range(count)) else None


def spelled_alike(classes: Sequence[str]) -> Iterator[str]:
    """A note on each group of classes whose names differ only in case, spaces or hidden signs."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        seen = "".join(sign for sign in name.casefold() if sign.isprintable() and sign != " ")
        alike.setdefault(seen, []).append(name)
    for names in alike.values():
        if len(names) > 1:
            yield f"the classes {quoted(names, 8)} differ in case or blanks only"


# The 150 classes of the scene parsing benchmark (MIT; arXiv:1608.05442), each by its first name, as
# mmsegmentation and transformers name them; label 1 is the first.
ADE20K_CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass",
    "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain",
    "chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field",
    "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub", "railing",
    "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand", "sink",
    "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case",
    "pool table", "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind",
    "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove", "palm",
    "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus",
    "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth",
    "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister",
    "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain",
    "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool", "barrel", "basket",
    "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank",
    "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen",
    "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan",
    "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass",
    "clock", "flag",
)  # fmt: skip

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
