"""Folders as public data sets and their downloads have them: what is around the images, between the
splits, and what only looks like classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from beit.config.data import FolderConfig, Reading
from beit.data.dataset import Dataset, open_source, split_of
from beit.data.labelled import open_labelled
from beit.data.sources import ImageSource
from beit.errors import DataError

Draw = Callable[..., Path]


def some(*folders: str, count: int = 4) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(count)]


def keys(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def labelled(root: Path, **options: object):
    return open_labelled(
        str(root),
        split=0.5,
        per_class=None,
        seed=0,
        reading=Reading(FolderConfig(**options)),  # type: ignore[arg-type]
    )


def write(root: Path, name: str, text: str = "") -> Path:
    place = root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


def test_folders_without_images_beside_those_with_them(draw: Draw) -> None:
    """As of ImageNet: lists and annotations at every level, the splits far below."""
    root = draw(*some("ILSVRC/Data/CLS/train/n01", "ILSVRC/Data/CLS/train/n02"),
                *some("ILSVRC/Data/CLS/test"))  # fmt: skip
    write(root, "ILSVRC/Annotations/CLS/train/n01/0.xml")
    write(root, "ILSVRC/ImageSets/CLS/train.txt")
    write(root, "devkit/data/meta.mat")
    splits = labelled(root)
    assert splits.train.classes == ("n01", "n02")
    assert splits.test is None
    assert all("/train/" in key for key in keys(splits.train) + keys(splits.validation))
    assert set(Dataset(str(root)).splits()) == {"train", "test"}


@pytest.mark.parametrize("others", [("devkit",), ("devkit", "more")])
def test_splits_that_begin_alike_beside_other_folders(draw: Draw, others: tuple[str, ...]) -> None:
    root = draw(*some("cars_train/a", "cars_train/b", "cars_test/a", "cars_test/b"))
    for name in others:
        write(root, f"{name}/annotations.mat")
    if "more" in others:
        draw("more/cover.png")
    splits = labelled(root)
    assert splits.train.classes == ("a", "b")
    assert splits.test is not None
    assert all(key.startswith("cars_test/") for key in keys(splits.test))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("ISIC_2019_Training_Input", "ISIC_2019_Test_Input"),
        ("birds-train-small", "birds-test-small"),
        ("Pets_Training_Set_v2", "Pets_Validation_Set_v2"),
    ],
)
def test_the_word_of_a_split_within_a_name(draw: Draw, train: str, test: str) -> None:
    root = draw(*some(f"{train}/a", f"{train}/b", f"{test}/a", f"{test}/b"))
    splits = labelled(root)
    assert splits.train.classes == ("a", "b")
    assert {key.split("/")[0] for key in keys(splits.train)} == {train}
    places = Dataset(str(root)).parts()
    assert {split_of(place) for place in places} == {*Dataset(str(root)).splits()}


@pytest.mark.parametrize("names", [("trainA", "trainB", "testA", "testB"),
                                   ("a_train", "a_test", "b_train", "b_test")])  # fmt: skip
def test_splits_of_several_things_are_no_classes(draw: Draw, names: tuple[str, ...]) -> None:
    root = draw(*some(*names))
    for use in (labelled, lambda root: open_source(str(root))):
        with pytest.raises(DataError, match="splits of 2 data sets or classes") as caught:
            use(root)
        assert "--class-level 1" in caught.value.remedy
    assert labelled(root, class_level=1).train.classes == tuple(sorted(names))


def test_words_that_only_contain_that_of_a_split_are_classes(draw: Draw) -> None:
    names = ("bullet_train", "crash_test_dummy", "test_tube", "train_station")
    assert labelled(draw(*some(*names))).train.classes == names
    assert labelled(draw(*some("x/TESTED", "x/TRAINED")) / "x").train.classes == (
        "TESTED",
        "TRAINED",
    )


def test_data_divided_into_splits_at_any_depth_beside_other_folders(draw: Draw) -> None:
    root = draw(*some("a/b/train/x", "a/b/train/y", "a/b/test/x", "a/b/test/y", "samples"))
    with pytest.raises(DataError, match=r"'a/b', each divided by itself .*'test', 'train'") as told:
        labelled(root)
    assert f"--data {root}/a/b" in told.value.remedy
    assert labelled(root / "a" / "b").train.classes == ("x", "y")
