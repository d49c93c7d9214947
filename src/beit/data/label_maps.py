"""Label maps: a class id for each pixel, read from masks, written as indexed PNG, and painted."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from beit.data.decode import orientation_of, upright
from beit.data.listing import quoted
from beit.data.quiet import quiet
from beit.data.values import UnreadableError
from beit.errors import DataError

LabelMap = UInt8[np.ndarray, "height width"]
Legend = dict[int, str | None]
"""Class names by colour, 0xRRGGBB; None is ignored."""

IGNORE = 255
"""The label that no loss and no score looks at."""
LOSSLESS = ("PNG", "TIFF", "BMP", "GIF")


def read_legend(path: Path) -> Legend:
    """The legend of masks in RGB: a JSON object of colours ("#rrggbb") and class names or null.

    Errors: DataError for a file that is not of that form.
    """
    remedy = 'write an object such as {"#ff0000": "roof", "#000000": null}'
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"the legend {path} cannot be read: {error}", remedy=remedy) from error
    if not isinstance(values, dict) or not values:
        raise DataError(f"the legend {path} holds no colours", remedy=remedy)
    legend: Legend = {}
    for colour, name in values.items():
        digits = colour.removeprefix("#")
        if len(digits) != 6 or set(digits.lower()) - set("0123456789abcdef"):
            raise DataError(f"'{colour}' in {path} is no colour", remedy=remedy)
        if name is not None and not isinstance(name, str):
            raise DataError(f"the class of '{colour}' in {path} is {name!r}", remedy=remedy)
        legend[int(digits, 16)] = name
    return legend


class MaskReader:
    """Encoded masks to class ids. With a legend the colours count, without one the values (of
    indexed PNG the palette's indices). Masks that are turned by EXIF are set upright, as pictures
    are."""

    def __init__(
        self, *, legend: Legend | None = None, classes: Sequence[str] = (), reduce_zero_label: bool
    ) -> None:
        self._reduce = reduce_zero_label
        self._colours: np.ndarray | None = None
        if legend is not None:
            ids = {name: index for index, name in enumerate(classes)}
            foreign = sorted({name for name in legend.values() if name and name not in ids})
            if foreign:
                raise DataError(
                    f"the legend has classes that the class list lacks: {quoted(foreign)}",
                    remedy="spell them alike in both files",
                )
            self._colours = np.array(sorted(legend), np.int64)
            names = [legend[int(colour)] for colour in self._colours]
            self._ids = np.array(
                [IGNORE if name is None else ids[name] for name in names], np.uint8
            )

    def _values(self, picture: Image.Image) -> np.ndarray:
        if self._colours is not None:
            red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB"), np.int64), 2, 0)
            codes = red << 16 | green << 8 | blue
            places = np.searchsorted(self._colours, codes).clip(max=len(self._colours) - 1)
            strange = codes[self._colours[places] != codes]
            if len(strange):
                raise UnreadableError(
                    f"{len(strange)} of its pixels have colours that are not in the legend, such "
                    f"as #{int(strange[0]):06x}"
                )
            ids: np.ndarray = self._ids[places]
            return ids
        values = np.asarray(picture)
        if values.ndim != 2:
            raise UnreadableError(f"its mode is {picture.mode}, and colours need a legend")
        if values.max() > IGNORE or values.min() < 0:
            raise UnreadableError(f"it holds label {int(values.max())}, and 254 is the largest")
        return values.astype(np.uint8)

    def __call__(self, data: bytes) -> LabelMap:
        """The labels of an encoded mask. Errors: UnreadableError with the reason."""
        try:
            with quiet, Image.open(io.BytesIO(data), formats=LOSSLESS) as picture:
                labels = upright(self._values(picture), orientation_of(picture))
        except UnreadableError:
            raise
        except UnidentifiedImageError:
            kinds = ", ".join(LOSSLESS)
            raise UnreadableError(f"its content is none of {kinds} (JPEG blurs labels)") from None
        except Exception as error:  # decoders raise nearly every type on foreign bytes
            raise UnreadableError(f"{type(error).__name__}: {error}") from error
        if self._reduce:
            labels = np.where(labels == IGNORE, IGNORE, labels - np.uint8(1))  # 0 becomes 255
        return labels


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
    picture = Image.fromarray(labels)
    picture.putpalette(PALETTE.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def save_label_map(labels: LabelMap, place: Path) -> None:
    """Write labels as indexed PNG."""
    place.write_bytes(label_map_bytes(labels))


def painted(
    picture: UInt8[np.ndarray, "height width 3"], labels: LabelMap
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture half covered by the colours of its labels; ignored pixels stay as they are."""
    mixed = (picture.astype(np.uint16) + PALETTE[labels]) // 2
    covered = np.where((labels == IGNORE)[..., None], picture, mixed)
    result: np.ndarray = covered.astype(np.uint8)
    return result
