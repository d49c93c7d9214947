"""Whether a file has all pixels of its image, where a decoder makes up what is missing."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image

from beit.errors import UnreadableError

PIECE = 1 << 20
"""Bytes that are unpacked at a time: they are counted, not kept."""

GIF_TRAILER = b";"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values for each pixel by the colour type of the PNG header (ISO/IEC 15948, table 11.1)."""
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
"""First column and row of each pass of an interlaced PNG, and the steps between them (8.2)."""
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""Of JPEG, where it is neither a stuffed byte nor a restart within a scan."""
_SCAN, _END = 0xDA, 0xD9
_LOST = re.compile(r"Corrupt JPEG data: (?!.* extraneous bytes before marker 0x(?!d[0-7]))")
"""Of libjpeg's warnings those after which pixels are missing. Bytes too many are none of them, but
for those before a restart marker, where pixels were skipped to find the place again."""


def tells_of_lost_pixels(warning: str) -> bool:
    """Whether a warning of libjpeg says that a part of the image is grey instead of seen."""
    return _LOST.search(warning) is not None


def jpeg_scans(data: bytes) -> int:
    """The scans of a JPEG file, counted from marker to marker."""
    count, place = 0, 2
    while (found := _MARKER.search(data, place)) is not None and found[1][0] != _END:
        count += found[1][0] == _SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return count


def require_all_pixels(image: Image.Image, data: bytes) -> None:
    """Refuse a PNG file whose last rows were never written: Pillow leaves them black.

    The stream is unpacked once more only where the last row is black. Errors: UnreadableError.
    """
    if image.format != "PNG":
        return
    width, height = image.size
    seems_cut = (
        _is_interlaced(data) or not np.asarray(image.crop((0, height - 1, width, height))).any()
    )
    if seems_cut and png_lacks_pixels(data):
        raise UnreadableError("pixels are missing: its stream ends before the last row")


def _is_interlaced(data: bytes) -> bool:
    return data[28] == 1


def png_lacks_pixels(data: bytes) -> bool:
    """Whether the packed stream of a PNG file ends before its last pixel."""
    needed = _needed(data)
    return _unpacked(data, needed) < needed


def _needed(data: bytes) -> int:
    """Bytes of the filtered rows that the header announces."""
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    bits = data[24] * _CHANNELS[data[25]]
    passes = _PASSES if _is_interlaced(data) else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _unpacked(data: bytes, enough: int) -> int:
    """Bytes in the stream of the default image; counting ends once there are enough."""
    count, stream = 0, zlib.decompressobj()
    for kind, packed in _chunks(data):
        while kind == b"IDAT" and packed and count < enough and not stream.eof:
            count += len(stream.decompress(packed, PIECE))
            packed = stream.unconsumed_tail
    return count + (0 if stream.eof else len(stream.flush()))


def png_chunk(data: bytes, kind: bytes) -> bytes:
    """What the first chunk of a kind holds, empty if there is none before the pixels."""
    for found, content in _chunks(data):
        if found == kind:
            return content
        if found == b"IDAT":
            break
    return b""


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file and what they hold."""
    place = 8
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind == b"IEND":
            return
        yield kind, data[place + 8 : place + 8 + length]
        place += length + 12


class FirstOfGif(NamedTuple):
    """A GIF file up to the end of its first image, and whether another one follows."""

    data: bytes
    more: bool


def first_of_gif(data: bytes) -> FirstOfGif:
    """The first image alone: where its own stream ends early, decoders take what follows for its
    pixels. Files of other formats, and broken ones, come back as they are.

    Source: GIF89a specification, sections 17 to 27.
    """
    if not data.startswith((b"GIF87a", b"GIF89a")):
        return FirstOfGif(data, False)
    with suppress(IndexError):  # it ends within its first image
        start = _image_descriptor(data, 13 + _palette(data[10]))
        if start is not None:
            end = _behind_blocks(data, start + 11 + _palette(data[start + 9]))
            return FirstOfGif(data[:end] + GIF_TRAILER, _image_descriptor(data, end) is not None)
    return FirstOfGif(data, False)


def _palette(flags: int) -> int:
    """Bytes of the colour table that the flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _image_descriptor(data: bytes, place: int) -> int | None:
    """Where the next image begins, past extensions; None if something else comes, or nothing."""
    with suppress(IndexError):
        while data[place] == 0x21:
            place = _behind_blocks(data, place + 2)
        return place if data[place] == 0x2C else None
    return None


def _behind_blocks(data: bytes, place: int) -> int:
    """Past a row of blocks, each with its length before it, that ends with an empty one."""
    while data[place]:
        place += data[place] + 1
    return place + 1
