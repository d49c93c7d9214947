"""TIFF files of many bands: bits, bands in a page or in pages, and what is refused."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from beit.data.decode import decode, read_header
from beit.doctor import Finding
from beit.doctor.images import check_images
from beit.errors import UnreadableError

BANDS = 8
PIXELS = np.random.default_rng(0).integers(0, 65536, (16, 24, BANDS), dtype=np.uint16)


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack", **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [True, False])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_bands_of_a_page(byteorder: str, bigtiff: bool, compression: str | None) -> None:
    options = {"byteorder": byteorder, "bigtiff": bigtiff, "compression": compression}
    found = decode(tiff(PIXELS, planarconfig="contig", **options), channels=BANDS)
    assert found.dtype == np.uint8
    assert found.flags.writeable
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, PIXELS * (255 / 65535), atol=0.5001)


def test_planes_and_pages_are_the_same_image() -> None:
    planes = np.moveaxis(PIXELS, 2, 0)
    expected = decode(tiff(PIXELS, planarconfig="contig"), channels=BANDS)
    separate = tiff(planes, planarconfig="separate")
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for plane in planes:
            writer.write(plane, photometric="minisblack")
    for data in (separate, file.getvalue()):
        np.testing.assert_array_equal(decode(data, channels=BANDS), expected)


def test_eight_bits_stay_and_floats_are_scaled() -> None:
    eight = (PIXELS >> 8).astype(np.uint8)
    for pixels in (eight, (eight / 255).astype(np.float32)):
        found = decode(tiff(pixels, planarconfig="contig"), channels=BANDS)
        np.testing.assert_array_equal(found, eight)


def test_four_bands_of_sixteen_bits() -> None:
    found = decode(tiff(PIXELS[..., :4], planarconfig="contig"), channels=4)
    assert found.shape == (16, 24, 4)


def test_what_is_refused() -> None:
    data = tiff(PIXELS, planarconfig="contig")
    with pytest.raises(UnreadableError, match="8 bands in each of 1 pages, and 5 channels are"):
        decode(data, channels=5)
    with pytest.raises(UnreadableError, match="16 x 24 pixels are more than 100"):
        decode(data, channels=BANDS, pixel_limit=100)
    for cut in (20, len(data) // 2, len(data) - 1):
        with pytest.raises(UnreadableError):
            decode(data[:cut], channels=BANDS)
    with pytest.raises(UnreadableError, match="from -1 to"):
        decode(tiff(PIXELS.astype(np.int32) - 1 - PIXELS.min(), planarconfig="contig"), channels=8)


def test_many_bands_read_as_colours_are_named() -> None:
    for bands in (5, 13):
        pixels = np.zeros((16, 24, bands), np.uint16)
        data = tiff(pixels, planarconfig="contig")
        for channels in (1, 3):
            said = f"it has {bands} bands: models trained with --channels {bands} read them"
            with pytest.raises(UnreadableError, match=said):
                decode(data, channels=channels)
        assert decode(data, channels=bands).shape == (16, 24, bands)
    with pytest.raises(UnreadableError, match="begins as an image does, and the rest is cut off"):
        decode(data[:20])


@pytest.mark.parametrize(("kind", "name"), [(np.float32, "float32"), (np.float64, "float64")])
def test_numbers_that_are_not_decoded_are_named(kind: type, name: str) -> None:
    data = io.BytesIO()
    tifffile.imwrite(data, np.zeros((16, 24, 3), kind), photometric="rgb")
    with pytest.raises(UnreadableError, match=rf"TIFF file of {name} \(bands: 3\) that is not"):
        decode(data.getvalue())


def test_pillow_does_not_speak_for_itself(capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "import sys; from beit.data.decode import decode; from beit.errors import "
        "UnreadableError\ntry: decode(sys.stdin.buffer.read())\nexcept UnreadableError: pass"
    )
    data = tiff(np.zeros((16, 24, 13), np.uint16), planarconfig="contig")
    subprocess.run([sys.executable, "-c", script], input=data, check=True)
    assert capfd.readouterr() == ("", "")


def doctored(root: Path, channels: int) -> dict[str, Finding]:
    found = check_images(str(root), channels=channels, sample=9, size=0)
    return {one.subject: one for one in found}


def test_the_doctor_names_the_channels(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.tif").write_bytes(tiff(PIXELS + number, planarconfig="contig"))
    found = doctored(tmp_path, channels=3)
    assert "it has 8 bands: models trained with --channels 8" in found["unreadable"].found
    assert found["channels"].found == "read with 3; files: 3 of 8 bands"
    assert (found["channels"].level, "--channels 8" in found["channels"].change) == ("warn", True)
    assert not {"start", "advice"} & found.keys()  # no command could read them with 3
    found = doctored(tmp_path, channels=8)
    assert "unreadable" not in found
    assert found["channels"].level == "ok"
    assert "start" not in found  # no released model sees 8 channels
    assert "--channels 8" in found["advice"].change


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UnreadableError, match=r"pip install \"beit\[bands\]\""):
        decode(tiff_of_eight, channels=BANDS)


tiff_of_eight = tiff(PIXELS, planarconfig="contig")


def test_headers() -> None:
    header = read_header(tiff_of_eight)
    assert (header.format, header.mode, header.height, header.width) == ("TIFF", "8 bands", 16, 24)
    file = io.BytesIO()
    Image.new("RGB", (3, 4)).save(file, "TIFF")
    assert read_header(file.getvalue()).mode == "RGB"
