"""Folders as public data sets and their downloads have them: what is around the images, between the
splits, and what only looks like classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from beit.config.data import Division, FolderConfig, LabelFileConfig, Reading
from beit.data.dataset import Dataset, open_source, split_of
from beit.data.folders import open_every_image
from beit.data.labelled import LabelledSplits, divide
from beit.data.sources import ImageSource
from beit.errors import DataError

Draw = Callable[..., Path]


def some(*folders: str, count: int = 4) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(count)]


def keys(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def labelled(root: Path, class_level: int | None = None) -> LabelledSplits:
    reading = Reading(FolderConfig(class_level=class_level))
    return divide(Dataset(str(root), reading), Division(split=0.5, seed=0))


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


PARTS = ("images_001/images", "images_002/images", "images_012/images")


@pytest.mark.parametrize(
    ("names", "instead"),
    [
        (some(*PARTS), "the parts of one set"),
        (some("HAM_images_part_1", "HAM_images_part_2"), "the parts of one set"),
        (some("part_A", "part_B"), "the parts of one set"),
        (some("New folder", "New folder (2)"), "the parts of one set"),
        (some("Photos from 2019", "Photos from 2020"), "the parts of one set"),
        (some("2023-05-01", "2023-05-02 Berlin"), "dates"),
        (some("100CANON", "101CANON"), "camera folders"),
        ([f"S2{at}/S2{at}_{band}.png" for at in "AB" for band in ("B02", "B8A")], "their bands in"),
        ([f"{at}/{band}.png" for at in ("x", "y") for band in ("red", "nir")], "their bands in"),
        ([f"{at}/{name}.png" for at in ("visible", "infrared") for name in (11, 23, 907)],
         "views of the same images"),
        ([f"train_{at}/{at}_patch_{name}.png" for at in ("red", "nir") for name in ("1_2", "3", 7)],
         "views of the same images"),
    ],
)  # fmt: skip
def test_folders_that_only_look_like_classes(draw: Draw, names: list[str], instead: str) -> None:
    root = draw(*names)
    table = write(root, "labels.csv", "image,label\n")
    with pytest.raises(DataError, match=instead) as caught:
        labelled(root)
    assert "if they are classes, add --class-level 1" in caught.value.remedy
    assert str(table) in caught.value.remedy
    source = open_source(str(root))
    assert (len(source), source.classes) == (len(names), ())
    assert source.account.notes[0].startswith("no classes are taken: the folders ")
    folders = {name.split("/")[0] for name in names}
    assert {*labelled(root, class_level=1).train.classes} == folders


@pytest.mark.parametrize(
    "names",
    [
        some("s1", "s2", "s10"),  # as many of each, counted: faces
        [f"{name}/{name}_{at}.png" for name in ("cat", "dog") for at in (3, 9, 14)]
        + ["dog/dog_15.png"],
        some("1950", "1960"),
        some("Class 1", "Class 2"),
        [f"{name}/{at}.png" for name in ("red", "green") for at in (3, 9, 14)]
        + ["red/18.png", "green/17.png"],
    ],
)
def test_folders_that_are_classes(draw: Draw, names: list[str]) -> None:
    root = draw(*names)
    assert {*labelled(root).train.classes} == {name.split("/")[0] for name in names}


def test_class_folders_beside_a_folder_of_images(draw: Draw) -> None:
    root = draw(*some("labelled/cat", "labelled/dog", "unlabelled"))
    with pytest.raises(DataError, match=r"'labelled', 'unlabelled' .*1\); or .*'cat', 'dog' "):
        labelled(root)
    assert open_source(str(root)).classes == ()
    inside = labelled(root, class_level=2)
    assert inside.train.classes == ("cat", "dog")
    (skipped,) = inside.train.account.skipped
    assert (skipped.count, skipped.examples[0]) == (4, "unlabelled/0.png")


@pytest.mark.parametrize("part", ["val", "test"])
def test_images_of_a_split_in_a_folder_that_is_no_class(draw: Draw, part: str) -> None:
    """As of Tiny ImageNet, whose labels for validation are in a list."""
    root = draw(*some("train/a/images", "train/b/images", f"{part}/images"))
    listed = write(root, f"{part}/{part}_annotations.txt", "0.png\ta\t0\t0\t1\t1\n")
    assert Dataset(str(root)).splits()[part].classes == ()
    if part == "test":
        assert labelled(root).test is None
        return
    with pytest.raises(DataError, match="val has no class folders") as caught:
        labelled(root)
    assert f"learn from {root / 'train'} alone" in caught.value.remedy
    assert str(listed) in caught.value.remedy
    assert labelled(root / "train").train.classes == ("a", "b")


def test_lists_of_splits_beside_class_folders_are_named_and_read(draw: Draw) -> None:
    """As of Food-101 and DTD: class folders, and lists of names without extension or label."""
    root = draw(*some("images/pie", "images/soup"))
    text = "".join(f"{name}/{at}\n" for name in ("pie", "soup") for at in range(3))
    train = write(root, "meta/train.txt", text)
    write(root, "meta/test.txt", "pie/3\nsoup/3\n")
    (note,) = [one for one in labelled(root).train.account.notes if "lists" in one]
    assert note.endswith("only read if given as --data: 'meta/test.txt', 'meta/train.txt'")
    found = Dataset(str(train), Reading(label_file=LabelFileConfig(image_folder=f"{root}/images")))
    source = found.labelled()["train"]
    assert (source.classes, len(source)) == (("pie", "soup"), 6)
    assert source.account.layout == "a label file, labels by the folders in the names"


@pytest.mark.parametrize("names", [PARTS, ("a/x", "b/y"), ("a", "b/y"), ("", "")])
def test_folders_in_names_that_are_no_classes(draw: Draw, names: tuple[str, ...]) -> None:
    images = [f"{name}/{number}.png".lstrip("/") for name in names for number in range(3)]
    root = draw(*images)
    listed = write(root, "list.txt", "\n".join(dict.fromkeys(images)))
    with pytest.raises(DataError, match="has no labels"):
        Dataset(str(listed)).labelled()


@pytest.mark.parametrize(
    ("images", "others", "reason"),
    [
        (["Data/ISIC_02.jpg", "Data/ISIC_31.jpg"],
         [f"Part1_GroundTruth/ISIC_{at}_segmentation.png" for at in ("02", "31")], "masks"),
        (["x/images_png/1.png", "x/images_png/2.png"], ["x/masks_png/1.png", "x/masks_png/2.png"],
         "masks"),
        (["RGB/top_2_10_RGB.png", "RGB/top_3_7_RGB.png"],
         ["Labels_all/top_2_10_label.png", "Labels_all/top_3_7_label.png"], "masks"),
        (["images/a.jpg", "images/b.jpg"],
         ["v2/depth/a.png", "v2/depth/b.png", "v2/stereo/a.png"], "named as the images in images/"),
        (["JPEGImages/a.jpg", "JPEGImages/b.jpg"], ["SegmentationClassContext/a.png"], "masks"),
        (["p/1.png", "p/2.png"], ["p/Label/1_label.png"], "masks"),
        (["a_sat.jpg", "b_sat.jpg"], ["a_mask.png", "b_mask.png"], "masks by their names"),
        (["1L.jpg", "2R.jpg"], ["1L_1stHO.png", "1L_2ndHO.png", "2R_1stHO.png", "2R_2ndHO.png"],
         "masks by their names"),
    ],
)  # fmt: skip
def test_what_is_called_after_images_is_none_to_learn_from(
    draw: Draw, images: list[str], others: list[str], reason: str
) -> None:
    root = draw(*images, *others)
    for read in (open_source, open_every_image)[: 1 + reason.startswith("masks")]:
        source = read(str(root))
        assert keys(source) == images
        (skipped,) = source.account.skipped
        assert (skipped.reason, skipped.count) == (reason, len(others))


@pytest.mark.parametrize(
    "names",
    [
        some("hat", "mask", "cape"),
        some("with_mask", "without_mask"),
        [f"{name}/{at}.jpg" for name in ("cat", "no_label") for at in ("a", "b")],
        ["cat/img.jpg", "cat/img_2.png", "dog/img_1.jpg", "dog/img_1_2.png"],
        [f"{name}/{name} ({at}).png" for name in ("benign", "normal") for at in (1, 2, 3)],
    ],
)
def test_class_folders_called_as_masks_are_classes(draw: Draw, names: list[str]) -> None:
    found = labelled(draw(*names))
    assert {*found.train.classes} == {name.split("/")[0] for name in names}
    assert len(found.train) + len(found.validation) == len(names)


def test_folders_of_a_single_image_that_every_split_has_are_classes(draw: Draw) -> None:
    """One label per class is little, and no other layout."""
    names = ("ant", "bee", "cow", "dog")
    root = draw(
        *some(*(f"{split}/{name}" for split in ("train", "val") for name in names), count=1)
    )
    assert labelled(root).train.classes == names


def test_numbers_of_articles_are_classes_though_cameras_number_folders_too(draw: Draw) -> None:
    assert labelled(draw(*some("10023456", "10023457"))).train.classes == ("10023456", "10023457")
