"""Classes that only the names of images say, found by a pattern that is given, never guessed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_folders import labelled

from beit.config.data import FolderConfig, Reading
from beit.data.dataset import Dataset
from beit.doctor.check import check
from beit.errors import ConfigError, DataError

Draw = Callable[..., Path]

PETS = [f"images/{name}_{at}.jpg" for name in ("Bengal", "american_bulldog") for at in range(4)]
AGES = [f"{20 + at}_{at % 2}_{at % 4}_2017{at:05d}.jpg.chip.jpg" for at in range(12)]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ([f"train/{name}.{at}.jpg" for name in ("cat", "dog") for at in range(4)], ("cat", "dog")),
        ([f"n0{name}_{10026 + at}.JPEG" for name in (1, 2) for at in range(4)], ("n01", "n02")),
        (PETS, ("Bengal", "american_bulldog")),
        ([f"{name} ({at}).png" for name in ("a b", "c") for at in range(4)], ("a b", "c")),
        ([f"{name}{at}.png" for name in ("cat", "dog") for at in range(4)], ("cat", "dog")),
        ([f"img_{at:03d}-{'pos' if at % 2 else 'neg'}.png" for at in range(6)], ("neg", "pos")),
        ([f"p{at}_x_{3 * at}_label{at % 2}.png" for at in range(6)], ("label0", "label1")),
        ([f"red_{at % 3}x{at}_wide.png" if at % 2 else f"blue_{at % 3}x{at}_wide.png"
          for at in range(8)], ("blue", "red")),
        (AGES, ("0", "1")),
    ],
)  # fmt: skip
def test_the_refusal_types_the_pattern_that_reads_them(
    draw: Draw, names: list[str], classes: tuple[str, ...]
) -> None:
    root = draw(*names)
    with pytest.raises(DataError) as refused:
        labelled(root)
    pattern = re.search(r"; here --label-pattern '(.*?)' finds '", refused.value.remedy)
    assert pattern is not None
    splits = labelled(root, label_pattern=pattern[1])
    assert splits.train.classes == classes
    account = splits.train.account
    assert f"classes in the names of images (--label-pattern {pattern[1]})" in account.layout
    assert sum(sum(part.values()) for part in account.classes.values()) == len(names)


def test_several_readings_are_all_named(draw: Draw) -> None:
    with pytest.raises(DataError) as refused:
        labelled(draw(*AGES))
    assert refused.value.remedy.count("--label-pattern '") == 2


@pytest.mark.parametrize(
    "names", [[f"IMG_{at:04d}.jpg" for at in range(8)], ["a.png", "b.png", "c_1.png"]]
)
def test_names_without_a_class_suggest_none(draw: Draw, names: list[str]) -> None:
    with pytest.raises(DataError) as refused:
        labelled(draw(*names))
    assert "--label-pattern where the names of images say the class" in refused.value.remedy
    assert "; here" not in refused.value.remedy


def test_splits_and_test_images_without_answers(draw: Draw) -> None:
    names = [f"{part}/{name}.{at}.jpg" for part in ("train", "val") for name in ("cat", "dog")
             for at in range(2)]  # fmt: skip
    root = draw(*names, "test/1.jpg", "test/2.jpg")
    pattern = r"^([a-z]+)\."
    splits = labelled(root, label_pattern=pattern)
    assert (len(splits.train), len(splits.validation), splits.test) == (4, 4, None)
    assert "test/ has no labels in its names and is not measured" in splits.train.account.notes
    reading = Reading(FolderConfig(label_pattern=pattern))
    assert check(str(root), reading=reading).images == {"train": 4, "val": 4, "test": 2}
    assert Dataset(str(root), reading).part("val").source.classes == ("cat", "dog")
    draw("test/cat.3.jpg")
    with pytest.raises(DataError, match=r"finds nothing in 2 of 3 names of images: '1\.jpg'"):
        labelled(root, label_pattern=pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("Bengal", r"finds nothing in 4 of 8 names of images: 'american_bulldog_0.jpg'"),
        ("(Siamese)?", "finds nothing in 8 of 8 names of images"),
        ("jpg", "has only one class, 'jpg'"),
        ("^.*", "each of the 8 training images in .* has a label of its own"),
    ],
)
def test_patterns_that_find_no_classes(draw: Draw, pattern: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        labelled(draw(*PETS), label_pattern=pattern)


def test_patterns_that_are_none_or_beside_another_option() -> None:
    with pytest.raises(ConfigError, match=r"label_pattern '\(' is not a regular expression"):
        FolderConfig(label_pattern="(")
    with pytest.raises(ConfigError, match="label_pattern and class_level were given"):
        FolderConfig(label_pattern="([a-z]+)", class_level=1)
