"""Folders, lists and single images; and what is said when they break a rule."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from beit.config.data import Division
from beit.data.dataset import Dataset, open_source
from beit.data.images import check_readable
from beit.data.labelled import divide
from beit.data.sources import FileSource, ImageSource, evenly, select
from beit.errors import ConfigError, DataError, UnreadableError

Draw = Callable[..., Path]


def keys(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def class_names(count: int, *classes: str) -> list[str]:
    return [f"{name}/{number}.png" for name in classes for number in range(count)]


def test_flat_folder_in_natural_order(draw: Draw) -> None:
    root = draw("10.png", "2.PNG", "a b.jpeg", ".hidden.png", "été.tiff", "1.png")
    (root / "Thumbs.db").write_bytes(b"x")
    source = open_source(str(root))
    assert keys(source) == ["1.png", "2.PNG", "10.png", "a b.jpeg", "été.tiff"]
    assert source.classes == ()
    assert source.targets is None
    record = source.read(2)
    assert record.key == "10.png"
    assert record.target is None
    assert record.data == (root / "10.png").read_bytes()


def test_nested_folders_and_links(draw: Draw) -> None:
    root = draw("a/x/1.png", "b/2.png", "3.png", ".git/4.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "0alias").symlink_to(root / "b")
    (root / "dangling.png").symlink_to(root / "nothing")
    (root / "self.png").symlink_to(root / "self.png")
    os.mkfifo(root / "pipe.png")
    assert keys(open_source(str(root))) == ["3.png", "a/x/1.png", "b/2.png"]


def test_names_that_are_no_text(draw: Draw) -> None:
    root = draw("1.png")
    os.rename(os.fsencode(root / "1.png"), os.fsencode(root) + b"/\xff\n1.png")  # noqa: PTH104
    source = open_source(str(root))
    assert keys(source) == ["\udcff\n1.png"]
    assert source.read(0).data


def test_class_folders_are_noticed(draw: Draw) -> None:
    root = draw("10/a.png", "9/b.png", "9/deep/c.png")
    source = open_source(str(root))
    assert source.classes == ("9", "10")
    assert source.targets is not None
    assert source.targets.tolist() == [0, 0, 1]
    assert [source.read(index).target for index in range(3)] == [0, 0, 1]
    draw("9/b.png", "loose.png")
    assert open_source(str(root)).classes == ()


def test_train_part_is_taken(draw: Draw) -> None:
    root = draw("train/cat/1.png", "train/dog/1.png", "val/cat/2.png")
    source = open_source(str(root))
    assert keys(source) == ["train/cat/1.png", "train/dog/1.png"]
    assert source.classes == ("cat", "dog")
    assert source.account.images == {"train": 2}
    assert "only 'train' is read" in source.account.notes[0]


def test_single_image(draw: Draw) -> None:
    root = draw("one.png")
    assert keys(open_source(str(root / "one.png"))) == ["one.png"]


@pytest.mark.parametrize("text", ["{0}\n{1}\n", "path\n{0}\n\n{1}", "\ufeff{0}\r\n{1}\r\n"])
def test_list_without_labels(draw: Draw, text: str) -> None:
    root = draw("a/1.png", "2.png")
    (root / "list.txt").write_text(text.format("a/1.png", "2.png"), newline="")
    source = open_source(str(root / "list.txt"))
    assert keys(source) == ["a/1.png", "2.png"]
    assert source.classes == ()


@pytest.mark.parametrize(("form", "mark"), [("tsv", "\t"), ("csv", ","), ("txt", "\t")])
def test_list_with_labels(draw: Draw, form: str, mark: str) -> None:
    root = draw("1.png", "2.png", "3.png")
    rows = [f"1.png{mark}dog", f"{root}/2.png{mark}cat", f"3.png{mark}dog"]
    (root / f"list.{form}").write_text("\n".join([f"file{mark}label", *rows]))
    source = open_source(str(root / f"list.{form}"))
    assert keys(source) == ["1.png", "2.png", "3.png"]
    assert source.classes == ("cat", "dog")
    assert source.targets is not None
    assert source.targets.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "names no images"),
        ("1.png\n2.png\n3.png\n4.png\n5.png", r"4 of the 5.*line 4 \('4.png'\) and 1 more"),
    ],
)
def test_wrong_lists(draw: Draw, text: str, match: str) -> None:
    root = draw("1.png")
    (root / "list.csv").write_text(text)
    with pytest.raises(DataError, match=match) as caught:
        open_source(str(root / "list.csv"))
    assert caught.value.remedy


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing at"):
        open_source(str(tmp_path / "no"))
    with pytest.raises(DataError, match="holds no files"):
        open_source(str(tmp_path))
    (tmp_path / "a.dcm").write_bytes(b"")
    (tmp_path / "b.dcm").write_bytes(b"")
    (tmp_path / "readme").write_bytes(b"")
    with pytest.raises(DataError, match=r"\.dcm \(2: DICOM .*, without an extension \(1: not an"):
        open_source(str(tmp_path))
    with pytest.raises(DataError, match="neither a folder nor a list"):
        open_source(str(tmp_path / "a.dcm"))


def test_fingerprint_follows_the_files(draw: Draw) -> None:
    root = draw("1.png", "2.png")
    first = open_source(str(root)).fingerprint()
    assert open_source(str(root)).fingerprint() == first
    (root / "2.png").write_bytes(b"shorter")
    second = open_source(str(root)).fingerprint()
    draw("1.png", "2.png", "3.png")
    third = open_source(str(root)).fingerprint()
    (root / "3.png").rename(root / "4.png")
    assert len({first, second, third, open_source(str(root)).fingerprint()}) == 4


@pytest.mark.parametrize("most", [4096, 2])
def test_fingerprint_follows_contents_but_no_times(
    draw: Draw, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Of all files, or where there are more than that, of a sample: here the first and last."""
    monkeypatch.setattr("beit.data.sources.CONTENT_FILES", most)
    monkeypatch.setattr("beit.data.sources.CONTENT_SAMPLE", 2)
    root = draw("1.png", "2.png", "3.png")
    before = open_source(str(root)).fingerprint()
    for name in ("1.png", "2.png", "3.png"):
        os.utime(root / name, (1, 1))
    assert open_source(str(root)).fingerprint() == before
    for name in ("2.png", "3.png"):
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
        noticed = open_source(str(root)).fingerprint() != before
        assert noticed == (most == 4096 or name == "3.png")
        (root / name).write_bytes(whole)
    (root / "3.png").unlink()
    os.mkfifo(root / "3.png")
    assert open_source(str(root)).fingerprint() != before


def test_selection(draw: Draw) -> None:
    source = open_source(str(draw(*class_names(3, "a", "b"))))
    part = select(source, [4, 1])
    assert keys(part) == ["b/1.png", "a/1.png"]
    assert part.targets is not None
    assert part.targets.tolist() == [1, 0]
    assert part.read(0).key == "b/1.png"
    assert part.classes == ("a", "b")
    assert part.fingerprint() != select(source, [1, 4]).fingerprint()
    assert keys(pickle.loads(pickle.dumps(part))) == keys(part)  # noqa: S301


def test_lost_file_is_unreadable(draw: Draw) -> None:
    source = open_source(str(draw("1.png")))
    source_path = draw("1.png") / "1.png"
    source_path.unlink()
    with pytest.raises(UnreadableError, match="No such file"):
        source.read(0)
    with pytest.raises(DataError, match="none of 1 image tried"):
        check_readable(source, 3)


def test_probe_is_content_with_one(draw: Draw) -> None:
    root = draw(*[f"{number}.png" for number in range(20)])
    for number in range(19):
        (root / f"{number}.png").write_bytes(b"rubbish")
    check_readable(open_source(str(root)), 3)
    (root / "19.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 8 .*0.png \(its content is none of"):
        check_readable(open_source(str(root)), 3)


def test_labelled_parts(draw: Draw) -> None:
    root = draw(
        *class_names(3, "train/cat", "train/dog"),
        *class_names(2, "valid/cat", "valid/dog"),
        *class_names(1, "test/cat", "test/dog"),
    )
    parts = divide(Dataset(str(root)), Division(split=0.5, seed=0))
    assert parts.test is not None
    assert [len(part) for part in parts if part is not None] == [6, 4, 2]
    assert keys(parts.validation)[2] == "valid/dog/0.png"
    assert {part.classes for part in parts if part is not None} == {("cat", "dog")}


@pytest.mark.parametrize("listed", [False, True])
def test_split_is_stratified_and_stable(draw: Draw, listed: bool) -> None:
    names = [*class_names(10, "a"), *class_names(2, "b"), *class_names(1, "c")]
    root = draw(*names)
    path = root
    if listed:
        path = root / "list.csv"
        path.write_text("\n".join(f"{name},{name[0]}" for name in names))
    train, validation, test = divide(Dataset(str(path)), Division(split=0.3, seed=0))
    assert test is None
    assert train.targets is not None
    assert validation.targets is not None
    assert train.targets.tolist() == [0] * 7 + [1, 2]
    assert validation.targets.tolist() == [0] * 3 + [1]
    assert sorted(keys(train) + keys(validation)) == sorted(names)
    again = divide(Dataset(str(path)), Division(split=0.3, seed=0))
    assert keys(again.validation) == keys(validation)
    others = {
        tuple(keys(divide(Dataset(str(path)), Division(split=0.3, seed=seed)).validation))
        for seed in range(6)
    }
    assert len(others) > 1


def test_few_labels(draw: Draw) -> None:
    root = draw(*class_names(10, "a"), *class_names(6, "b"))
    parts = divide(Dataset(str(root)), Division(split=0.2, seed=0, per_class=4))
    assert parts.train.targets is not None
    assert parts.train.targets.tolist() == [0] * 4 + [1] * 4
    assert len(parts.validation) == 3
    with pytest.raises(DataError, match=r"fewer than 7 .*'b' \(5\)") as caught:
        divide(Dataset(str(root)), Division(split=0.2, seed=0, per_class=7))
    assert "--per-class 5 or less" in caught.value.remedy
    with pytest.raises(ConfigError, match="per_class"):
        divide(Dataset(str(root)), Division(split=0.2, seed=0, per_class=0))


@pytest.mark.parametrize(
    ("names", "empty", "match"),
    [
        (["1.png", "2.png"], [], "no class folders"),
        (class_names(2, "a"), [], "only one class, 'a'"),
        (class_names(2, "a", "b"), ["c"], "without images in .*: 'c'"),
        (class_names(1, "a", "b"), [], "single image"),
        (
            class_names(1, "train/a", "train/b", "train/c", "val/a", "val/B", "val/c"),
            [],
            r"classes of val/ differ .* lacks 'b' and has besides 'B'",
        ),
        (class_names(1, "train/a", "train/b", "val/a"), [], "lacks 'b'$"),
        (
            class_names(1, "train/a", "train/b", "val/a"),
            ["val/b"],
            "without images in .*val: 'b'",
        ),
        (class_names(1, "train/a", "val/a"), [], "only one class"),
        (class_names(1, "train/a", "train/b"), ["val"], "holds no files"),
    ],
)
def test_wrong_labelled_folders(draw: Draw, names: list[str], empty: list[str], match: str) -> None:
    root = draw(*names)
    for name in empty:
        (root / name).mkdir()
    with pytest.raises(DataError) as caught:
        divide(Dataset(str(root)), Division(split=0.5, seed=0))
    assert caught.match(match.removesuffix("$"))
    assert caught.value.remedy


def test_few_images_are_spread_evenly() -> None:
    source = FileSource("", [f"{index}.png" for index in range(36)])
    assert keys(evenly(source, 4)) == ["0.png", "11.png", "23.png", "35.png"]
    assert evenly(source, 36) is source


def test_wrong_requests(draw: Draw) -> None:
    root = draw(*class_names(2, "a", "b"))
    with pytest.raises(ConfigError, match="split is 0"):
        divide(Dataset(str(root)), Division(split=0.0, seed=0))
    (root / "list.txt").write_text("a/0.png")
    with pytest.raises(DataError, match="has no labels"):
        divide(Dataset(str(root / "list.txt")), Division(split=0.5, seed=0))
    with pytest.raises(DataError, match="neither a folder nor a list"):
        divide(Dataset(str(root / "a" / "0.png")), Division(split=0.5, seed=0))
    with pytest.raises(DataError, match="nothing at"):
        divide(Dataset(str(root / "no")), Division(split=0.5, seed=0))
