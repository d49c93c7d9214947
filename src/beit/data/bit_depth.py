"""Whether images of more than 8 bits use so little of their type that scaling loses grey levels."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from beit.data.bands import count_bands, is_tiff, read_all_bands
from beit.data.colours import ValueRange, is_deep, own_range, stored_bits, to_eight_bits
from beit.data.decode import PIXEL_LIMIT, pillow_is_quiet
from beit.data.file_types import FORMATS
from beit.data.images import PROBES
from beit.data.sources import ImageSource, spread
from beit.errors import UnreadableError

NARROW_BITS = 14
"""Sensors have 10, 12 or 14 bits. What uses 15 of 16 loses every second level, as do dark images
of full range; what uses fewer loses more than all that eight bits would keep."""


class BitDepth(NamedTuple):
    """What the values of an image of 16 bits use, where the file states no range of its own."""

    largest: int
    levels: int
    """Different values in the file; of several channels that decoders cut to 8 bits, unknown: 0."""
    kept: int
    """Different values that are left of them in eight bits."""

    @property
    def bits(self) -> int:
        """Bits that the largest value takes."""
        return self.largest.bit_length()

    def __str__(self) -> str:
        lost = f": {self.kept} of {self.levels} levels are left" if self.levels else ""
        return f"values up to {self.largest}, {self.bits} of 16 bits{lost}"


def bit_depth_of(data: bytes) -> BitDepth | None:
    """Of an encoded image; None if it has another depth, states its range, or cannot be read."""
    try:
        with pillow_is_quiet:
            return _bit_depth_of(data)
    except Exception:  # reported when the image itself is read
        return None


def _bit_depth_of(data: bytes) -> BitDepth | None:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        bands = count_bands(data) if is_tiff(data) else None
        if bands is None or bands.height * bands.width > PIXEL_LIMIT:
            return None
        values = read_all_bands(data)
    else:
        with image:
            if stored_bits(image, data) != 16 or image.width * image.height > PIXEL_LIMIT:
                return None
            image.load()
            if not is_deep(image):  # Pillow gives the upper eight bits
                upper = np.asarray(image.convert("RGB"))
                return BitDepth(int(upper.max()) << 8 | 0xFF, 0, len(np.unique(upper)))
            if own_range(image, data):
                return None
            values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 2 or int(values.min()) < 0:
        return None
    found = np.unique(values)
    return BitDepth(int(found[-1]), len(found), len(np.unique(to_eight_bits(found))))


def narrow(depths: Iterable[BitDepth | None]) -> int | None:
    """The bits that all these images take together, if they are few; None if not, or for none of
    them: a single dark image among others is no sign of a narrow range."""
    found = [depth.bits for depth in depths if depth is not None]
    return max(found) if found and max(found) <= NARROW_BITS else None


def narrow_note(source: ImageSource) -> str:
    """The note on a source of which a few images, spread over it, use few of their 16 bits."""
    depths = []
    for index in spread(len(source), PROBES):
        try:
            depths.append(bit_depth_of(source.read(index).data))
        except UnreadableError:
            continue
    bits = narrow(depths)
    if bits is None:
        return ""
    return (
        f"images of 16 bits hold at most {bits} (of {len(depths)} looked at): grey levels are lost "
        f"unless their range is given, as with --value-range 0 {2**bits - 1}"
    )


def range_note(value_range: ValueRange) -> str:
    """The note on the range that images are read with."""
    first, last = value_range
    return f"values of more than 8 bits are scaled from {first:g} to {last:g} (--value-range)"
