"""Each fault planted in a folder is found, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beit.cli import main
from beit.data.pack import pack
from beit.doctor.check import KINDS, Checked, check
from beit.errors import ConfigError, DataError

Save = Callable[..., None]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes an image of 40 x 48 random pixels of its own."""
    numbers = iter(range(1000))

    def write(
        name: str, mode: str = "RGB", form: str = "PNG", size: int = 40, **options: Any
    ) -> None:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        chance = np.random.default_rng(next(numbers))
        pixels = chance.integers(0, 256, (size, size + 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(place, form, **options)

    return write


def findings(found: Checked) -> list[tuple[str, str]]:
    return [(finding.kind, finding.name) for finding in found.findings]


def test_sound_images(save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        save(f"{number}.png")
    found = check(str(tmp_path))
    assert found.findings == ()
    assert found.images == {"": 3}
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "nothing wrong" in capsys.readouterr().out


def test_mean_and_deviation_count_every_image_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each channel, as options to copy; large images are looked at on a grid."""
    Image.new("RGB", (600, 900), (255, 51, 0)).save(tmp_path / "large.png")
    Image.new("RGB", (40, 40), (255, 153, 255)).save(tmp_path / "small.png")
    found = check(str(tmp_path))
    assert found.mean == pytest.approx([1, 0.4, 0.5])
    assert found.std == pytest.approx([0, 0.2, 0.5])
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "--mean 1.000 0.400 0.500 --std 0.000 0.200 0.500\n" in capsys.readouterr().out


def test_odd_images(save: Save, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"save_all": True, "append_images": [Image.new("RGB", (48, 40))]}
    save("animated.gif", form="GIF", **more)
    save("animated.webp", form="WEBP", **more)
    save("pages.tif", form="TIFF", **more)
    save("png.jpg")
    save("jpeg.JPG", form="JPEG")
    save("tiny.png", size=20)
    save("deep.png", mode="I;16")
    save("float.tiff", mode="F", form="TIFF")
    save("ink.jpg", mode="CMYK", form="JPEG")
    save("turned.jpg", form="JPEG", exif=exif)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "empty too.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((tmp_path / "png.jpg").read_bytes()[:900])
    assert findings(check(str(tmp_path))) == [
        ("several images", "animated.gif"),
        ("several images", "animated.webp"),
        ("unreadable", "cut.png"),
        ("deep", "deep.png"),
        ("unreadable", "empty too.png"),
        ("unreadable", "empty.png"),
        ("deep", "float.tiff"),
        ("printing colours", "ink.jpg"),
        ("several images", "pages.tif"),
        ("wrong extension", "png.jpg"),
        ("tiny", "tiny.png"),
        ("turned", "turned.jpg"),
        ("narrow", "deep.png"),
    ]


def copies(save: Save, root: Path) -> None:
    for part, classes in (("train", "ab"), ("val", "abc")):
        for name in classes:
            for number in range(4):
                save(f"{part}/{name}/{number}.png")
    (root / "train" / "a" / "3.png").unlink()
    shutil.copy(root / "train" / "a" / "0.png", root / "train" / "a" / "x.png")
    shutil.copy(root / "train" / "a" / "0.png", root / "val" / "b" / "y.png")
    shutil.copy(root / "train" / "b" / "1.png", root / "train" / "a" / "z.png")
    (root / "train" / "a" / "1.png").unlink()
    (root / "train" / "a" / "2.png").unlink()


def test_copies_and_classes(save: Save, tmp_path: Path) -> None:
    copies(save, tmp_path)
    found = check(str(tmp_path), few=4)
    expected = {
        ("in two parts", "b/y.png", "the same as a/0.png (train)"),
        ("in two classes", "b/y.png", "the same as a/0.png (a)"),
        ("in two classes", "b/1.png", "the same as a/z.png (a)"),
        ("duplicate", "a/x.png", "the same as a/0.png"),
        ("class missing", "c", "none in 'train'"),
        ("few in class", "a", "3 images"),
    }
    assert {tuple(finding) for finding in found.findings} == expected
    assert len(found.findings) == len(expected)
    assert found.images == {"train": 7, "val": 13}
    assert found.classes["a"] == {"train": 3, "val": 4}


def test_shards_are_checked_like_their_folder(
    save: Save, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("BEIT_HOME", str(tmp_path_factory.mktemp("home")))
    copies(save, tmp_path)
    out = tmp_path_factory.mktemp("elsewhere") / "out"
    assert main(["data", "pack", str(tmp_path), str(out), "--shard-size", "1"]) == 0
    kinds = [sorted(kind for kind, _ in findings(check(str(where)))) for where in (tmp_path, out)]
    assert kinds[0] == kinds[1]
    assert len(pack(str(tmp_path), str(out), shard_size=1)) == 3


def test_report_and_exit_code(
    save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("1.png")
    save("2.png", size=10)
    (tmp_path / "3.png").write_bytes(b"text")
    assert main(["data", "check", str(tmp_path), "--format", "json"]) == 3
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["counts"] == {"unreadable": 1, "tiny": 1}
    assert report["images"] == {"": 3}
    assert [finding["name"] for finding in report["findings"]] == ["2.png", "3.png"]
    assert "1 of 3 images cannot be read: '3.png'" in printed.err
    assert main(["data", "check", str(tmp_path)]) == 3
    table = capsys.readouterr().out
    assert "all: 3 images" in table
    assert "unreadable" in table
    assert {finding["kind"] for finding in report["findings"]} <= set(KINDS)


def test_wrong_requests(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no files"):
        check(str(tmp_path))
    with pytest.raises(ConfigError, match="channels is 0"):
        check(str(tmp_path), channels=0)


def test_channels_that_do_not_fit(save: Save, tmp_path: Path) -> None:
    save("1.png")
    (found,) = check(str(tmp_path), channels=5).findings
    assert found.kind == "unreadable"
    assert "5 channels" in found.detail
