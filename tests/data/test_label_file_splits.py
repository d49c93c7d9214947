"""Training, validation, test and folds as a label file states them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from label_lists import CATS, NAMES, NUMBER, account, keys, labels, paths, read, rows

from beit.config.data import Division
from beit.data.dataset import Dataset, open_source
from beit.data.labelled import divide
from beit.errors import ConfigError, DataError

Draw = Callable[..., Path]


def test_splits(root: Path) -> None:
    splits = ["Training", "train", "dev", "valid", "TEST", "testing"]
    lines = [f"p{at}.png,{split},{at % 2}" for at, split in enumerate(splits)]
    found = read(root, "\n".join(["image,set,label", *lines]))
    assert paths(found) == {
        "train": NAMES[:2], "val": NAMES[2:4], "test": NAMES[4:],
    }  # fmt: skip
    path = str(root / "list.csv")
    parts = divide(Dataset(path), Division(split=0.5, seed=0))
    assert parts.test is not None
    assert [keys(part) for part in parts if part] == [NAMES[:2], NAMES[2:4], NAMES[4:]]
    assert keys(open_source(path)) == NAMES[:2]
    assert keys(Dataset(path).part("test")[1]) == NAMES[4:]
    assert list(Dataset(path).splits()) == ["train", "val", "test"]


def test_without_a_validation_split_some_of_training_is_held_out_and_test_stays(
    root: Path,
) -> None:
    lines = [f"p{at}.png,{'train' if at < 4 else 'test'},{'' if at > 3 else at % 2}"
             for at in range(NUMBER)]  # fmt: skip
    found = read(root, "\n".join(["image,split,label", *lines]))
    assert found.splits["test"].targets is None
    assert "the split test has no labels" in account(found).notes
    train, validation, test = divide(Dataset(str(root / "list.csv")), Division(split=0.5, seed=0))
    assert test is None
    assert sorted(keys(train) + keys(validation)) == NAMES[:4]


def test_folders_of_splits_are_splits_and_test_is_not_learned_from(draw: Draw) -> None:
    root = draw(*(f"{part}/{at}.png" for part in ("train", "Testing") for at in range(4)))
    names = [f"{part}/{at}.png" for part in ("train", "Testing") for at in range(4)]
    text = "\n".join(["image,label", *(f"{name},{at % 2}" for at, name in enumerate(names))])
    found = read(root, text)
    assert paths(found) == {
        "train": names[:4], "test": names[4:],
    }  # fmt: skip
    assert "splits by the folders of the images" in account(found).layout
    assert list(read(root, text, split_column="none").splits) == [""]
    assert list(read(root, "image,label\ntrain/0.png,a\ntrain/1.png,b\n").splits) == [""]


@pytest.mark.parametrize("folders", [("train", "test", "extra"), ("test", "site")])
def test_folders_of_which_some_are_splits(draw: Draw, folders: tuple[str, ...]) -> None:
    names = [f"{folder}/{number}.png" for folder in folders for number in range(2)]
    root = draw(*names)
    text = "image,label\n" + "".join(f"{name},{name[-5]}\n" for name in names)
    with pytest.raises(DataError, match=r"some images .* lie in folders of splits") as caught:
        read(root, text)
    assert "--split-column none" in caught.value.remedy
    assert paths(read(root, text, split_column="none")) == {"": names}


def test_trains_beside_other_folders_are_no_split(draw: Draw) -> None:
    root = draw("train/0.png", "ship/0.png")
    assert labels(read(root, "image\ntrain/0.png\nship/0.png\n")) == [
        ("train/0.png", "train"), ("ship/0.png", "ship")]  # fmt: skip


def test_folds(root: Path) -> None:
    text = "\n".join(["image,fold,label", *(f"p{at}.png,{at % 3},{at // 3}" for at in range(6))])
    with pytest.raises(DataError, match=r"line 2 .* may be a fold") as caught:
        read(root, text)
    assert "--validation-fold" in caught.value.remedy
    found = read(root, text, validation_fold="1", test_fold="2")
    assert paths(found) == {
        "train": ["p0.png", "p3.png"], "val": ["p1.png", "p4.png"], "test": ["p2.png", "p5.png"],
    }  # fmt: skip
    assert list(read(root, text, split_column="none").splits) == [""]
    with pytest.raises(ConfigError, match="validation_fold is 7"):
        read(root, text, validation_fold="7")
    with pytest.raises(ConfigError, match="a fold was named"):
        read(root, rows("image,label", "p{n}.png,{b}"), validation_fold="1")


@pytest.mark.parametrize(
    ("heading", "cells"),
    [
        ("dataset", ("train", "test")),
        ("type", ("TRAIN", "Testing")),
        ("is_test", ("False", "True")),
        ("test", ("0", "1")),
    ],
)
def test_a_column_of_splits_is_known_by_its_cells(
    root: Path, heading: str, cells: tuple[str, str]
) -> None:
    text = rows(f"file,{heading},label", f"p{{n}}.png,{cells[0]},{{c}}", range(4))
    found = read(root, text + "".join(f"p{n}.png,{cells[1]},cat\n" for n in (4, 5)))
    assert paths(found) == {"train": NAMES[:4], "test": NAMES[4:]}
    assert f"splits in column '{heading}'" in account(found).layout
    if cells[0] == "train":
        assert set(read(root, text, label_column="dataset").splits) == {""}


def test_a_column_of_splits_without_headings(root: Path) -> None:
    found = read(root, rows("", "TRAIN,p{n}.png,{c}", range(4)) + "TEST,p4.png,cat\n")
    assert labels(found, "train") == CATS[:4]
    assert paths(found)["test"] == ["p4.png"]


def test_what_is_train_does_not_say_which_the_others_are(root: Path) -> None:
    text = rows("file,is_train,label", "p{n}.png,1,{c}", range(4)) + "p5.png,0,cat\n"
    with pytest.raises(DataError, match=r"line 6 .* has '0' .* may be a fold"):
        read(root, text)
    assert set(read(root, text, validation_fold="0").splits) == {"train", "val"}
    found = read(root, text.replace("is_train", "train"), label_column="train")
    assert found.splits[""].classes == ("0", "1")
