"""How the names in a label file find their images."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from label_lists import CATS, NUMBER, account, labels, read, rows

from beit.errors import ConfigError, DataError

Draw = Callable[..., Path]


def test_names_are_looked_for_below_the_list(draw: Draw) -> None:
    root = draw("train_images/a.png", "train_images/deep/b.jpg", "test_images/c.png", "d.png")
    text = "id,label\na,0\nb,1\nc,0\ndeep/b,1\nd,1\n"
    found = read(root, text, split_column="none")
    assert [path for path, _ in labels(found)] == [
        "train_images/a.png", "train_images/deep/b.jpg", "test_images/c.png", "d.png",
    ]  # fmt: skip
    assert [(one.reason, one.count) for one in account(found).skipped] == [("listed twice", 1)]


def test_a_name_of_several_images_is_refused_until_the_folder_is_named(draw: Draw) -> None:
    root = draw("train/1.png", "train/2.png", "test/1.png", "here/x.png", "here/x.jpg")
    text = "id,label\n1,cat\n2,dog\n"
    with pytest.raises(DataError, match=r"line 2 \('1: 'test/1.png', 'train/1.png''\)") as caught:
        read(root, text)
    assert "--image-folder" in caught.value.remedy
    found = read(root, text, image_folder=str(root / "train"))
    assert labels(found) == [("1.png", "cat"), ("2.png", "dog")]
    assert found.splits[""].path(0) == root / "train" / "1.png"
    with pytest.raises(DataError, match="may be more than one image: line 2"):
        read(root, "id,label\nx,1\n", image_folder=str(root / "here"))
    with pytest.raises(ConfigError, match="no such folder"):
        read(root, text, image_folder=str(root / "nowhere"))


def test_a_name_that_lies_where_it_says_comes_before_those_that_lie_deeper(draw: Draw) -> None:
    root = draw("a.png", "thumbs/a.png", "b.png", "thumbs/b.jpg")
    found = read(root, "id,label\na,0\nb,1\n")
    assert [path for path, _ in labels(found)] == ["a.png", "b.png"]


def test_folders_of_another_machine_are_taken_off_only_where_all_images_lie_below(
    draw: Draw,
) -> None:
    root = draw("dog/1.png", "dog/2.png")
    found = read(root, "image,label\n/home/x/dog/1.png,a\n/home/x/dog/2.png,b\n")
    assert labels(found) == [("dog/1.png", "a"), ("dog/2.png", "b")]
    assert "names are read without '/home/x/', which is not here" in account(found).notes
    with pytest.raises(DataError, match="2 of the 2 images"):
        read(root, "image,label\ncat/1.png,a\ncat/2.png,b\n")
    with pytest.raises(DataError, match="1 of the 2 images") as caught:
        read(root, "image,label\ndog/1.png,a\ndog/2.jpg,b\n")
    assert "'dog/2.png' is there" in caught.value.remedy


def test_names_in_another_form_of_unicode(draw: Draw) -> None:
    written = unicodedata.normalize("NFD", "café.png")
    root = draw(written, "thé.png")
    found = read(root, "image,label\ncafé.png,café\nthé.png," + unicodedata.normalize("NFD", "thé"))
    assert labels(found) == [(written, "café"), ("thé.png", "thé")]


def test_absolute_paths_and_names_that_are_no_utf_8(draw: Draw) -> None:
    root = draw("a.png")
    (root / "a.png").rename(root / "b\udcff.png")
    draw("a.png")
    text = f"image,label\n{root}/a.png,x\n".encode() + b"b\xff.png,y\n"
    assert labels(read(root, text)) == [("a.png", "x"), ("b\udcff.png", "y")]


def test_whole_lines_that_are_names(draw: Draw) -> None:
    names = ["a,b.png", "c d.png", "e;f g.png"]
    root = draw(*names)
    assert [path for path, _ in labels(read(root, "\n".join(names), "list.txt"))] == names
    with_labels = "\n".join(f"{name} {at}" for at, name in enumerate(names[1:]))
    assert labels(read(root, with_labels, "list.txt")) == [("c d.png", "0"), ("e;f g.png", "1")]


@pytest.mark.parametrize(
    "text", [rows("image,label", "p{n}.png,{c}"), rows("", "p{n}.png {b}"), rows("", "p{n}.png")]
)
def test_a_folder_is_searched_only_if_names_are_not_there_as_written(
    root: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree of a million files takes seconds."""
    monkeypatch.setattr("beit.data.image_names.find_images", None)
    assert len(read(root, text).splits[""]) == NUMBER


def test_names_in_another_case_and_addresses(root: Path) -> None:
    assert labels(read(root, rows("file,label", "P{n}.PNG,{c}"))) == CATS
    assert labels(read(root, rows("image_url,label", "https://x.org/a/p{n}.png,{c}"))) == CATS
    with pytest.raises(DataError, match="do not exist") as caught:
        read(root, rows("image_url,label", "https://x.org/{n},{c}"))
    assert "download the images" in caught.value.remedy


def test_zeros_that_a_spreadsheet_took_off_are_named(draw: Draw) -> None:
    root = draw("0007.png")
    with pytest.raises(DataError, match="do not exist") as caught:
        read(root, "id,label\n7,cat\n")
    assert caught.value.remedy.startswith("'0007' is there, and the list lacks its zeros")
