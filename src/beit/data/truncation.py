"""Detects files that lack pixels of their image, where decoders silently fill them in."""

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
"""Bytes that are unpacked at a time, only to be counted."""

GIF_TRAILER = b";"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values per pixel by the colour type in the PNG header (ISO/IEC 15948, table 11.1)."""
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
"""The passes of an interlaced PNG: first column, first row, and the steps in both (8.2)."""
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""A marker in a JPEG file, other than stuffed bytes and restarts within a scan."""
_SCAN, _END = 0xDA, 0xD9
_LOST = re.compile(r"Corrupt JPEG data: (?!.* extraneous bytes before marker 0x(?!d[0-7]))")
"""The warnings of libjpeg that mean missing pixels. Extraneous bytes do not, except before a
restart marker, where pixels were skipped to resynchronise."""


def tells_of_lost_pixels(warning: str) -> bool:
    """Whether a warning of libjpeg means that part of the image was lost and filled with grey."""
    return _LOST.search(warning) is not None


def jpeg_scans(data: bytes) -> int:
    """The number of scans of a JPEG file, counted from marker to marker."""
    count, place = 0, 2
    while (found := _MARKER.search(data, place)) is not None and found[1][0] != _END:
        count += found[1][0] == _SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return count


def require_all_pixels(image: Image.Image, data: bytes) -> None:
    """Refuse a PNG file that lacks its last rows, which Pillow leaves black.

    The stream is unpacked a second time only if the last row is black or the file interlaced.

    Raises:
        UnreadableError: Pixels are missing.
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
    """How many bytes the filtered rows have, according to the header."""
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
    """How many bytes the stream of the default image unpacks to; counts no further than needed."""
    count, stream = 0, zlib.decompressobj()
    for kind, packed in _chunks(data):
        while kind == b"IDAT" and packed and count < enough and not stream.eof:
            count += len(stream.decompress(packed, PIECE))
            packed = stream.unconsumed_tail
    return count + (0 if stream.eof else len(stream.flush()))


def png_chunk(data: bytes, kind: bytes) -> bytes:
    """The content of the first chunk of a kind; empty if there is none before the pixels."""
    for found, content in _chunks(data):
        if found == kind:
            return content
        if found == b"IDAT":
            break
    return b""


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the content of each chunk of a PNG file."""
    place = 8
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind == b"IEND":
            return
        yield kind, data[place + 8 : place + 8 + length]
        place += length + 12


class FirstOfGif(NamedTuple):
    """A GIF file cut after its first image, and whether another image followed."""

    data: bytes
    more: bool


def first_of_gif(data: bytes) -> FirstOfGif:
    """Cut a GIF file after its first image: if that one's stream ends early, decoders would take
    what follows for its pixels. Files of other formats, and broken ones, are returned unchanged.

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
    """How many bytes the colour table has, according to the flags."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _image_descriptor(data: bytes, place: int) -> int | None:
    """Where the next image begins, after any extensions; None if no image follows."""
    with suppress(IndexError):
        while data[place] == 0x21:
            place = _behind_blocks(data, place + 2)
        return place if data[place] == 0x2C else None
    return None


def _behind_blocks(data: bytes, place: int) -> int:
    """The place after a sequence of blocks, each preceded by its length; an empty one ends it."""
    while data[place]:
        place += data[place] + 1
    return place + 1
