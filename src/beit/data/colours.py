"""Pixel values to eight bits: any type of number, any mode of Pillow, by what files say of them."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from beit.data.truncation import png_chunk
from beit.errors import UnreadableError

LARGEST_16_BIT = 65535
USUAL = (1, 255, LARGEST_16_BIT)
"""The usual ranges of floats and, but for the first, of integers wider than 16 bits."""
LEAST_USED = 16
"""Floats use at least this part of a usual range above 1, or it is not theirs."""

ValueRange = tuple[float, float]
"""The values that become 0 and 255."""
NOT_FINITE = "it holds values that are not finite numbers"
_WHOLE_BITS = tuple(2**bits for bits in range(9, 16))

# 65535 to 255, rounded.
_EIGHT_BITS = (
    (np.arange(LARGEST_16_BIT + 1) * 255 + LARGEST_16_BIT // 2) // LARGEST_16_BIT
).astype(np.uint8)

_PHOTOMETRIC, _BITS_PER_SAMPLE, _MAX_SAMPLE, _S_MAX_SAMPLE, _SUBSAMPLING = 262, 258, 281, 341, 530
"""Tags of TIFF 6.0."""
_YCBCR = 6
"""Of the photometric interpretations of TIFF 6.0."""
_SRGB_FROM_XYZ_D50 = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
_WHITE_D50 = np.array([0.9642, 1.0, 0.8249])


def _within(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Numbers to uint8, linearly: the ends of the range become 0 and 255."""
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
    """Pixels of any type of number to uint8; those that are uint8 stay as they are.

    Errors: UnreadableError for values outside of the range, or of every usual one, and for floats
    that use next to nothing of it.
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
                break  # such as 0 to 1.2, of which 255 would leave one grey level
            return _within(values, (0, largest))
    raise UnreadableError(
        f"its values run from {low:g} to {high:g}, which is no usual range: models trained with "
        f"--value-range LOW HIGH read them, or convert them to 0 to 1, 255 or {LARGEST_16_BIT}"
    )


def stated_range(
    values: np.ndarray, *, bits: int = 0, largest: object = None, significant: bytes = b""
) -> ValueRange | None:
    """The range that a file states for its values of 16 bits, None if that is all of them.

    `bits` and `largest` are BitsPerSample and MaxSampleValue of TIFF, `significant` is the chunk
    sBIT of PNG. Most writers of MaxSampleValue put the largest value of that one image there, by
    which each would be stretched on its own: only the end of a whole number of bits is a range.
    By its standard a PNG file with sBIT 12 has values scaled up to 65535, with zeros or copies of
    the upper bits below; if none is above 4095 and the lower bits are used, they were not scaled.
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


def load_pixels(image: Image.Image) -> Image.Image:
    """Decode the pixels, also those of uncompressed YCbCr TIFF files. Errors: UnreadableError.

    Pillow before 13 expects four bytes for each pixel there, as libtiff makes of compressed ones,
    and calls the file truncated; no version reads colours at a lower resolution than brightness.
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
    """Whether Pillow gives values of more than eight bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


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


def grey_or_rgb(
    image: Image.Image, data: bytes, channels: int, value_range: ValueRange | None
) -> np.ndarray:
    """Any mode of Pillow to uint8 [H,W] or [H,W,3]; grey stays grey."""
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
    """The bands as they are, for channel counts other than one and three."""
    bands = image.getbands()
    pixels = np.array(image)
    if len(bands) != channels or pixels.dtype != np.uint8:
        raise UnreadableError(
            f"it has {len(bands)} bands ({image.mode}), and {channels} channels are requested"
        )
    return pixels


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
