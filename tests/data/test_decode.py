"""Every mode to golden pixels, and every fault to one typed error."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from beit.data.decode import decode, read_header
from beit.errors import UnreadableError
from encoding import turned


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(height: int = 16, width: int = 24, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_are_exact(form: str) -> None:
    pixels = noise()
    options = {"lossless": True} if form == "WEBP" else {}
    decoded = decode(encoded(Image.fromarray(pixels), form, **options))
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_what_pillow_reads(
    monkeypatch: pytest.MonkeyPatch, mode: str, subsampling: int, progressive: bool
) -> None:
    image = Image.fromarray(noise(37, 51)).convert(mode)
    data = encoded(image, "JPEG", subsampling=subsampling, progressive=progressive)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # Pillow is not needed for it
    np.testing.assert_array_equal(decode(data), expected)


def fate(data: bytes, channels: int = 3) -> bytes | str:
    """The pixels, or why there are none."""
    try:
        return decode(data, channels=channels, pixel_limit=10**7).tobytes()
    except UnreadableError as error:
        return error.reason


def fate_with_pillow(data: bytes, channels: int = 3) -> bytes | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beit.data.decode._jpeg", lambda *_: None)
        return fate(data, channels)


@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_jpeg_has_the_fate_it_has_with_pillow_or_lacks_pixels(progressive: bool) -> None:
    data = encoded(Image.fromarray(noise()), "JPEG", progressive=progressive)
    generator = np.random.default_rng(2)
    damaged = [data[:length] for length in range(0, len(data), 3)]
    damaged += [data[:-1], data[:-2], data + b"more", data[:-2] + b"\0\0\0" + data[-2:]]
    for _ in range(200):
        mutated = bytearray(data)
        mutated[generator.integers(0, len(data))] = generator.integers(0, 256)
        damaged.append(bytes(mutated))
    # Cut, but with an end: Pillow makes the rest grey.
    damaged += [data[:-length] + data[-2:] for length in (20, 60)]
    fates = [(fate(one), fate_with_pillow(one)) for one in damaged]
    lacking = [str(ours).startswith("pixels are missing: Corrupt JPEG data") for ours, _ in fates]
    assert all(lacking[-2:])
    assert not any(lacking[:-202])
    assert all(
        ours == theirs for (ours, theirs), lost in zip(fates, lacking, strict=True) if not lost
    )
    assert {type(ours) for ours, _ in fates} == {bytes, str}


@pytest.mark.parametrize(("mode", "channels"), [("CMYK", 3), ("RGB", 1), ("L", 1)])
def test_other_jpeg_is_left_to_pillow(mode: str, channels: int) -> None:
    data = encoded(Image.fromarray(noise()).convert(mode), "JPEG")
    assert fate(data, channels) == fate_with_pillow(data, channels)
    cut = data[:-60] + data[-2:]
    assert isinstance(fate_with_pillow(cut, channels), bytes)
    assert "pixels are missing" in str(fate(cut, channels))


@pytest.mark.parametrize(
    ("image", "form", "expected"),
    [
        (Image.new("1", (2, 2), 1), "PNG", (255, 255, 255)),
        (Image.new("L", (2, 2), 77), "PNG", (77, 77, 77)),
        (Image.new("LA", (2, 2), (0, 51)), "PNG", (204, 204, 204)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), "PNG", (255, 204, 204)),
        (Image.new("RGBA", (2, 2), (9, 9, 9, 0)), "PNG", (255, 255, 255)),
        (Image.new("CMYK", (2, 2), (51, 0, 255, 51)), "TIFF", (163, 204, 0)),
        (Image.new("I;16", (2, 2), 65535), "PNG", (255, 255, 255)),
        (Image.new("I;16", (2, 2), 257 * 100), "PNG", (100, 100, 100)),
        (Image.new("I;16", (2, 2), 255), "TIFF", (1, 1, 1)),
        (Image.new("I", (2, 2), 65535), "TIFF", (255, 255, 255)),
        (Image.new("I", (2, 2), 257 * 8), "TIFF", (8, 8, 8)),
        (Image.new("F", (2, 2), 1.0), "TIFF", (255, 255, 255)),
        (Image.new("F", (2, 2), 128.0), "TIFF", (128, 128, 128)),
        (Image.new("F", (2, 2), 65535.0), "TIFF", (255, 255, 255)),
    ],
)
def test_modes(image: Image.Image, form: str, expected: tuple[int, int, int]) -> None:
    data = encoded(image, form)
    decoded = decode(data)
    assert decoded.shape == (2, 2, 3)
    assert tuple(decoded[0, 0].tolist()) == expected
    grey = decode(data, channels=1)
    assert grey.shape == (2, 2, 1)
    assert grey[1, 1, 0] == np.asarray(Image.fromarray(decoded).convert("L"))[1, 1]


def test_big_endian_sixteen_bits() -> None:
    header = struct.pack(">2sHI", b"MM", 42, 8)
    fields = [(256, 3, 1, 1 << 16), (257, 3, 1, 1 << 16), (258, 3, 1, 16 << 16)]
    fields += [(259, 3, 1, 1 << 16), (262, 3, 1, 1 << 16), (273, 4, 1, 200), (279, 4, 1, 2)]
    entries = b"".join(struct.pack(">HHII", *field) for field in fields)
    data = header + struct.pack(">H", len(fields)) + entries + bytes(4)
    data = data.ljust(200, b"\0") + struct.pack(">H", 0x8080)
    assert decode(data).tolist() == [[[128, 128, 128]]]


def test_palette_with_transparency_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 255, 0, 0])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image)).tolist() == [[[10, 20, 30], [255, 0, 0]]]
    assert decode(encoded(image, transparency=1)).tolist() == [[[10, 20, 30], [255] * 3]]
    partly = encoded(image, transparency=bytes([255, 51]))
    assert decode(partly).tolist() == [[[10, 20, 30], [255, 204, 204]]]


@pytest.mark.parametrize(("mode", "value"), [("L", 7), ("RGB", (1, 2, 3))])
def test_transparent_colour_of_png_lies_over_white(mode: str, value: Any) -> None:
    image = Image.new(mode, (1, 1), value)
    assert decode(encoded(image, transparency=value)).tolist() == [[[255, 255, 255]]]


def test_lab_agrees_with_colour_management() -> None:
    rgb = Image.fromarray(noise(20, 20) // 2 + 64)
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.createProfile("sRGB")
    image = ImageCms.applyTransform(rgb, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    back = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    difference = decode(encoded(image, "TIFF")).astype(int) - np.asarray(back).astype(int)
    assert np.abs(difference).mean() < 1
    assert np.percentile(np.abs(difference), 99) <= 4


def test_uncompressed_ycbcr_is_read_or_named() -> None:
    image = Image.fromarray(noise()).convert("YCbCr")
    np.testing.assert_array_equal(decode(encoded(image, "TIFF")), np.asarray(image.convert("RGB")))
    with pytest.raises(UnreadableError, match="subsampled YCbCr"):
        decode(encoded(image, "TIFF", tiffinfo={530: (2, 2)}))


def test_cmyk_jpeg_follows_the_formula() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (51, 0, 255, 51)), "JPEG", quality=100)
    assert np.abs(decode(data)[4, 4].astype(int) - (163, 204, 0)).max() <= 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, form: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = (250, 10, 10)
    upright[8:, 24:] = (10, 10, 250)
    stored, exif = turned(upright, orientation)
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    options |= {"lossless": True} if form == "WEBP" else {}
    data = encoded(Image.fromarray(stored), form, exif=exif, **options)
    difference = decode(data).astype(int) - upright.astype(int)
    assert np.abs(difference).max() <= (6 if form == "JPEG" else 0)


@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_broken_exif_does_not_matter(block: bytes) -> None:
    data = encoded(Image.fromarray(noise()), "JPEG", exif=block)
    assert decode(data).shape == (16, 24, 3)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_image_of_many(form: str) -> None:
    images = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(images[0], form, save_all=True, append_images=images[1:], **options)
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.9])
def test_truncated_files_are_refused(form: str, share: float) -> None:
    data = encoded(Image.fromarray(noise(64, 64)), form)
    with pytest.raises(UnreadableError) as caught:
        decode(data[: int(len(data) * share)])
    assert caught.value.reason


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"hello" * 99, b"<html><body>404</body></html>", bytes(5000), b"\xff\xd8\xff"],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        decode(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_mutations_decode_or_are_refused(form: str) -> None:
    data = encoded(Image.fromarray(noise()), form)
    generator = np.random.default_rng(1)
    for _ in range(60):
        mutated = bytearray(data)
        for place in generator.integers(0, len(data), 3):
            mutated[place] = generator.integers(0, 256)
        with contextlib.suppress(UnreadableError):
            assert decode(bytes(mutated), pixel_limit=10**7).shape[2] == 3


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\n<!DOCTYPE HTML><title>404", "a web page"),
    ],
)
def test_what_often_stands_in_place_of_an_image_is_named(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableError, match=words):
        decode(data)


@pytest.mark.parametrize("form", ["ICO", "TGA", "PCX", "PDF"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(UnreadableError, match="none of JPEG"):
        decode(encoded(Image.fromarray(noise()), form))


def test_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    def bomb(width: int, height: int) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")

    with pytest.raises(UnreadableError, match="pixels are more than 1000000"):
        decode(bomb(10_000, 10_000), pixel_limit=1_000_000)
    with pytest.raises(UnreadableError, match=r"100000 x 100000|exceeds limit"):
        decode(bomb(100_000, 100_000))


def test_threads_leave_the_warning_filters_alone() -> None:
    before = list(warnings.filters)
    data = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(decode, [data] * 64))
    assert list(warnings.filters) == before


def test_other_channel_counts() -> None:
    four = noise(4, 4, 4)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(four), "TIFF"), channels=4), four)
    with pytest.raises(UnreadableError, match="3 bands in each of 1 pages, and 5 channels"):
        decode(encoded(Image.fromarray(noise()), "TIFF"), channels=5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1.2, 300.0, 4000.0, 1e9])
def test_floats_without_a_usual_range_are_refused(value: float) -> None:
    with pytest.raises(UnreadableError, match=r"not finite|convert them to 0 to 1"):
        decode(encoded(Image.new("F", (2, 2), value), "TIFF"))


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("PPM", "RGB", {}), ("PPM", "L", {}), ("JPEG2000", "RGB", {}), ("JPEG2000", "L", {}),
        ("AVIF", "RGB", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)  # fmt: skip
def test_pixels_of_less_usual_formats(form: str, mode: str, options: dict[str, object]) -> None:
    image = Image.fromarray(noise()).convert(mode)
    file = io.BytesIO()
    image.save(file, form, **options)  # type: ignore[arg-type]
    found = decode(file.getvalue()).astype(int)
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(found - expected).max() <= (3 if form == "AVIF" else 0)  # YCbCr in 8 bits
    assert read_header(file.getvalue()).format == form


def test_an_avif_that_was_turned_is_set_upright() -> None:
    upright_pixels = np.zeros((16, 32, 3), np.uint8)
    upright_pixels[:, :16] = 255
    stored, exif = turned(upright_pixels, 6)
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "AVIF", exif=exif)
    found = decode(file.getvalue())
    assert found.shape == (16, 32, 3)
    assert found[:, :12].min() > 200
    assert found[:, 20:].max() < 50
