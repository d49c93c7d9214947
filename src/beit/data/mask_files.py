"""Reads mask files: the labels or colours that they hold, before it is decided what these mean.

Rules, none of which is left to a library's default:

- Grey files of 1, 2 and 4 bits hold 0 to 1, 3 and 15; decoders scale them up to 255 for the eye.
- Grey saved in three equal channels is grey; other colours need a legend.
- WhiteIsZero TIFF files are inverted at every depth, as images are.
- Whatever would lose information is refused: JPEG and WebP, colours of 16 bits, transparent
  pixels, several pages, and files that end early.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from beit.data.bands import is_tiff, read_page
from beit.data.colours import is_white_zero, orientation_of, stored_bits, upright
from beit.data.decode import faults_named
from beit.data.truncation import first_of_gif, require_all_pixels
from beit.errors import UnreadableError

LabelMap = UInt8[np.ndarray, "height width"]

LOSSLESS = ("PNG", "TIFF", "BMP", "GIF")
LOSSY = {
    b"\xff\xd8": "it is JPEG, which blurs labels: save masks as PNG",
    b"RIFF": "it is WebP, which may blur labels: save masks as PNG",
}
"""Formats that are refused by their first bytes."""
_GDAL_NODATA = 42113
"""The TIFF tag in which GDAL and QGIS write the nodata value."""
_WITH_ALPHA = ("LA", "RGBA", "PA")


class MaskPixels(NamedTuple):
    """The values of a mask, [H,W], as stored: numbers of any type, or colours as 0xRRGGBB."""

    values: np.ndarray
    nodata: float | None = None
    """The value that the file itself declares as nodata."""


def read_mask(data: bytes, *, colours: bool = False) -> MaskPixels:
    """The values of an encoded mask, upright: its labels or, with `colours`, its colours.

    Raises UnreadableError, with the reason, if it cannot be read or could lose information.
    """
    with faults_named(data, _why_unknown):
        return _read(data, colours)


def _why_unknown(data: bytes) -> str:
    lossy = (why for magic, why in LOSSY.items() if data.startswith(magic))
    return next(lossy, f"its content is none of {', '.join(LOSSLESS)}")


def _read(data: bytes, colours: bool) -> MaskPixels:
    data, more = first_of_gif(data)
    try:
        image = Image.open(io.BytesIO(data), formats=LOSSLESS)
    except UnidentifiedImageError:
        if is_tiff(data) and not colours:  # with a number type that Pillow does not know
            return MaskPixels(read_page(data))
        raise
    with image:
        if more or getattr(image, "n_frames", 1) > 1:
            raise UnreadableError("it holds several images, and a mask is one")
        nodata = _nodata(image)
        image.load()
        require_all_pixels(image, data)
        bits = stored_bits(image, data)
        if image.mode in ("RGB", "RGBX", *_WITH_ALPHA) and bits > 8:
            raise UnreadableError(
                f"it has {bits} bits in each of several channels, of which 8 are read: save it as "
                "grey or indexed PNG"
            )
        opaque = _without_alpha(image)
        values = _colour_codes(opaque) if colours else _labels(opaque, image, bits)
        return MaskPixels(upright(values, orientation_of(image)), nodata)


def _nodata(image: Image.Image) -> float | None:
    try:
        return float(str(getattr(image, "tag_v2", {}).get(_GDAL_NODATA, "")).strip("\0 "))
    except ValueError:
        return None


def _without_alpha(image: Image.Image) -> Image.Image:
    """The image without its alpha channel. Raises UnreadableError if a pixel is transparent."""
    if image.mode not in _WITH_ALPHA:
        return image
    hidden = int((np.asarray(image.getchannel("A")) < 255).sum())
    if hidden:
        raise UnreadableError(
            f"{hidden} of its pixels are transparent, and what these mean is unknown: save it "
            "without transparency"
        )
    return image.convert({"LA": "L", "PA": "RGB"}.get(image.mode, "RGB"))


def _colour_codes(image: Image.Image) -> np.ndarray:
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int32), 2, 0)
    codes: np.ndarray = red << 16 | green << 8 | blue
    return codes


def _labels(opaque: Image.Image, stored: Image.Image, bits: int) -> np.ndarray:
    values = np.asarray(opaque)
    if opaque.mode in ("RGB", "RGBX"):
        values = values[..., :3]
        coloured = (values != values[..., :1]).any(axis=2)
        if coloured.any():
            red, green, blue = (int(value) for value in values[coloured][0])
            raise UnreadableError(
                f"it holds colours, such as #{red:02x}{green:02x}{blue:02x}, and there is no "
                "legend that says what they mean"
            )
        return values[..., 0]
    if values.ndim != 2:
        raise UnreadableError(f"its mode is {opaque.mode}: save it as grey or indexed PNG")
    if values.dtype == bool:
        return values.astype(np.uint8)
    if opaque.mode == "L" and bits < 8:
        unscaled: np.ndarray = values // np.uint8(255 // (2**bits - 1))
        return unscaled
    if is_white_zero(stored) and opaque.mode.startswith("I;16"):  # Pillow inverts the others
        inverted: np.ndarray = np.uint16(2**bits - 1) - values.astype(np.uint16)
        return inverted
    return values


class ValueCounts(NamedTuple):
    """The distinct values of a mask, sorted, float64 [k], and how many pixels have each, [k]."""

    values: np.ndarray
    pixels: np.ndarray


def written(value: float) -> str:
    """A value as one types it for an option: whole numbers without a decimal point."""
    if not math.isfinite(value) or abs(value) >= 1e15:
        return f"{value:.7g}"
    return f"{value:.0f}" if value == math.floor(value) else f"{value:.7g}"


def count_values(values: np.ndarray) -> ValueCounts:
    """Which values a mask holds, and on how many pixels."""
    if values.dtype in (np.uint8, np.uint16):
        counts = np.bincount(values.reshape(-1))
        found = np.flatnonzero(counts)
        return ValueCounts(found.astype(np.float64), counts[found])
    found, pixels = np.unique(values, return_counts=True)
    return ValueCounts(found.astype(np.float64), pixels)
