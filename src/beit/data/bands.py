"""TIFF files with other than one or three channels, as satellites and microscopes produce them.

Pillow reads up to four bands of eight bits; tifffile (the extra `bands`) reads the others.
"""

from __future__ import annotations

import importlib.util
import io
import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from beit.data.colours import ValueRange, stated_range, to_eight_bits
from beit.errors import UnreadableError

if TYPE_CHECKING:
    from tifffile import TiffFile

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files in both byte orders."""
_OF_PILLOW = (2, 4)
"""Numbers of bands that are left to Pillow where tifffile is not installed."""


class Bands(NamedTuple):
    """The size and the bands of a TIFF file."""

    height: int
    width: int
    samples: int
    """Bands of each page."""
    pages: int
    values: str
    """The type of its numbers, such as float32."""


def is_tiff(data: bytes) -> bool:
    """Whether this is the beginning of a TIFF or BigTIFF file."""
    return data[:4] in _STARTS


def read_page(data: bytes) -> np.ndarray:
    """The values of a TIFF file with one page of one band, [H,W], in the type they are stored in.

    For number types that Pillow does not know, such as float64.

    Raises:
        UnreadableError: If there are more pages or bands, the values are not plain numbers, or
            tifffile is not installed.
    """
    with _open(data) as file:
        page, pages = file.pages.first, len(file.pages)
        if pages > 1 or page.samplesperpixel > 1:
            raise UnreadableError(
                f"it has {page.samplesperpixel} bands in each of {pages} pages, and one is expected"
            )
        values: np.ndarray = page.asarray()
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise UnreadableError(f"its values are {values.dtype} with the axes {page.axes}")
    return values


def read_all_bands(data: bytes) -> np.ndarray:
    """The values of the first page of a TIFF file, as they are stored.

    Raises UnreadableError if tifffile is not installed.
    """
    with _open(data) as file:
        values: np.ndarray = file.pages.first.asarray()
    return values


def has_bands(data: bytes, channels: int) -> bool:
    """Whether this file, for so many channels, is read (or refused) here rather than by Pillow."""
    if channels in (1, 3) or not is_tiff(data):
        return False
    return channels not in _OF_PILLOW or importlib.util.find_spec("tifffile") is not None


def _open(data: bytes) -> TiffFile:
    try:
        from tifffile import TiffFile
    except ImportError as error:
        raise UnreadableError(
            'TIFF files of many bands need tifffile: pip install "beit[bands]"'
        ) from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is in the error
    return TiffFile(io.BytesIO(data))


def count_bands(data: bytes) -> Bands | None:
    """Size and bands of a TIFF file that Pillow cannot read; None if this is no TIFF file.

    Raises UnreadableError if tifffile is not installed.
    """
    if not is_tiff(data):
        return None
    with _open(data) as file:
        page = file.pages.first
        values = str(page.dtype or f"{page.bitspersample}-bit numbers")
        return Bands(
            page.imagelength, page.imagewidth, page.samplesperpixel, len(file.pages), values
        )


def read_bands(
    data: bytes, channels: int, pixel_limit: int, value_range: ValueRange | None = None
) -> np.ndarray:
    """The bands of a TIFF file, uint8 [H,W,channels].

    Args:
        data: The encoded file.
        channels: Bands to read: so many samples of a page, or so many pages of one sample each.
        pixel_limit: Most pixels, height times width; checked before any is decoded.
        value_range: Values that become 0 and 255; None for the range that the file states or,
            without one, that of their type.

    Raises:
        UnreadableError: If the file has other bands, too many pixels or values out of range, or
            tifffile is not installed.
    """
    with _open(data) as file:
        page, pages = file.pages.first, len(file.pages)
        height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
        if height * width > pixel_limit:
            raise UnreadableError(f"{height} x {width} pixels are more than {pixel_limit}")
        bits = page.bitspersample
        largest = page.tags.valueof("SMaxSampleValue", page.tags.valueof("MaxSampleValue"))
        if samples == channels:
            pixels, planes = page.asarray(), page.axes.startswith("S")
        elif samples == 1 and pages == channels:
            if len({each.shape for each in file.pages}) > 1:
                raise UnreadableError(f"its {channels} pages differ in size")
            pixels, planes = np.stack([each.asarray() for each in file.pages]), True
        else:
            raise UnreadableError(
                f"it has {samples} bands in each of {pages} pages, and {channels} channels are "
                "expected"
            )
    if pixels.ndim != 3:
        raise UnreadableError(f"its pixels have the axes {page.axes}, which are not an image")
    pixels = np.moveaxis(pixels, 0, 2) if planes else pixels
    stated = stated_range(pixels, bits=bits, largest=largest)
    return to_eight_bits(pixels, value_range or stated)
