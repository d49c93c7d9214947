"""Images that end early are refused, not filled up with black or grey."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from beit.data.decode import decode, decode_first
from beit.data.truncation import png_lacks_pixels, tells_of_lost_pixels
from beit.errors import UnreadableError
from encoding import MODES, chunk, encoded, png

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip


def interlaced(pixels: np.ndarray, lost: int = 0) -> bytes:
    """A grey image in seven passes, without that many bytes at its end."""
    stream = b"".join(
        b"\0" + row.tobytes()
        for left, top, across, down in PASSES
        for row in pixels[top::down, left::across]
        if row.size
    )
    height, width = pixels.shape
    packed = chunk(b"IDAT", zlib.compress(stream[: len(stream) - lost]))
    plain = png(packed, width=width, height=height, colour=0)
    header = plain[16:28] + b"\1"
    return plain[:8] + chunk(b"IHDR", header) + plain[33:]


@pytest.mark.parametrize("mode", MODES["PNG"])
@pytest.mark.parametrize("side", [1, 7, 64])
def test_every_whole_png_is_whole(mode: str, side: int) -> None:
    assert not png_lacks_pixels(encoded("PNG", mode, side))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 2), (13, 40)])
def test_interlaced(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, size, dtype=np.uint8)
    np.testing.assert_array_equal(decode(interlaced(pixels), channels=1)[..., 0], pixels)
    for lost in (1, size[1]):
        with pytest.raises(UnreadableError, match=r"pixels are missing|truncated"):
            decode(interlaced(pixels, lost))


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_png_whose_stream_ends_early_is_refused(rows: int, pieces: int) -> None:
    """It ends cleanly, and Pillow would leave the rest black."""
    packed = zlib.compress(b"\0abcdefghijkl" * rows)
    step = -(-len(packed) // pieces)
    data = png(*(chunk(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step)))
    with pytest.raises(UnreadableError, match="pixels are missing: its stream ends before"):
        decode(data)


def test_a_black_last_row_and_bytes_too_many_are_no_fault() -> None:
    rows = b"\0abcdefghijkl" * 3 + bytes(13)
    for more in (b"", bytes(100)):
        assert decode(png(chunk(b"IDAT", zlib.compress(rows + more)))).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("warning", "lost"),
    [
        ("Corrupt JPEG data: premature end of data segment", True),
        ("Corrupt JPEG data: bad Huffman code", True),
        ("Corrupt JPEG data: found marker 0xd3 instead of RST2", True),
        ("Corrupt JPEG data: 9 extraneous bytes before marker 0xd4", True),
        ("Corrupt JPEG data: 9 extraneous bytes before marker 0xd9", False),
        ("Invalid SOS parameters for sequential JPEG", False),
        ("Unsupported marker type 0x08", False),
    ],
)
def test_warnings_of_libjpeg(warning: str, lost: bool) -> None:
    assert tells_of_lost_pixels(warning) == lost


def gif_stream(data: bytes) -> tuple[int, bytes, int]:
    """Where the codes of the first image begin, the codes, and where their last block ends."""
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[place] == 0x21:
        place += 2
        while data[place]:
            place += data[place] + 1
        place += 1
    flags = data[place + 9]
    start = place = place + 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    codes = b""
    while data[place]:
        codes += data[place + 1 : place + 1 + data[place]]
        place += data[place] + 1
    return start, codes, place


def blocks(codes: bytes) -> bytes:
    pieces = (codes[at : at + 255] for at in range(0, len(codes), 255))
    return b"".join(bytes([len(piece)]) + piece for piece in pieces)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_gif_whose_stream_ends_early_is_refused(frames: int) -> None:
    """What follows, a second image above all, is not decoded as the rest of the first."""
    first = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    more = [Image.new("L", (32, 32), shade) for shade in (9, 99)][: frames - 1]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=more)
    data = file.getvalue()
    np.testing.assert_array_equal(decode(data, channels=1)[..., 0], np.asarray(first))
    start, codes, end = gif_stream(data)
    assert data[start:end] == blocks(codes)
    for kept in range(len(codes) - 4):
        with pytest.raises(UnreadableError):
            decode(data[:start] + blocks(codes[:kept]) + data[end:])


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_more_images_in_a_file_are_told(form: str) -> None:
    more = [Image.new("RGB", (80, 64), colour) for colour in ("red", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    several = decode_first(encoded(form, save_all=True, append_images=more, **options))
    alone = decode_first(encoded(form, **options))
    assert several.multi_frame
    assert not alone.multi_frame
    if form != "GIF":  # whose palette follows from all of them
        np.testing.assert_array_equal(several.pixels, alone.pixels)


def test_what_follows_a_gif_may_be_cut() -> None:
    more = [Image.new("RGB", (80, 64), colour) for colour in ("red", "lime")]
    data = encoded("GIF", save_all=True, append_images=more)
    whole, (_, _, end) = decode(data), gif_stream(data)
    for kept in (end + 1, end + 9, len(data) - 1):
        np.testing.assert_array_equal(decode(data[:kept]), whole)
