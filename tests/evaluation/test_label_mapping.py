"""Folders, lists and label maps as classes of a model; and every way in which they do not fit."""

from __future__ import annotations

import json

import pytest
from timm.data import ImageNetInfo

from beit.data.listing import natural_key
from beit.data.sources import FileSource
from beit.errors import DataError
from beit.evaluation.label_mapping import find_answers

CLASSES = ("cat", "dog", "owl")
INFO = ImageNetInfo("imagenet-1k")
IMAGENET = tuple(INFO.label_descriptions())


def folders(*names):
    """Two images in each folder; names without a slash lie beside them."""
    return FileSource("", [f"{name}/{n}.png" for name in names for n in "ab"])


@pytest.fixture
def label_map(tmp_path):
    def write(content):
        (tmp_path / "map.json").write_text(json.dumps(content))
        return str(tmp_path / "map.json")

    return write


def test_folders_are_matched_by_name_whatever_their_order():
    answers = find_answers(folders("owl", "cat"), CLASSES)
    assert answers == (((2,), (2,), (0,), (0,)), None, "")
    assert answers.answerable == [0, 1, 2, 3]


def test_labels_of_a_list_are_matched_by_name():
    source = FileSource("", ["x/a.png", "x/b.png"], targets=[1, 0], classes=("dog", "owl"))
    assert find_answers(source, CLASSES).accepted == ((2,), (1,))


def test_wordnet_ids_are_those_of_imagenet():
    answers = find_answers(folders("n01443537", "n01440764"), IMAGENET)
    assert answers.accepted == ((1,), (1,), (0,), (0,))
    assert IMAGENET[0].startswith("tench")
    with pytest.raises(DataError, match="not classes of the model: 'n01443537'"):
        find_answers(folders("n01443537"), tuple(f"class {index}" for index in range(1000)))


def test_a_name_of_two_classes_is_not_guessed():
    crane = next(name for name in IMAGENET if IMAGENET.count(name) == 2)
    with pytest.raises(DataError, match="not classes of the model"):
        find_answers(folders(crane), IMAGENET)


@pytest.mark.parametrize(
    ("classes", "known"),
    [(tuple(f"class {n}" for n in range(11)), True), (tuple("abcdefghijk"), False)],
    ids=["unnamed", "named"],
)
def test_numbers_are_those_of_the_classes_where_these_have_no_names(classes, known):
    """What 0 and 1 mean for the classes sick and well, say, nobody can know."""
    source = folders("10", *"3210456789")
    if not known:
        with pytest.raises(DataError, match=r"11 of 11 labels are not classes.*'0'"):
            find_answers(source, classes)
        return
    answers = find_answers(source, classes)
    assert [accepted for (accepted,) in answers.accepted[::2]] == [10, 3, 2, 1, 0, *range(4, 10)]
    assert "the labels 0 to 10 are taken for the numbers of the classes" in answers.note


def test_numbers_of_imagenet_are_those_of_its_order():
    answers = find_answers(folders(*map(str, range(1000))), IMAGENET)
    assert answers.accepted[2::2] == tuple((n,) for n in range(1, 1000))


@pytest.mark.parametrize(
    "names", [("0", "2"), ("1", "2"), ("low", "high"), ("0", "1", "2"), ("0", "00")], ids=str
)
@pytest.mark.parametrize("classes", [("sick", "well"), ("class 0", "class 1")], ids=str)
def test_equal_counts_are_no_reason_to_match(names, classes, label_map):
    """No order is assumed, and the label map that the remedy shows settles it."""
    with pytest.raises(DataError, match="not classes of the model") as refused:
        find_answers(folders(*names), classes)
    assert f'{{"{min(names, key=natural_key)}": "CLASS"' in refused.value.remedy
    labels = label_map({name: index % 2 for index, name in enumerate(names)})
    answers = find_answers(folders(*names), classes, labels)
    assert answers.accepted[::2] == tuple((index % 2,) for index in range(len(names)))


@pytest.mark.parametrize(
    "names", [("cat", "dgo", "owl"), ("1", "2"), ("1", "2", "3", "4")], ids=str
)
def test_folders_that_do_not_fit_are_named(names):
    with pytest.raises(DataError, match=r"not classes of the model: '[d1]"):
        find_answers(folders(*names), CLASSES)


def test_images_without_a_label_are_named():
    with pytest.raises(DataError, match=r"1 of 2 images have no label: 'a.png'"):
        find_answers(FileSource("", ["a.png", "cat/b.png"]), CLASSES)


def test_a_map_of_folders_restricts_the_answers(label_map):
    labels = label_map({"x": 2, "y": ["cat", "owl"], "unused": 0})
    answers = find_answers(folders("x", "y"), CLASSES, labels)
    assert answers.accepted == ((2,), (2,), (0, 2), (0, 2))
    assert answers.among == (0, 2)
    assert "2 classes" in answers.note


def test_a_map_of_files_does_not(label_map):
    source = FileSource("", ["deep/a.png", "b.png", "c.png"])
    labels = label_map({"a.png": [0, 1], "b.png": [], "c.png": "owl"})
    answers = find_answers(source, CLASSES, labels)
    assert answers == (((0, 1), (), (2,)), None, "")
    assert answers.answerable == [0, 2]


def test_a_list_goes_by_file_name(label_map):
    source = FileSource("", ["a/3.png", "b/1.png", "b/20.png"])
    answers = find_answers(source, CLASSES, label_map([[1], [2, 0], []]))
    assert answers.accepted == ((2, 0), (1,), ())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": 3}, "'x': 3 is not a class"),
        ({"x": True}, "True is not a class"),
        ({"x": ["cat", "cow"]}, "'cow' is not a class"),
        ({"y": 1}, "2 of 2 images are not in the label map"),
        ([[0]], "1 entries for 2 images"),
        ("cat", "neither an object nor a list"),
    ],
)
def test_wrong_maps(label_map, content, words):
    with pytest.raises(DataError, match=words):
        find_answers(folders("x"), CLASSES, label_map(content))


def test_unreadable_map(tmp_path):
    (tmp_path / "map.json").write_text("{")
    for name, reason in (("map.json", "is not JSON"), ("missing.json", "cannot be read")):
        with pytest.raises(DataError, match=f"{name} {reason}"):
            find_answers(folders("x"), CLASSES, str(tmp_path / name))
