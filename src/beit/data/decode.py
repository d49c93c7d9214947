"""Encoded bytes to pixels: every mode that images come in, or one typed error.

Rules, none of which is left to a library's default:

- The format is recognised by the content, and only those of `FORMATS` are read.
- Transparent pixels lie over white. Animations and multi-page files give their first image.
- Values of more than 8 bits are scaled from `value_range` to 0 to 255, and refused outside of it.
  Without it, the range is the one that the file states (12 bits per value, MaxSampleValue, sBIT);
  else 0 to 65535 for 16 bits, and for 32 bits and floats the smallest usual one that holds all
  values, up to 255 or 65535, for floats also 1. Negative and larger values are refused.
- WhiteIsZero TIFF files are inverted at every depth.
- CMYK follows the formula (1 - ink)(1 - black); LAB is CIELAB under D50, as in ICC profiles.
- An image with missing pixels is refused, even where decoders would fill them in.
- The EXIF orientation is applied; an EXIF block that cannot be parsed counts as absent.

Sound JPEG files go through simplejpeg, which gives the same pixels as Pillow in half the time.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from beit.data.bands import count_bands, has_bands, read_bands
from beit.data.colours import (
    ValueRange,
    bands_of,
    grey_or_rgb,
    is_deep,
    load_pixels,
    orientation_of,
    stored_bits,
    upright,
)
from beit.data.file_types import FORMATS, HEAD_BYTES, NOT_AN_IMAGE, known_by_head
from beit.data.truncation import (
    first_of_gif,
    jpeg_scans,
    require_all_pixels,
    tells_of_lost_pixels,
)
from beit.errors import UnreadableError

PIXEL_LIMIT = 179_000_000
MOST_SCANS = 100
"""Scans of a JPEG file; encoders write about ten, and each takes as long as the whole image."""

_PILLOW = logging.getLogger("PIL")


class _PillowIsQuiet:
    """`warnings.catch_warnings` restores the filters it found, so that overlapping uses in several
    threads could leave wrong ones behind: only the first thread enters it, and the last leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._restore.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._restore.callback(_PILLOW.setLevel, _PILLOW.level)
                _PILLOW.setLevel(logging.CRITICAL + 1)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore.close()


pillow_is_quiet = _PillowIsQuiet()
"""Silences Pillow's warnings and its log while any thread decodes: our errors report the faults."""


def _jpeg(image: Image.Image, data: bytes, channels: int) -> np.ndarray | None:
    """The pixels of a sound JPEG file in grey or RGB, uint8 [H,W,1 or 3]; None leaves it to Pillow.

    Pillow reads other kinds of JPEG, and files with a fault that costs no pixel. Raises
    UnreadableError if pixels are missing: Pillow would fill them with grey and report nothing.
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


class Decoded(NamedTuple):
    """Pixels uint8 [H,W,channels], contiguous and writable."""

    pixels: np.ndarray
    multi_frame: bool
    """Whether the file is animated or has several pages; the pixels are those of the first."""


def _decoded(
    data: bytes, channels: int, pixel_limit: int, value_range: ValueRange | None
) -> Decoded:
    data, more = first_of_gif(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > pixel_limit:
            raise UnreadableError(f"{height} x {width} pixels are more than {pixel_limit}")
        if image.format in ("JPEG", "MPO") and jpeg_scans(data) > MOST_SCANS:
            raise UnreadableError(f"it has more than {MOST_SCANS} scans")
        multi_frame = more or _is_multi_frame(image)
        pixels = _jpeg(image, data, channels)
        if pixels is None and value_range and not is_deep(image) and stored_bits(image, data) > 8:
            # Several channels of more than eight bits, of which Pillow reads only the upper eight.
            if image.format != "TIFF":
                raise UnreadableError(
                    f"it has {stored_bits(image, data)} bits in each of several channels, which "
                    "are read by a value range from grey and TIFF files only"
                )
            pixels = read_bands(data, channels, pixel_limit, value_range)
        if pixels is None:
            loaded = load_pixels(image)
            require_all_pixels(loaded, data)
            if channels in (1, 3):
                pixels = grey_or_rgb(loaded, data, channels, value_range)
            else:
                pixels = bands_of(loaded, channels)
        pixels = upright(pixels, orientation_of(image))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] < channels:
        pixels = np.repeat(pixels, channels, axis=2)
    return Decoded(np.require(pixels, np.uint8, ("C", "W")), multi_frame)


def _is_multi_frame(image: Image.Image) -> bool:
    return bool(getattr(image, "is_animated", False))


def decode_first(
    data: bytes,
    *,
    channels: int = 3,
    pixel_limit: int = PIXEL_LIMIT,
    value_range: ValueRange | None = None,
) -> Decoded:
    """The first image of a file, and whether there are more in it.

    Args:
        data: The encoded file.
        channels: 1 gives grey (ITU-R 601), 3 gives RGB; other counts take the bands of the file as
            they are.
        pixel_limit: Most pixels, checked against the header before any is decoded. A limit above
            Pillow's own (`2 * Image.MAX_IMAGE_PIXELS`) has no effect.
        value_range: What becomes 0 and 255 where values have more than eight bits; None for the
            range that the file states or, without one, that of their type.

    Raises:
        UnreadableError: For every fault.
    """
    with faults_named(data, _why_unknown):
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
    """The pixels of an encoded image, uint8 [H,W,channels], as `decode_first` reads them.

    Args:
        data: The encoded file, of which the first image counts.
        channels: 1 for grey, 3 for RGB, or the number of bands in the file.
        pixel_limit: Most pixels that are decoded.
        value_range: What becomes 0 and 255 where values have more than eight bits.

    Raises:
        UnreadableError: For every fault.
    """
    return decode_first(
        data, channels=channels, pixel_limit=pixel_limit, value_range=value_range
    ).pixels


class Header(NamedTuple):
    """What the header of an image states; no pixel is decoded."""

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
    """The header of an encoded image. Raises UnreadableError for every fault."""
    with faults_named(data, _why_unknown):
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
            multi_frame = _is_multi_frame(image)
            form = "JPEG" if image.format == "MPO" else str(image.format)
            return Header(form, image.mode, height, width, multi_frame, orientation_of(image))


@contextlib.contextmanager
def faults_named(data: bytes, why_unknown: Callable[[bytes], str]) -> Iterator[None]:
    """While inside, every fault becomes an UnreadableError, and Pillow is quiet; `why_unknown` says
    what is wrong with content that no decoder knows."""
    if not data:
        raise UnreadableError("the file is empty")
    try:
        with pillow_is_quiet:
            yield
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError(why_unknown(data)) from None
    except MemoryError:
        raise UnreadableError("there is not enough memory for it") from None
    except Exception as error:  # decoders raise nearly every type on foreign bytes
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _why_unknown(data: bytes) -> str:
    """Why no decoder knows some content: too many bands, unknown number types, or no image."""
    try:
        bands = count_bands(data)
    except UnreadableError as error:
        return error.reason
    except Exception:  # the reader of bands raises nearly every type on foreign bytes
        bands = None
    if bands is not None:
        number = bands.samples if bands.samples > 1 else bands.pages
        if number <= 4:  # as many bands as Pillow reads, but stored in a way that it does not
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
