"""Two hundred files that are no sound images, or odd ones, each with a name and its fate."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from encoding import FORMATS, MODES, chunk, encoded, grey_tiff, png, rows, tiff

Fate = Literal["read", "refused", "either"]


class Case(NamedTuple):
    """A file to decode as three channels, and what must become of it."""

    name: str
    data: bytes
    fate: Fate


def cut() -> Iterator[Case]:
    for form in FORMATS:
        whole = encoded(form)
        for share in (2, 10, 30, 50, 70, 90):
            yield Case(f"{form} cut at {share}%", whole[: len(whole) * share // 100], "refused")
        yield Case(f"{form} without its last byte", whole[:-1], "either")
        yield Case(f"{form} with more behind it", whole + b"more" * 100, "read")
        # A second codestream is no end of the first to the decoder of JPEG 2000.
        fate: Fate = "refused" if form == "JPEG2000" else "read"
        yield Case(f"{form} twice", whole * 2, fate)
        yield Case(f"{form} behind a line of text", b"text\n" + whole, "refused")
        yield Case(f"only the first bytes of {form}", whole[:12], "refused")
        yield Case(f"zeros behind the first bytes of {form}", whole[:16] + bytes(4000), "refused")


def sound() -> Iterator[Case]:
    for form, modes in MODES.items():
        for mode in modes:
            yield Case(f"{form} {mode}", encoded(form, mode), "read")
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        frames = [Image.new("RGB", (80, 64), colour) for colour in ("red", "lime", "blue")]
        yield Case(f"{form} of four", encoded(form, save_all=True, append_images=frames), "read")
    for number in (0, 1, 6, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = number
        yield Case(f"turned by {number}", encoded("JPEG", exif=exif), "read")
    for number, block in enumerate(
        (b"", b"garbage", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff")
    ):
        yield Case(f"broken EXIF {number}", encoded("JPEG", exif=b"Exif\0\0" + block), "read")
    for mode, value in (("F", float("nan")), ("F", -1.0), ("F", 1e9), ("I", -5), ("I", 2**30)):
        file = io.BytesIO()
        Image.new(mode, (4, 4), value).save(file, "TIFF")
        yield Case(f"TIFF {mode} {value}", file.getvalue(), "refused")
    for height, width in ((1, 1), (1, 5000), (5000, 1), (3, 64)):
        file = io.BytesIO()
        Image.new("RGB", (width, height)).save(file, "JPEG")
        yield Case(f"JPEG {height} x {width}", file.getvalue(), "read")


def foreign() -> Iterator[Case]:
    contents = {
        "nothing": b"", "one zero": b"\0", "zeros": bytes(5000), "text": b"not an image\n" * 50,
        "a page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "an SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9"/>',
        "JSON": b'{"error": "denied"}', "a pickle": pickle.dumps([1]),
        "gzip": gzip.compress(b"x" * 99),
        "a PDF": b"%PDF-1.7\n" * 40,
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "zip": b"PK\x03\x04" + bytes(100), "MP4": b"\0\0\0\x20ftypisom" + bytes(99),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(99), "PSD": b"8BPS\0\x01" + bytes(99),
        "FITS": b"SIMPLE  =                    T" + b" " * 3000,
        "an XBM": b"#define a_width 9\n" * 9,
        "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\nsize 9\n",
        "noise": np.random.default_rng(1).bytes(4096),
    }  # fmt: skip
    for name, data in contents.items():
        yield Case(name, data, "refused")
    for form in ("ICO", "TGA", "PCX", "DDS", "ICNS", "SGI"):
        yield Case(f"a sound {form}", encoded(form), "refused")


def huge() -> Iterator[Case]:
    for width, height in ((0, 4), (4, 0), (10**5, 10**5), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)):
        yield Case(
            f"PNG said to be {height} x {width}", png(rows(), width=width, height=height), "refused"
        )
        tif = grey_tiff(width=width, height=height)
        yield Case(f"TIFF said to be {height} x {width}", tif, "refused")
    bmp = encoded("BMP")
    for width, height in ((2**31 - 1, 2**31 - 1), (60000, 60000), (-4, 4), (0, 0), (4, -(2**31))):
        data = bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
        yield Case(f"BMP said to be {height} x {width}", data, "refused")
    gif = encoded("GIF")
    yield Case("GIF said to be 65535 x 65535", gif[:6] + b"\xff" * 4 + gif[10:], "refused")
    jpeg = encoded("JPEG")
    start = jpeg.index(b"\xff\xc0") + 5
    for height, width in ((65500, 65500), (0, 64), (64, 0), (65500, 80)):
        data = jpeg[:start] + struct.pack(">HH", height, width) + jpeg[start + 4 :]
        fate: Fate = "either" if width == 80 else "refused"  # all rows that it says are grey
        yield Case(f"JPEG said to be {height} x {width}", data, fate)
    side = 5_000
    flat = zlib.compress(bytes(side + 1) * side)
    large = png(chunk(b"IDAT", flat), width=side, height=side, colour=0)
    yield Case("PNG of 5000 x 5000 in 25 kB", large, "either")
    yield Case("WEBP header of 16383 x 16383", _webp_header(16383), "refused")


def _webp_header(side: int) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + struct.pack("<I", side - 1)[:3] * 2
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bombs() -> Iterator[Case]:
    zeros = zlib.compress(bytes(40 * 2**20))
    pixels = rows()
    yield Case("PNG with 40 MB of text", png(chunk(b"zTXt", b"a\0\0" + zeros), pixels), "either")
    yield Case(
        "PNG with 40 MB of Unicode", png(chunk(b"iTXt", b"a\0\1\0\0\0" + zeros), pixels), "either"
    )
    yield Case("PNG with 40 MB of profile", png(chunk(b"iCCP", b"a\0\0" + zeros), pixels), "either")
    yield Case("PNG with 40 MB of pixels for 48", png(chunk(b"IDAT", zeros)), "either")
    notes = chunk(b"tEXt", b"a\0" + b"b" * 100) * 50_000
    yield Case("PNG with 50000 notes", png(notes, pixels), "either")
    frames = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    yield Case("PNG said to have two billion frames", png(frames, pixels), "either")
    gif = encoded("GIF", side=8)
    frame = gif[gif.index(b",", 13 + 768) : -1]
    yield Case("GIF of 20000 frames", gif[:-1] + frame * 20_000 + b";", "read")
    yield Case(
        "GIF of nothing but extensions",
        gif[: 13 + 768] + b"!\xff\x01a\0" * 50_000 + b";",
        "refused",
    )
    yield Case("TIFF whose second page is its first", grey_tiff(following=8), "read")
    yield Case("TIFF with 40 MB of deflated pixels for 16", _deflated_tiff(zeros), "either")
    yield Case(
        "TIFF with four billion strips",
        tiff((256, 4, 1, 4), (257, 4, 1, 4), (273, 4, 2**32 - 1, 8)),
        "refused",
    )
    jpeg = encoded("JPEG")
    app = b"\xff\xe1" + struct.pack(">H", 65535) + bytes(65533)
    yield Case("JPEG with 16 MB of EXIF", jpeg[:2] + app * 250 + jpeg[2:], "either")
    comments = b"\xff\xfe\0\x02" * 50_000
    yield Case("JPEG with 50000 comments", jpeg[:2] + comments + jpeg[2:], "either")
    yield Case("JPEG with 200000 fill bytes", jpeg[:2] + b"\xff" * 200_000 + jpeg[2:], "either")
    yield Case("JPEG of 2000 scans", scan_bomb(2000), "refused")
    yield Case("JPEG with a broken profile", encoded("JPEG", icc_profile=b"x" * 500_000), "read")


def scan_bomb(scans: int, side: int = 2000) -> bytes:
    """A progressive image whose last scan comes again and again: every one is walked through."""
    file = io.BytesIO()
    Image.new("L", (side, side), 77).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def _deflated_tiff(data: bytes) -> bytes:
    head = grey_tiff(compression=8, bytes=len(data))
    return head[:122] + data


def broken() -> Iterator[Case]:
    pixels = rows()
    bad = bytearray(png(pixels))
    bad[29] ^= 1
    yield Case("PNG with a wrong sum of its header", bytes(bad), "refused")
    yield Case("PNG without pixels", png(), "refused")
    yield Case("PNG with empty pixels", png(chunk(b"IDAT", b"")), "refused")
    yield Case("PNG with pixels that are not deflated", png(chunk(b"IDAT", b"x" * 50)), "refused")
    yield Case("PNG with half its pixels", png(rows(height=2)), "refused")
    yield Case("PNG with an unknown filter", png(rows(filtered=9)), "either")
    yield Case("PNG without its palette", png(pixels, colour=3), "either")
    yield Case("PNG of an unknown colour", png(pixels, colour=5), "refused")
    yield Case("PNG of 7 bits", png(pixels, depth=7), "refused")
    yield Case(
        "PNG with a chunk of 4 GB", png(chunk(b"tEXt", b"a\0b", 2**32 - 1), pixels), "refused"
    )
    yield Case("PNG with two headers", png(chunk(b"IHDR", bytes(13)), pixels), "either")
    jpeg = encoded("JPEG")
    for name, mark in (
        ("quantisation", b"\xff\xdb"),
        ("Huffman", b"\xff\xc4"),
        ("frame", b"\xff\xc0"),
    ):
        place = jpeg.index(mark)
        (length,) = struct.unpack(">H", jpeg[place + 2 : place + 4])
        without = jpeg[:place] + jpeg[place + 2 + length :]
        yield Case(
            f"JPEG without a {name} table", without, "either" if name == "Huffman" else "refused"
        )
        yield Case(
            f"JPEG with a {name} table of no length",
            jpeg[: place + 2] + b"\0\0" + jpeg[place + 4 :],
            "refused",
        )
    scan = jpeg.index(b"\xff\xda")
    yield Case("JPEG without a scan", jpeg[:scan] + jpeg[-2:], "refused")
    yield Case(
        "JPEG with a scan of ones", jpeg[: scan + 14] + b"\xff\0" * 400 + jpeg[-2:], "either"
    )
    yield Case(
        "JPEG of 12 bits", jpeg.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "refused"
    )
    yield Case("JPEG said to be arithmetic", jpeg.replace(b"\xff\xc0", b"\xff\xc9"), "either")
    gif = encoded("GIF", side=8)
    start = gif.index(b",", 13 + 768)
    yield Case("GIF without an image", gif[: 13 + 768] + b";", "refused")
    yield Case(
        "GIF with codes of 15 bits", gif[: start + 10] + b"\x0f" + gif[start + 11 :], "either"
    )
    yield Case(
        "GIF image outside its canvas",
        gif[: start + 1] + b"\xf0\xff" * 2 + gif[start + 5 :],
        "either",
    )
    bmp = encoded("BMP")
    for name, place, value in (
        ("0 bits", 28, 0), ("9 bits", 28, 9), ("an unknown compression", 30, 77),
        ("pixels beyond its end", 10, 60000), ("a header of 7 bytes", 14, 7),
    ):  # fmt: skip
        data = bmp[:place] + struct.pack("<H", value) + bmp[place + 2 :]
        yield Case(f"BMP with {name}", data, "refused")
    for name, changed in {
        "an unknown compression": {"compression": 4711}, "0 bits": {"bits": 0},
        "99 bits": {"bits": 99},
        "pixels beyond its end": {"offset": 10**6}, "no rows in a strip": {"rows": 0},
        "JPEG pixels that are none": {"compression": 7},
        "fax pixels that are none": {"compression": 4},
        "LZW pixels that are none": {"compression": 5}, "300 samples": {"samples": 300},
    }.items():  # fmt: skip
        yield Case(f"TIFF with {name}", grey_tiff(**changed), "either")
    yield Case(
        "TIFF whose directory is beyond its end", b"II*\0" + struct.pack("<I", 10**6), "refused"
    )
    yield Case("TIFF without a tag", tiff(), "refused")
    webp = encoded("WEBP")
    for name, size in (("0", 0), ("4 GB", 2**32 - 1), ("half", len(webp) // 2)):
        data = webp[:4] + struct.pack("<I", size) + webp[8:]
        yield Case(f"WEBP said to have {name} bytes", data, "either")
    yield Case("WEBP of an unknown chunk", webp[:12] + b"ABCD" + webp[16:], "refused")


def named_cases() -> list[Case]:
    """All of them; names differ."""
    cases = [case for group in (cut, sound, foreign, huge, bombs, broken) for case in group()]
    assert len({case.name for case in cases}) == len(cases)
    return cases
