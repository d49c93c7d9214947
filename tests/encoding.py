"""Images in every format and mode, and PNG and TIFF files put together by hand."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FORMATS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "PPM": ".ppm",
    "JPEG2000": ".jp2",
    "AVIF": ".avif",
}
MODES = {
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "AVIF": ("RGB", "RGBA"),
}  # fmt: skip


def encoded(form: str, mode: str = "RGB", side: int = 64, **options: Any) -> bytes:
    """Noise in a format and mode."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side + 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


def animate(place: Path) -> Path:
    """In place of an image an animation that begins with it."""
    first, shape = Image.open(place), place.with_suffix(".gif")
    first.save(shape, save_all=True, append_images=[Image.new("RGB", first.size, "red")])
    place.unlink()
    return shape


def turned(upright: np.ndarray, orientation: int) -> tuple[np.ndarray, Image.Exif]:
    """Pixels as a camera stores them, and the EXIF block that says how they lie."""
    stored = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: np.rot90(p, 2),
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: lambda p: np.rot90(p, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return np.ascontiguousarray(stored), exif


def chunk(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    """A chunk of a PNG file, its length as told."""
    told = len(body) if length is None else length
    return struct.pack(">I", told) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes, width: int = 4, height: int = 4, depth: int = 8, colour: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def rows(width: int = 4, height: int = 4, filtered: int = 0) -> bytes:
    """The pixels of an RGB image as a chunk."""
    return chunk(b"IDAT", zlib.compress((bytes([filtered]) + bytes(3 * width)) * height))


def tiff(*tags: tuple[int, int, int, int], after: bytes = b"", following: int = 0) -> bytes:
    """A TIFF file of one directory: tag, type, count, value; pixels come `after` it."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return head + entries + struct.pack("<I", following) + after


def grey_tiff(**changed: int) -> bytes:
    """A sound one of 4 x 4 pixels, but for what is changed."""
    values = {
        "width": 4, "height": 4, "bits": 8, "compression": 1, "photometric": 1, "offset": 122,
        "samples": 1, "rows": 4, "bytes": 16, "following": 0,
    } | changed  # fmt: skip
    numbers = (256, 257, 258, 259, 262, 273, 277, 278, 279)
    tags = [(tag, 4, 1, value) for tag, value in zip(numbers, values.values(), strict=False)]
    return tiff(*tags, after=bytes(range(16)), following=values["following"])
