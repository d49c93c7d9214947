"""Mask files to values, in every form they come in, or refused with the reason."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from beit.data.mask_files import count_values, read_mask, written
from beit.errors import UnreadableError
from encoding import chunk, png, turned

LABELS = np.array([[0, 1, 2], [3, 254, 255]], np.uint8)
FEW = np.array([[0, 1, 2, 3, 0], [3, 2, 1, 0, 3]], np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **({"photometric": "minisblack"} | options))
    return file.getvalue()


def indexed(labels: np.ndarray) -> Image.Image:
    """Its colours say nothing of the labels."""
    image = Image.fromarray(labels)
    image.putpalette([(7 * value) % 256 for value in range(768)])
    return image


def packed(labels: np.ndarray, bits: int) -> bytes:
    """The rows of a file with several pixels in a byte, each padded to whole bytes."""
    height, width = labels.shape
    each = 8 // bits
    padded = np.zeros((height, -(-width // each) * each), np.uint8)
    padded[:, :width] = labels
    shifts = np.arange(8 - bits, -1, -bits)
    rows = (padded.reshape(height, -1, each) << shifts).sum(axis=2).astype(np.uint8)
    return rows.tobytes()


def grey_png(labels: np.ndarray, bits: int) -> bytes:
    """As programs that shrink PNG files write few grey levels."""
    height, width = labels.shape
    rows = packed(labels, bits)
    step = len(rows) // height
    lines = b"".join(b"\0" + rows[at : at + step] for at in range(0, len(rows), step))
    data = chunk(b"IDAT", zlib.compress(lines))
    return png(data, width=width, height=height, depth=bits, colour=0)


def grey_tiff(labels: np.ndarray, bits: int, photometric: int = 1) -> bytes:
    height, width = labels.shape
    body = packed(labels, bits)
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 122),
               (277, 1), (278, height), (279, len(body))]  # fmt: skip
    header = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    for number, value in entries:
        header += number.to_bytes(2, "little") + (3).to_bytes(2, "little")
        header += (1).to_bytes(4, "little") + value.to_bytes(4, "little")
    return (header + bytes(4)).ljust(122, b"\0") + body


@pytest.mark.parametrize(
    "data",
    [
        encoded(indexed(LABELS)),
        encoded(LABELS),
        encoded(LABELS.astype(np.uint16)),
        encoded(np.dstack([LABELS] * 3)),
        encoded(np.dstack([LABELS] * 3 + [np.full_like(LABELS, 255)])),
        encoded(Image.merge("LA", [Image.fromarray(LABELS), Image.new("L", (3, 2), 255)])),
        encoded(indexed(LABELS), transparency=0),
        encoded(LABELS, "BMP"),
        encoded(LABELS, "TIFF"),
        tiff(LABELS.astype(np.uint16)),
        tiff(LABELS.astype(np.int32)),
        tiff(LABELS.astype(np.float32)),
        tiff(LABELS.astype(np.float64)),
        tiff(LABELS.astype(np.int64)),
        tiff(65535 - LABELS.astype(np.uint16), photometric="miniswhite"),
        tiff(255 - LABELS, photometric="miniswhite"),
    ],
)
def test_values_are_those_that_are_stored(data):
    assert np.array_equal(read_mask(data).values, LABELS)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("write", [grey_png, grey_tiff])
def test_few_bits_hold_their_values(write, bits):
    labels = np.minimum(FEW, 2**bits - 1)
    data = write(labels, bits)
    assert np.asarray(Image.open(io.BytesIO(data)).convert("L")).max() > 3  # as decoders show it
    assert np.array_equal(read_mask(data).values, labels)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_inverted_where_zero_is_white(bits):
    labels = np.minimum(FEW, 2**bits - 1)
    found = read_mask(grey_tiff(labels, bits, photometric=0)).values
    assert np.array_equal(found, 2**bits - 1 - labels)


def test_colours_are_codes_where_they_are_asked_for():
    image = np.array([[[255, 0, 0], [0, 16, 1]]], np.uint8)
    assert read_mask(encoded(image), colours=True).values.tolist() == [[0xFF0000, 0x001001]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([255, 0, 0, 0, 16, 1])
    assert read_mask(encoded(palette), colours=True).values.tolist() == [[0xFF0000, 0x001001]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_are_set_upright(orientation):
    stored, exif = turned(LABELS, orientation)
    assert np.array_equal(read_mask(encoded(stored, exif=exif)).values, LABELS)


@pytest.mark.parametrize("nodata", ["255", "-9999", "nan", "0"])
def test_what_gdal_calls_nodata_is_known(nodata):
    data = tiff(LABELS, extratags=[(42113, "s", 0, nodata, True)])
    assert written(read_mask(data).nodata) == nodata
    assert read_mask(tiff(LABELS)).nodata is None


HALF = Image.merge("LA", [Image.fromarray(LABELS), Image.fromarray(np.minimum(LABELS, 9))])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(np.dstack([LABELS, LABELS, LABELS.T.reshape(2, 3)])), "such as #01"),
        (encoded(HALF), "6 of its pixels are transparent"),
        (encoded(Image.new("L", (2, 2)), "JPEG"), "JPEG, which blurs labels"),
        (encoded(Image.new("L", (2, 2)), "WEBP", lossless=True), "WebP"),
        (tiff(np.dstack([LABELS.astype(np.uint16)] * 3), photometric="rgb"), "16 bits in each"),
        (tiff(np.stack([LABELS, LABELS])), "several images"),
        (encoded(LABELS, "GIF", save_all=True, append_images=[Image.fromarray(FEW[:, :3])]),
         "several images"),
        (tiff(LABELS.astype(np.complex64)), "values are complex64"),
        (encoded(Image.new("CMYK", (2, 2)), "TIFF"), "mode is CMYK"),
        (b"rubbish", "none of PNG"),
        (b"", "the file is empty"),
        (encoded(indexed(LABELS))[:50], "Error"),
    ],
)  # fmt: skip
def test_what_would_be_misread_is_refused(data, reason):
    with pytest.raises(UnreadableError, match=reason):
        count_values(read_mask(data).values)


def test_a_mask_that_ends_early_is_refused():
    """Decoders leave the rows that are missing black, which is a label."""
    labels = np.random.default_rng(0).integers(1, 200, (64, 64)).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in labels[:40])
    data = png(chunk(b"IDAT", zlib.compress(rows)), width=64, height=64, colour=0)
    with pytest.raises(UnreadableError, match=r"pixels are missing|truncated"):
        read_mask(data)


def test_values_are_counted():
    for kind in (np.uint8, np.uint16, np.int32, np.float32):
        found = count_values(FEW.astype(kind))
        assert (found.values.tolist(), found.pixels.tolist()) == ([0, 1, 2, 3], [3, 2, 2, 3])
    found = count_values(np.array([[np.nan, 0.5], [np.nan, -1]], np.float32))
    assert [written(value) for value in found.values] == ["-1", "0.5", "nan"]
    assert found.pixels.tolist() == [1, 1, 2]
