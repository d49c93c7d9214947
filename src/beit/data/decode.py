"""Encoded bytes to pixels: every mode that images come in, or one typed error.

Rules, none of which is left to a library's default:

- The format is recognised by the content, and only those of `FORMATS` are read.
- Transparent pixels lie over white. Animations and multi-page files give their first image.
- Values of more than 8 bits are scaled from `value_range` to 0 to 255, and refused outside of it.
  Without it, from the range that the file states (12 bits for each value, MaxSampleValue, sBIT), or
  of 16 bits from 0 to 65535, of 32 bits and floats by the smallest usual range that holds them
  (65535; 1, 255 or 65535); negative or larger values are refused.
- WhiteIsZero TIFF files are inverted at every depth.
- CMYK follows the formula (1 - ink)(1 - black); LAB is CIELAB under D50, as in ICC profiles.
- An image of which pixels are missing is refused, also where decoders would fill them in.
- The EXIF orientation is applied; an EXIF block that cannot be parsed counts as absent.

Sound JPEG files go through simplejpeg, which gives the same pixels as Pillow in half the time.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from beit.data.bands import count_bands, has_bands, read_bands
from beit.data.file_types import FORMATS, HEAD_BYTES, NOT_AN_IMAGE, known_by_head
from beit.data.pillow_warnings import quiet
from beit.data.pixel_types import UnreadableError, ValueRange, stated_range, to_eight_bits
from beit.data.truncation import (
    first_of_gif,
    png_chunk,
    png_is_interlaced,
    png_lacks_pixels,
    tells_of_lost_pixels,
)

PIXEL_LIMIT = 179_000_000
MOST_SCANS = 100
"""Scans of a JPEG file; encoders write about ten, and each takes as long as the whole image."""

_PHOTOMETRIC, _BITS_PER_SAMPLE, _MAX_SAMPLE, _S_MAX_SAMPLE = 262, 258, 281, 341
"""Tags of TIFF 6.0, which the functions below read."""
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""Of JPEG, where it is neither a stuffed byte nor a restart within a scan."""
_SCAN, _END = 0xDA, 0xD9
_SRGB_FROM_XYZ_D50 = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
_WHITE_D50 = np.array([0.9642, 1.0, 0.8249])


def _srgb_from_lab(image: Image.Image) -> np.ndarray:
    # The bands one by one: as a whole, Pillow hands out a and b as signed bytes.
    lightness, a, b = (np.asarray(band).astype(np.float64) for band in image.split())
    y = (lightness * (100 / 255) + 16) / 116
    f = np.stack([y + (a - 128) / 500, y, y - (b - 128) / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * _WHITE_D50
    linear = np.clip(xyz @ _SRGB_FROM_XYZ_D50.T, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgb: np.ndarray = np.rint(curved * 255).astype(np.uint8)
    return rgb


def _over_white(image: Image.Image) -> Image.Image:
    layers = image.convert("RGBA")
    white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layers).convert("RGB")


def stored_bits(image: Image.Image, data: bytes) -> int:
    """Bits of each value in the file, which decoders may have scaled or cut to eight."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, 1)  # type: ignore[attr-defined]
        return int(bits[0] if isinstance(bits, tuple) else bits)
    return 8


def is_white_zero(image: Image.Image) -> bool:
    """Whether it is a TIFF file in which 0 is white; Pillow inverts those of up to 8 bits."""
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(_PHOTOMETRIC) == 0


def own_range(image: Image.Image, data: bytes) -> ValueRange | None:
    """The range of values that the file states, if that is narrower than their type."""
    if image.format == "PNG":
        return stated_range(np.asarray(image), significant=png_chunk(data, b"sBIT"))
    if image.format != "TIFF":
        return None
    tags = image.tag_v2  # type: ignore[attr-defined]
    return stated_range(
        np.asarray(image),
        bits=stored_bits(image, data),
        largest=tags.get(_S_MAX_SAMPLE, tags.get(_MAX_SAMPLE)),
    )


def is_deep(image: Image.Image) -> bool:
    """Whether Pillow gives values of more than eight bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _of_wide_colours(
    image: Image.Image, data: bytes, channels: int, pixel_limit: int, value_range: ValueRange
) -> np.ndarray:
    """Several channels of more than eight bits, of which Pillow reads the upper eight only."""
    if image.format != "TIFF":
        raise UnreadableError(
            f"it has {stored_bits(image, data)} bits in each of several channels, which are read "
            "by a value range from grey and TIFF files only"
        )
    return read_bands(data, channels, pixel_limit, value_range)


def _grey_or_rgb(
    image: Image.Image, data: bytes, channels: int, value_range: ValueRange | None
) -> np.ndarray:
    """Any mode to uint8 [H,W] or [H,W,3]; grey stays grey, the caller repeats it."""
    mode = image.mode
    if is_deep(image):
        pixels = to_eight_bits(np.asarray(image), value_range or own_range(image, data))
        return 255 - pixels if is_white_zero(image) else pixels
    if mode == "LAB":
        image = Image.fromarray(_srgb_from_lab(image))
    elif image.has_transparency_data:
        image = _over_white(image)
    if channels == 1 or image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    return np.array(image.convert("RGB"))


def _bands(image: Image.Image, channels: int) -> np.ndarray:
    """The bands as they are, for channel counts other than one and three."""
    bands = image.getbands()
    pixels = np.array(image)
    if len(bands) != channels or pixels.dtype != np.uint8:
        raise UnreadableError(
            f"it has {len(bands)} bands ({image.mode}), and {channels} channels are asked for"
        )
    return pixels


def _scans(data: bytes) -> int:
    """The scans of a JPEG file, counted from marker to marker."""
    count, place = 0, 2
    while (found := _MARKER.search(data, place)) is not None and found[1][0] != _END:
        count += found[1][0] == _SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return count


def _jpeg(image: Image.Image, data: bytes, channels: int) -> np.ndarray | None:
    """A sound JPEG image in grey or RGB, uint8 [H,W,1 or 3]; None leaves it to Pillow.

    Other kinds of JPEG are Pillow's to read, and so is one with a fault that costs no pixel. If
    pixels are missing, it is refused here: Pillow would fill them with grey and say nothing.
    """
    if image.format not in ("JPEG", "MPO"):
        return None
    known = image.format == "JPEG" and channels == 3
    colours = {"L": "GRAY", "RGB": "RGB"}.get(image.mode) if known else None
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, colours or "GRAY")
    except ValueError as error:
        if tells_of_lost_pixels(str(error)):
            raise UnreadableError(f"pixels are missing: {error}") from error
        return None
    return pixels if colours and pixels.shape[1::-1] == image.size else None


def require_all_pixels(image: Image.Image, data: bytes) -> None:
    """Refuse a PNG file whose last rows were never written: Pillow leaves them black."""
    if image.format != "PNG":
        return
    width, height = image.size
    seems_cut = (
        png_is_interlaced(data) or not np.asarray(image.crop((0, height - 1, width, height))).any()
    )
    if seems_cut and png_lacks_pixels(data):
        raise UnreadableError("pixels are missing: its stream ends before the last row")


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8. TIFF images were turned by Pillow while loading and give 1."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    except Exception:  # whatever a damaged EXIF block raises, the pixels are sound
        return 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo what the camera did: 2 to 4 mirror and turn, 5 to 8 also swap height and width."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


class Decoded(NamedTuple):
    """Pixels uint8 [H,W,channels], contiguous and writable."""

    pixels: np.ndarray
    multi_frame: bool
    """Whether the file is animated or has several pages: these are those of the first."""


def _decoded(
    data: bytes, channels: int, pixel_limit: int, value_range: ValueRange | None
) -> Decoded:
    data, more = first_of_gif(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > pixel_limit:
            raise UnreadableError(f"{height} x {width} pixels are more than {pixel_limit}")
        if image.format in ("JPEG", "MPO") and _scans(data) > MOST_SCANS:
            raise UnreadableError(f"it has more than {MOST_SCANS} scans")
        multi_frame = more or _is_one_of_several(image)
        fast = _jpeg(image, data, channels)
        if fast is not None:
            pixels = fast
        elif value_range and not is_deep(image) and stored_bits(image, data) > 8:
            pixels = _of_wide_colours(image, data, channels, pixel_limit, value_range)
        else:
            image.load()
            require_all_pixels(image, data)
            if channels in (1, 3):
                pixels = _grey_or_rgb(image, data, channels, value_range)
            else:
                pixels = _bands(image, channels)
        pixels = upright(pixels, orientation_of(image))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] < channels:
        pixels = np.repeat(pixels, channels, axis=2)
    return Decoded(np.require(pixels, np.uint8, ("C", "W")), multi_frame)


def _is_one_of_several(image: Image.Image) -> bool:
    return bool(getattr(image, "is_animated", False))


def decode_first(
    data: bytes,
    *,
    channels: int = 3,
    pixel_limit: int = PIXEL_LIMIT,
    value_range: ValueRange | None = None,
) -> Decoded:
    """The first image of a file, and whether there are more in it.

    One channel is grey (ITU-R 601), three are RGB; other counts take the bands of the file as they
    are. `value_range` is what becomes 0 and 255 where values have more than eight bits. The pixel
    limit is checked against the header, before any pixel is decoded; one above Pillow's own
    (`2 * Image.MAX_IMAGE_PIXELS`) has no effect. Errors: UnreadableError, for every fault.
    """
    with _faults_named(data), quiet:
        if has_bands(data, channels):
            pixels = read_bands(data, channels, pixel_limit, value_range)
            return Decoded(np.require(pixels, np.uint8, ("C", "W")), False)
        return _decoded(data, channels, pixel_limit, value_range)


def decode(
    data: bytes,
    *,
    channels: int = 3,
    pixel_limit: int = PIXEL_LIMIT,
    value_range: ValueRange | None = None,
) -> np.ndarray:
    """Pixels of an encoded image, uint8 [H,W,channels]: `decode_first` without the rest."""
    return decode_first(
        data, channels=channels, pixel_limit=pixel_limit, value_range=value_range
    ).pixels


class Header(NamedTuple):
    """What an image says of itself before any pixel is decoded."""

    format: str
    """One of `FORMATS`."""
    mode: str
    """Pillow's name for the kind of pixels."""
    height: int
    width: int
    multi_frame: bool
    """Whether it is animated or has several pages."""
    orientation: int
    """EXIF orientation as stored, 1 to 8."""


def read_header(data: bytes) -> Header:
    """What the image is. Errors: UnreadableError."""
    with _faults_named(data), quiet:
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            bands = count_bands(data)
            if bands is None:
                raise
            mode = f"{bands.samples} bands"
            return Header("TIFF", mode, bands.height, bands.width, bands.pages > 1, 1)
        with image:
            width, height = image.size
            multi_frame = _is_one_of_several(image)
            form = "JPEG" if image.format == "MPO" else str(image.format)
            return Header(form, image.mode, height, width, multi_frame, orientation_of(image))


@contextmanager
def _faults_named(data: bytes) -> Iterator[None]:
    if not data:
        raise UnreadableError("the file is empty")
    try:
        yield
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError(_why_unknown(data)) from None
    except MemoryError:
        raise UnreadableError("there is not enough memory for it") from None
    except Exception as error:  # decoders raise nearly every type on foreign bytes
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _why_unknown(data: bytes) -> str:
    """Of content that no decoder knows: too many bands, numbers that are not read, or no image."""
    try:
        bands = count_bands(data)
    except UnreadableError as error:
        return error.reason
    except Exception:  # the reader of bands raises nearly every type on foreign bytes
        bands = None
    if bands is not None:
        number = bands.samples if bands.samples > 1 else bands.pages
        if number <= 4:  # bands that Pillow reads, in a way that it does not
            return (
                f"it is a TIFF file of {bands.values} (bands: {number}) that is not decoded: save "
                "it as RGB or grey with 8 or 16 bits"
            )
        return f"it has {number} bands: models trained with --channels {number} read them"
    reason = known_by_head(data[:HEAD_BYTES])
    if not reason:
        return "it begins as an image does, and the rest is cut off, damaged or not decoded"
    if reason == NOT_AN_IMAGE:
        return "its content is none of " + ", ".join(FORMATS)
    return reason
