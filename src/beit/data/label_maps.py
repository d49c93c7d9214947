"""Label maps: a class id for each pixel, written as indexed PNG, and painted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

LabelMap = UInt8[np.ndarray, "height width"]

IGNORE = 255
"""The label that no loss and no score looks at."""


def _palette() -> UInt8[np.ndarray, "256 3"]:
    """Pascal VOC's colours: the bits of a label in turn to red, green and blue, highest first."""
    labels = np.arange(256, dtype=np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= (labels >> bit & 1) << (7 - bit // 3)
    return colours


PALETTE = _palette()


def label_map_bytes(labels: LabelMap) -> bytes:
    """Labels as indexed PNG: the values are the labels, the palette is for the eye."""
    image = Image.fromarray(labels)
    image.putpalette(PALETTE.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def save_label_map(labels: LabelMap, place: Path) -> None:
    """Write labels as indexed PNG."""
    place.write_bytes(label_map_bytes(labels))


def painted(
    image: UInt8[np.ndarray, "height width 3"], labels: LabelMap
) -> UInt8[np.ndarray, "height width 3"]:
    """The image half covered by the colours of its labels; ignored pixels stay as they are."""
    mixed = (image.astype(np.uint16) + PALETTE[labels]) // 2
    covered = np.where((labels == IGNORE)[..., None], image, mixed)
    result: np.ndarray = covered.astype(np.uint8)
    return result
