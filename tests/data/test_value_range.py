"""Values of more than eight bits: from the file's own range, from the one given, or refused."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from beit.config import LoaderConfig
from beit.data.dataset import open_source
from beit.data.decode import decode
from beit.data.images import Images, check_readable, narrow_note, range_note
from beit.doctor.check import check
from beit.errors import BeitError, ConfigError, UnreadableError
from encoding import chunk

GREY = np.arange(64, dtype=np.uint16).reshape(8, 8)
TWELVE = GREY * 65  # 0 to 4095
EIGHT = np.rint(TWELVE * (255 / 4095)).astype(np.uint8)


def png(values: np.ndarray, significant: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    data = file.getvalue()
    return data[:33] + chunk(b"sBIT", bytes([significant])) + data[33:] if significant else data


def tiff(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    options = {"photometric": "minisblack"} | options
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def tag(number: int, value: int) -> list[tuple]:
    return [(number, "H", 1, value, True)]


def grey(data: bytes, **options) -> np.ndarray:
    return decode(data, channels=1, **options)[..., 0]


@pytest.mark.parametrize("encoded", [png, tiff])
def test_a_range_keeps_the_levels_of_twelve_bits(encoded):
    assert np.array_equal(grey(encoded(TWELVE), value_range=(0, 4095)), EIGHT)
    assert len(np.unique(grey(encoded(TWELVE)))) == 17  # what is left without
    with pytest.raises(UnreadableError, match="from 0 to 4095, and value_range is 0 to 1023"):
        grey(encoded(TWELVE), value_range=(0, 1023))


def test_eight_bits_have_no_other_range():
    values = GREY.astype(np.uint8)
    assert np.array_equal(grey(png(values), value_range=(0, 4095)), values)


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_whole_numbers_up_to_255_are_of_eight_bits_already(kind):
    values = GREY.astype(kind)
    assert np.array_equal(grey(tiff(values)), values)
    assert grey(tiff(values * 5)).max() == 1  # 315 of 65535


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32])
def test_a_range_may_begin_below_zero(kind):
    values = (GREY.astype(kind) - 10) * 50
    found = grey(tiff(values), value_range=(-500, 2650))
    assert (found.min(), found.max(), len(np.unique(found))) == (0, 255, 64)
    if kind is np.float32:
        values[0, 0] = np.nan
        with pytest.raises(UnreadableError, match="not finite"):
            grey(tiff(values), value_range=(-500, 2650))


@pytest.mark.parametrize("number", [281, 341])
def test_the_largest_sample_value_of_tiff_is_a_range_if_it_is_one(number):
    assert np.array_equal(grey(tiff(TWELVE, extratags=tag(number, 4095))), EIGHT)
    # The largest value of one image, which would stretch each image on its own:
    assert len(np.unique(grey(tiff(TWELVE - 5, extratags=tag(number, 4090))))) < 20
    # A statement that the values contradict:
    assert np.array_equal(grey(tiff(TWELVE, extratags=tag(number, 1023))), grey(tiff(TWELVE)))


def test_twelve_packed_bits_of_tiff_are_a_range():
    """Two values in three bytes, one strip."""
    first, second = TWELVE.reshape(-1, 2).T.astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1)
    body = packed.astype(np.uint8).tobytes()
    entries = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 8),
               (279, len(body))]  # fmt: skip
    header = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    for number, value in entries:
        header += number.to_bytes(2, "little") + (3).to_bytes(2, "little")
        header += (1).to_bytes(4, "little") + value.to_bytes(4, "little")
    data = (header + bytes(4)).ljust(122, b"\0") + body
    assert np.array_equal(grey(data), EIGHT)


def test_significant_bits_of_png_count_where_the_values_were_not_scaled():
    assert np.array_equal(grey(png(TWELVE, significant=12)), EIGHT)
    scaled = TWELVE << 4 | TWELVE >> 8  # as the standard has it
    assert np.array_equal(grey(png(scaled, significant=12)), grey(png(scaled)))
    dark = (GREY << 4).astype(np.uint16)  # scaled, and nothing brighter in the image
    assert np.array_equal(grey(png(dark, significant=12)), grey(png(dark)))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_white_zero_is_inverted_at_every_depth(depth):
    scale = np.iinfo(depth).max // 255
    values = (GREY * 4 * scale).astype(depth)
    assert np.array_equal(grey(tiff(values, photometric="miniswhite")), 255 - grey(tiff(values)))


def test_wide_colours_take_a_range_from_tiff_and_are_refused_from_png():
    colours = np.dstack([TWELVE, TWELVE.T, TWELVE[::-1]])
    found = decode(tiff(colours, photometric="rgb"), value_range=(0, 4095))
    assert np.array_equal(found, np.dstack([EIGHT, EIGHT.T, EIGHT[::-1]]))
    alpha = np.dstack([TWELVE, np.full_like(TWELVE, 65535)])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in alpha)
    header = png(GREY.astype(np.uint8))

    data = (
        header[:8]
        + chunk(b"IHDR", header[16:24] + bytes([16, 4, 0, 0, 0]))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    decode(data)
    with pytest.raises(UnreadableError, match="16 bits in each of several channels"):
        decode(data, value_range=(0, 4095))


def test_bands_take_a_range():
    values = np.dstack([TWELVE] * 5)
    found = decode(tiff(values, planarconfig="contig"), channels=5, value_range=(0, 4095))
    assert np.array_equal(found, np.dstack([EIGHT] * 5))


def test_images_are_read_by_the_range_of_the_loader(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png(TWELVE))
    source = open_source(str(tmp_path))
    assert narrow_note(source) == (
        "images of 16 bits hold at most 12 (of 2 looked at): grey levels are lost unless their "
        "range is given, as with --value-range 0 4095"
    )
    assert range_note((0, 4095)).endswith("from 0 to 4095 (--value-range)")
    for cache in (False, True):
        found = Images(source, 1, cache, value_range=(0, 4095)).read(1).pixels
        assert np.array_equal(found[..., 0], EIGHT)
    with pytest.raises(BeitError, match="value_range is 0 to 15"):
        check_readable(source, 1, (0, 15))
    (tmp_path / "c.png").write_bytes(png(GREY * 1000))
    assert narrow_note(open_source(str(tmp_path))) == ""


def test_a_check_finds_lost_levels_unless_one_image_uses_all_bits(tmp_path):
    (tmp_path / "a.png").write_bytes(png(TWELVE))
    found = check(str(tmp_path), channels=1)
    assert ("narrow", "values up to 4095, 12 of 16 bits: 17 of 64 levels are left") in [
        (one.kind, one.detail) for one in found.findings
    ]
    assert "narrow" not in check(str(tmp_path), channels=1, value_range=(0, 4095)).counts
    (tmp_path / "b.png").write_bytes(png(GREY * 1000))
    assert "narrow" not in check(str(tmp_path), channels=1).counts


@pytest.mark.parametrize("wrong", [(5, 5), (9, 0), (0, float("inf")), (float("nan"), 1)])
def test_what_is_no_range(wrong, tmp_path):
    with pytest.raises(ConfigError, match="value_range"):
        LoaderConfig(value_range=wrong)
