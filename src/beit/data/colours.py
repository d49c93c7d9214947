"""Pixel values to eight bits, from any number type and mode of Pillow, by what the file states."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from beit.data.truncation import png_chunk
from beit.errors import UnreadableError

LARGEST_16_BIT = 65535
USUAL = (1, 255, LARGEST_16_BIT)
"""Upper ends of the usual ranges of floats and, except for the first, of integers other than uint8
and uint16; all begin at 0."""
LEAST_USED = 16
"""Floats that reach less than 1 / `LEAST_USED` of a usual range above 1 are refused."""

ValueRange = tuple[float, float]
"""The values that become 0 and 255."""
NOT_FINITE = "it holds values that are not finite numbers"
_WHOLE_BITS = tuple(2**bits for bits in range(9, 16))

# The eight-bit value of each 16-bit value: 65535 becomes 255, rounded.
_EIGHT_BITS = (
    (np.arange(LARGEST_16_BIT + 1) * 255 + LARGEST_16_BIT // 2) // LARGEST_16_BIT
).astype(np.uint8)

_PHOTOMETRIC, _BITS_PER_SAMPLE, _MAX_SAMPLE, _S_MAX_SAMPLE, _SUBSAMPLING = 262, 258, 281, 341, 530
"""Tags of TIFF 6.0."""
_YCBCR = 6
"""One of the photometric interpretations of TIFF 6.0."""
_SRGB_FROM_XYZ_D50 = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
_WHITE_D50 = np.array([0.9642, 1.0, 0.8249])


def _within(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Scale numbers to uint8, linearly: the ends of the range become 0 and 255."""
    first, last = value_range
    low, high = float(values.min()), float(values.max())
    if not (first <= low and high <= last):  # so that NaN is refused, too
        raise UnreadableError(
            f"its values run from {low:g} to {high:g}, and value_range is {first:g} to {last:g}"
            if np.isfinite([low, high]).all()
            else NOT_FINITE
        )
    found: np.ndarray = np.rint((values - first) * (255.0 / (last - first))).astype(np.uint8)
    return found


def to_eight_bits(values: np.ndarray, value_range: ValueRange | None = None) -> np.ndarray:
    """Convert pixels of any number type to uint8; uint8 stays as it is.

    Raises:
        UnreadableError: If values lie outside of `value_range` or, without it, of every usual
            range, or if floats use hardly any of that range.
    """
    if values.dtype == np.uint8:
        return values
    if value_range is not None:
        return _within(values, value_range)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        found: np.ndarray = _EIGHT_BITS[values]
        return found
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnreadableError(NOT_FINITE)
    for largest in USUAL if values.dtype.kind == "f" else USUAL[1:]:
        if low >= 0 and high <= largest:
            if values.dtype.kind == "f" and 1 < largest > high * LEAST_USED:
                break  # such as 0 to 1.2, which would be nearly black if 255 were white
            return _within(values, (0, largest))
    raise UnreadableError(
        f"its values run from {low:g} to {high:g}, which is no usual range: models trained with "
        f"--value-range LOW HIGH read them, or convert them to 0 to 1, 255 or {LARGEST_16_BIT}"
    )


def stated_range(
    values: np.ndarray, *, bits: int = 0, largest: object = None, significant: bytes = b""
) -> ValueRange | None:
    """The range that a file states for its values of 16 bits; None if it states none or all of it.

    Args:
        values: The pixels as they are stored; only integers have such a range.
        bits: BitsPerSample of TIFF; 0 if unknown.
        largest: MaxSampleValue of TIFF, one number or one per channel; None if there is none. Most
            writers put the largest value of that one image there, by which each image would be
            scaled differently, so it counts only if it is the largest number of 9 to 15 bits.
        significant: The chunk sBIT of PNG. By the standard a file with sBIT 12 has values scaled up
            to 65535, with zeros or copies of the upper bits below; if none is above 4095 and the
            lower bits are used, they were not scaled.
    """
    if values.dtype.kind not in "iu" or not values.size:
        return None
    top = int(values.max())
    if 8 < bits < 16:
        return (0, 2**bits - 1)
    if isinstance(largest, tuple):
        largest = max(largest, default=None)
    if isinstance(largest, int | float) and top <= largest:
        whole = int(largest) + 1
        if largest == whole - 1 and whole in _WHOLE_BITS:
            return (0, whole - 1)
    if significant:
        used = max(significant)
        unscaled = 8 < used < 16 and top < 2**used
        if unscaled and (values.astype(np.int64) & (2 ** (16 - used) - 1)).any():
            return (0, 2**used - 1)
    return None


def stored_bits(image: Image.Image, data: bytes) -> int:
    """Bits per value in the file; decoders may have scaled the values or cut them to eight bits."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, 1)  # type: ignore[attr-defined]
        return int(bits[0] if isinstance(bits, tuple) else bits)
    return 8


def is_white_zero(image: Image.Image) -> bool:
    """Whether this is a TIFF file in which 0 is white; Pillow itself inverts up to 8 bits."""
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(_PHOTOMETRIC) == 0


def own_range(image: Image.Image, data: bytes) -> ValueRange | None:
    """The range of values that the file states, if it is narrower than their type; else None."""
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


def load_pixels(image: Image.Image) -> Image.Image:
    """Decode the pixels, including those of uncompressed YCbCr TIFF files.

    Pillow before 13 expects four bytes per pixel there, as libtiff makes of compressed ones, and
    calls the file truncated; no version reads uncompressed files with subsampled colours.

    Raises:
        UnreadableError: If the colours of an uncompressed YCbCr file are subsampled.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags, tiles = image.tag_v2, image.tile
        if tags.get(_PHOTOMETRIC) == _YCBCR and any(tile.codec_name == "raw" for tile in tiles):
            if tags.get(_SUBSAMPLING, (2, 2)) != (1, 1):
                raise UnreadableError(
                    "it is an uncompressed TIFF file of subsampled YCbCr, which is not decoded: "
                    "save it as RGB"
                )
            if image.mode == "RGB":
                image.tile = [
                    tile._replace(args=("RGB", *tuple(tile.args or ())[1:])) for tile in tiles
                ]
                image.load()
                return Image.frombytes("YCbCr", image.size, image.tobytes())
    image.load()
    return image


def is_deep(image: Image.Image) -> bool:
    """Whether Pillow decodes it to values of more than eight bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _srgb_from_lab(image: Image.Image) -> np.ndarray:
    # Band by band: as a whole image, Pillow returns a and b as signed bytes.
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


def grey_or_rgb(
    image: Image.Image, data: bytes, channels: int, value_range: ValueRange | None
) -> np.ndarray:
    """Convert an image in any mode of Pillow to uint8, [H,W] if it is grey, else [H,W,3].

    Args:
        image: The image, decoded.
        data: The file it was decoded from, which may state the range of its values.
        channels: 1 turns colours into grey; with 3, grey images stay grey.
        value_range: What becomes 0 and 255 in values of more than eight bits; None for the range
            that the file states or, without one, that of their type.

    Raises:
        UnreadableError: As `to_eight_bits`.
    """
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


def bands_of(image: Image.Image, channels: int) -> np.ndarray:
    """The bands as they are, uint8 [H,W,channels], for channel counts other than one and three.

    Raises UnreadableError if there are more or fewer, or they are not of eight bits.
    """
    bands = image.getbands()
    pixels = np.array(image)
    if len(bands) != channels or pixels.dtype != np.uint8:
        raise UnreadableError(
            f"it has {len(bands)} bands ({image.mode}), and {channels} channels are requested"
        )
    return pixels


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; it is 1 for TIFF images, which Pillow turns while loading."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    except Exception:  # whatever a damaged EXIF block raises, the pixels are sound
        return 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels upright: 2 to 4 are mirrored or turned, 5 to 8 also swap height and width."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
