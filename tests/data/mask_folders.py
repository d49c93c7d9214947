"""Folders of images whose masks show which image they belong to."""

from __future__ import annotations

import numpy as np
from PIL import Image

from beit.config import MaskConfig
from beit.config.data import Division
from beit.data.segmented import SegmentationData


def put(place, seed=0, labels=None):
    """An image, or the mask of one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if labels is None:
        Image.fromarray(
            np.random.default_rng(seed).integers(0, 255, (16, 9, 3)).astype(np.uint8)
        ).save(place)
        return
    mask = np.zeros((16, 9), np.uint8)
    mask[: labels + 1] = 1
    Image.fromarray(mask).save(place)


def pairs(root, image="images/{}.jpg", mask="masks/{}.png", count=6, start=0):
    """Images whose masks show how many there are: the mask of number n has n + 1 rows of 1."""
    for number in range(start, start + count):
        put(root / image.format(f"s{number}"), number)
        put(root / mask.format(f"s{number}"), labels=number)
    return root


def opened(root, **options):
    return SegmentationData(str(root), MaskConfig(**options)).divide(Division(split=0.34, seed=0))


def check_pairs(source, suffix=""):
    """Every image has its own mask."""
    for index in range(len(source)):
        record = source.read(index)
        stem = record.key.rpartition("/")[2].rpartition(".")[0].removesuffix(suffix)
        assert record.labels[:, 0].sum() == int(stem[1:]) + 1
