"""Pillow's modes to pixels of eight bits, and what a file says of the values it stores."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from beit.data.pixel_types import UnreadableError, ValueRange, stated_range, to_eight_bits
from beit.data.truncation import png_chunk

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
