"""Samples of tar shards as people make them by hand: in any order, with more than a label."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from beit.config.data import Division
from beit.data.dataset import Dataset, open_source
from beit.data.labelled import divide
from beit.data.sources import ImageSource
from beit.errors import DataError
from encoding import encoded

JPEG, PNG = encoded("JPEG", side=24), encoded("PNG", side=24)
COUNT = range(8)
LABELS = [(f"{number:04}.cls", b"%d" % (number % 2)) for number in COUNT]
IMAGES = [(f"{number:04}.jpg", JPEG) for number in COUNT]
Members = Sequence[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("BEIT_HOME", str(tmp_path_factory.mktemp("home")))


def tar(place: Path, members: Members) -> str:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(place)


def skipped(source: ImageSource) -> dict[tuple[str, str], int]:
    return {(one.reason, one.extension): one.count for one in source.account.skipped}


@pytest.mark.parametrize(
    "members",
    [
        [*IMAGES, *LABELS],
        [*LABELS, *IMAGES],
        [*LABELS[::-1], *IMAGES],
        [one for pair in zip(LABELS, IMAGES, strict=True) for one in pair],
    ],
    ids=["labels last", "labels first", "labels first, backwards", "each label first"],
)
def test_a_label_belongs_to_its_image_wherever_it_stands(tmp_path: Path, members: Members) -> None:
    source = open_source(tar(tmp_path / "0.tar", members))
    assert [source.key(index) for index in COUNT] == [name for name, _ in IMAGES]
    assert source.targets is not None
    assert source.targets.tolist() == [0, 1] * 4
    assert not source.account.skipped
    assert source.account.classes == {"": {"0": 4, "1": 4}}
    splits = divide(Dataset(str(tmp_path)), Division(split=0.25, seed=0))
    assert [len(splits.train), len(splits.validation)] == [6, 2]


def test_a_mask_beside_an_image_is_no_image_of_the_class(tmp_path: Path) -> None:
    masks = [(f"{number:04}.png", PNG) for number in COUNT]
    for order in ([*IMAGES, *masks, *LABELS], [*masks, *IMAGES, *LABELS]):
        source = open_source(tar(tmp_path / "0.tar", order))
        assert len(source) == 8
        assert {source.key(index)[-4:] for index in COUNT} == {".jpg"}
        assert skipped(source) == {("beside the .jpg of its sample", ".png"): 8}


def test_images_of_one_kind_are_all_kept(tmp_path: Path) -> None:
    """Two samples of one key are told apart by no rule: their names say that something is wrong."""
    source = open_source(
        tar(tmp_path / "0.tar", [("1.png", PNG), ("2.png", PNG), ("a/1.png", PNG)])
    )
    assert len(source) == 3
    with pytest.raises(DataError, match="two images have the same name"):
        open_source(tar(tmp_path / "1.tar", [("1.png", PNG), ("1.png", PNG)]))


def test_junk_in_shards_is_counted(tmp_path: Path) -> None:
    junk = [
        ("__MACOSX/._0001.jpg", b"x"), ("a/@eaDir/1.jpg/S.jpg", JPEG), (".hidden/2.jpg", JPEG),
        ("./._0001.jpg", b"x"), ("Thumbs.db", b"x"), ("readme.txt", b"x"), ("0001.heic", b"x"),
        ("lost.cls", b"1"), ("lost.json", b"{}"), ("0002.seg.png", PNG), ("broken.bin", b"x"),
    ]  # fmt: skip
    source = open_source(tar(tmp_path / "0.tar", [*IMAGES, *LABELS, *junk]))
    assert len(source) == 8
    assert skipped(source) == {
        ("system folder", ".jpg"): 1, ("thumbnails", ".jpg"): 1, ("hidden", ".jpg"): 2,
        ("system file", ".db"): 1, ("not an image", ".txt"): 1, ("not an image", ".bin"): 1,
        ("HEIC is not decoded: convert it to JPEG or PNG", ".heic"): 1,
        ("a label without an image", ".cls"): 1, ("a label without an image", ".json"): 1,
        ("not an image: its name continues after the first dot", ".png"): 1,
    }  # fmt: skip
    assert open_source(str(tmp_path / "0.tar")).account == source.account  # from the kept index


def test_members_of_unknown_kinds_are_recognised_by_their_content(tmp_path: Path) -> None:
    source = open_source(tar(tmp_path / "0.tar", [("1", JPEG), ("2.x", PNG), ("3.jfif", JPEG)]))
    assert [source.key(index) for index in range(3)] == ["1", "2.x", "3.jfif"]


def test_a_long_description_is_not_kept(tmp_path: Path) -> None:
    words = json.dumps({"caption": "x" * 1000, "class_name": "cat"}).encode()
    source = open_source(tar(tmp_path / "0.tar", [("1.jpg", JPEG), ("1.json", words)]))
    assert source.classes == ("cat",)


def test_shards_without_images_say_what_they_hold(tmp_path: Path) -> None:
    members = [(f"{number}.input.jpg", JPEG) for number in COUNT]
    with pytest.raises(DataError, match=r"\.jpg \(8: .* after the first dot\)") as caught:
        open_source(tar(tmp_path / "0.tar", members))
    assert "beit data pack" in caught.value.remedy


def test_splits_of_shards_have_many_names(tmp_path: Path) -> None:
    for name in ("Training", "Testing"):
        tar(tmp_path / name / "0.tar", [*IMAGES, *LABELS])
    assert set(Dataset(str(tmp_path)).splits()) == {"train", "test"}
    splits = divide(Dataset(str(tmp_path)), Division(split=0.25, seed=0))
    assert splits.test is not None
    assert splits.test.key(0) == "Testing/0000.jpg"
    assert splits.train.account.images == {"train": 6, "val": 2, "test": 8}
    learned = open_source(str(tmp_path)).account
    assert (learned.data, learned.images) == (str(tmp_path), {"train": 8})
    assert learned.notes == ("only 'train' is read: no image of test (8)",)
    tar(tmp_path / "test" / "0.tar", IMAGES)
    with pytest.raises(DataError, match="several splits for test"):
        open_source(str(tmp_path))


def test_parquet_beside_shards_describes_them(tmp_path: Path) -> None:
    """As img2dataset writes addresses and captions."""
    tar(tmp_path / "00000.tar", IMAGES)
    (tmp_path / "00000.parquet").write_bytes(b"PAR1")
    assert len(open_source(str(tmp_path))) == 8
