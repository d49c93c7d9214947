"""What is skipped is counted, with the reason; and the account travels as lines and as JSON."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.cli import main
from beit.data import listing
from beit.data.account import Account, Skipped, SkippedFiles, account_from_json
from beit.data.dataset import open_source
from beit.data.decode import decode
from beit.data.file_types import IMAGE_EXTENSIONS
from beit.data.sources import ImageSource
from beit.doctor.check import check
from encoding import encoded

Draw = Callable[..., Path]
JPEG, PNG, AVIF, JP2 = (encoded(form, side=24) for form in ("JPEG", "PNG", "AVIF", "JPEG2000"))
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
DICOM = bytes(128) + b"DICM" + bytes(40)


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return root


def keys(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def skipped(source: ImageSource) -> dict[tuple[str, str], int]:
    return {(one.reason, one.extension): one.count for one in source.account.skipped}


def test_what_the_decoder_reads_is_read_whatever_its_name(tmp_path: Path) -> None:
    files = {
        "1.JPG": JPEG, "2.jfif": JPEG, "3.jpe": JPEG, "4.mpo": encoded("MPO"), "5.avif": AVIF,
        "6.jp2": JP2, "7.ppm": encoded("PPM"), "8.pgm": encoded("PPM", "L"), "9": PNG,
        "10.jpg?w=640": JPEG, "11.jpg.1": JPEG, "12.jpg_large": JPEG, "13.tmp": PNG,
        "14.dat": AVIF, "15.x": JP2, "16.y": encoded("WEBP"), "17.z": encoded("GIF"),
        "18.b": encoded("BMP"), "19.c": encoded("TIFF"), "20.d": encoded("PPM"),
    }  # fmt: skip
    source = open_source(str(write(tmp_path, files)))
    assert keys(source) == list(files)
    assert not source.account.skipped
    for index in range(len(source)):
        assert decode(source.read(index).data).dtype == np.uint8


def test_what_is_skipped_is_counted_by_reason_and_extension(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "1.png": PNG, "a.heic": HEIC, "b.HEIC": HEIC, "c": HEIC, "scan.dcm": DICOM,
            "scan": DICOM, "notes.txt": b"x", "odd.xyz": b"x" * 200, "empty": b"",
            ".hidden.png": PNG, "Thumbs.db": b"x", "desktop.ini": b"x", "raw.CR2": b"x",
            "@eaDir/1.png/S.jpg": JPEG,
            "$RECYCLE.BIN/x/1.jpg": JPEG, "__MACOSX/._1.png": b"x", ".git/2.png": PNG,
            ".ipynb_checkpoints/1-checkpoint.png": PNG, "System Volume Information/x.jpg": JPEG,
            "lost+found/x.jpg": JPEG,
        },
    )  # fmt: skip
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "again").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    source = open_source(str(tmp_path))
    assert keys(source) == ["1.png"]
    found = skipped(source)
    heic = "HEIC is not decoded: convert it to JPEG or PNG"
    dicom = "DICOM is not decoded: convert it to PNG or TIFF with pydicom or dcm2img"
    assert found == {
        (heic, ".heic"): 2, (heic, ""): 1, (dicom, ".dcm"): 1, (dicom, ""): 1,
        ("not an image", ".txt"): 1, ("not an image", ".xyz"): 1, ("not an image", ""): 1,
        ("hidden", ".png"): 1, ("system file", ".db"): 1, ("system file", ".ini"): 1,
        ("a raw file of a camera: develop it to JPEG or TIFF", ".cr2"): 1,
        ("thumbnails", "/"): 1, ("system folder", "/"): 4, ("hidden", "/"): 2,
        ("a broken link, a pipe or a device", ".png"): 2,
        ("a link to a folder that is read already", "/"): 1,
    }  # fmt: skip
    (one,) = [each for each in source.account.skipped if each.extension == ".heic"]
    assert one.examples == ("a.heic", "b.HEIC")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_of_unknown_kind_that_may_not_be_read(tmp_path: Path) -> None:
    write(tmp_path, {"1.png": PNG, "secret": PNG})
    (tmp_path / "secret").chmod(0)
    assert skipped(open_source(str(tmp_path))) == {("unreadable: Permission denied", ""): 1}


def test_only_files_of_unknown_kinds_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    known = listing.known_by_head
    monkeypatch.setattr(listing, "known_by_head", lambda head: opened.append(head) or known(head))
    names = [f"x{extension}" for extension in IMAGE_EXTENSIONS]
    write(tmp_path, dict.fromkeys([*names, "y.txt", "z.zip", "w.heic", "v.dcm"], b""))
    assert len(open_source(str(tmp_path))) == len(names)
    assert not opened
    write(tmp_path, {"unknown.kind": PNG})
    assert len(open_source(str(tmp_path))) == len(names) + 1
    assert opened == [PNG[:132]]


def test_nothing_is_wrong_only_where_nothing_was_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    for number, pixels in enumerate(rows):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    assert main(["data", "check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing wrong or odd was found"
    write(tmp_path, {"a.heic": HEIC})
    assert main(["data", "check", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "skipped: 1 .heic (HEIC is not decoded: convert it to JPEG or PNG): a.heic" in told
    assert "in the images that are read; 1 skipped" in told
    assert check(str(tmp_path)).account == open_source(str(tmp_path)).account


def test_the_first_names_do_not_depend_on_the_order_they_are_met_in() -> None:
    names = [f"{number:03}.txt" for number in range(40)]
    random.Random(0).shuffle(names)
    files = SkippedFiles()
    for name in names:
        files.add("not an image", name)
    (found,) = files.found()
    assert (found.count, found.examples) == (40, ("000.txt", "001.txt", "002.txt"))


def test_names_that_end_in_numbers_are_one_kind(tmp_path: Path) -> None:
    write(tmp_path, {"1.png": PNG, **{f"scan.{number:06}": b"x" for number in range(30)}})
    assert skipped(open_source(str(tmp_path))) == {("not an image", ""): 30}


def test_lines_are_short_and_safe_to_print() -> None:
    account = Account(
        data="d\x1b[31m",
        layout="one folder per class",
        images={"train": 1200, "val": 3},
        classes={"train": {f"class {number}": 40 for number in range(30)}, "val": {"a\nb": 3}},
        skipped=tuple(
            Skipped(reason=f"reason {number}", extension=".x", count=20 - number, examples=("[b]",))
            for number in range(15)
        ),
        notes=("first", "second"),
    )
    lines = list(account.lines())
    assert lines[0] == r"data: d\x1b[31m: one folder per class"
    assert lines[1].startswith("  train: 1,200 images in 30 classes: class 0 40, ")
    assert lines[1].endswith(", and 18 more")
    assert lines[2] == r"  val: 3 images in 1 class: a\nb 3"
    assert lines[3] == "  skipped: 20 .x (reason 0): [b], ..."
    assert lines[15] == "  skipped: 21 of 3 other kinds"
    assert lines[16:] == ["  note: first", "  note: second"]
    assert account_from_json(account.to_json()) == account


def test_a_damaged_account_is_told(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"skipped": 3}', '{"skipped": [], "notes": [], "odd": 1}'):
        with pytest.raises((ValueError, TypeError, KeyError)):
            account_from_json(text)


def test_the_doctor_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from beit.doctor.images import check_images

    rows = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    for number, pixels in enumerate(rows):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        write(tmp_path, {f"train/{number % 2}/{number}.png": file.getvalue(), "x.heic": HEIC})
    found = {one.subject: one for one in check_images(str(tmp_path), channels=3, sample=9, size=0)}
    assert "one folder per class, in the splits train/" in found["layout"].found
    assert found["skipped"].level == "warn"
    assert "1 .heic (HEIC" in found["skipped"].found


def test_of_a_single_image_it_names_the_image(tmp_path):
    place = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(place)
    lines = list(open_source(str(place)).account.lines())
    assert str(place) in lines[0]
    assert "1 image" in lines[1]
