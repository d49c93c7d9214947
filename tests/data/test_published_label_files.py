"""Label files as public data sets and labelling tools write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from beit.config.data import LabelFileConfig, Reading
from beit.data.dataset import Dataset
from beit.data.sources import ImageSource
from beit.doctor.check import check
from beit.errors import ConfigError, DataError

Draw = Callable[..., Path]
PLAIN = LabelFileConfig()


def write(root: Path, name: str, text: str) -> Path:
    place = root / name
    place.write_text(text)
    return place


def opened(root: Path, text: str, reading: LabelFileConfig = PLAIN) -> ImageSource:
    place = write(root, "list.csv", text)
    return Dataset(str(place), Reading(label_file=reading)).labelled()["train"]


def keys(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def test_names_from_the_root_of_the_images(draw: Draw) -> None:
    """As of Places365: `/a/airfield/0.jpg 0`, while 0.jpg is the name of images, too."""
    names = [f"data/{one}/{at}.jpg" for one in ("a/airfield", "b/bar") for at in (0, 1)]
    root = draw(*names)
    text = "".join(f"/{name[5:]} {int('bar' in name)}\n" for name in names)
    source = opened(root, text, LabelFileConfig(image_folder=f"{root}/data"))
    assert (keys(source), source.classes) == ([name[5:] for name in names], ("0", "1"))
    assert source.targets is not None
    assert source.targets.tolist() == [0, 0, 1, 1]


def test_numbers_that_are_names_of_images_too(draw: Draw) -> None:
    root = draw("val/img_1.jpg", "val/img_2.jpg", "val/0.jpg", "val/7.jpg")
    source = opened(root, "img_1.jpg 0\nimg_2.jpg 7\n0.jpg 0\n7.jpg 7\n")
    assert (len(source), source.classes) == (4, ("0", "7"))


def test_cells_that_mostly_stand_alone_are_no_classes(draw: Draw) -> None:
    """As of ImageNet's solution file: a class and a box in one cell."""
    root = draw(*(f"{at}.png" for at in range(8)))
    boxes = ["n01 1 2 3 4", "n01 1 2 3 4", *(f"n0{at} 1 2 3 {at}" for at in range(6))]
    text = "ImageId,PredictionString\n" + "".join(f"{at},{box}\n" for at, box in enumerate(boxes))
    with pytest.raises(DataError, match="6 of the 8 cells of column 'PredictionString'") as told:
        opened(root, text)
    assert "--label-column" in told.value.remedy
    named = LabelFileConfig(label_column="PredictionString")
    assert len(opened(root, text, named).classes) == 7


def test_a_coordinate_is_no_label(draw: Draw) -> None:
    root = draw("0.png", "1.png")
    text = "Image Index,Finding Label,Bbox [x,y,w,h]\n0.png,Mass,1,2,3,4\n1.png,Nodule,1,2,3,4\n"
    assert opened(root, text).classes == ("Mass", "Nodule")
    with pytest.raises(DataError, match=r"no column of .* clearly holds the labels"):
        opened(root, text.replace("Finding Label", "Patient"))
    assert opened(root, "image,y\n0.png,a\n1.png,b\n").classes == ("a", "b")


def test_what_another_set_is_tested_on_is_never_trained_on(draw: Draw) -> None:
    """As of WILDS: val, test, id_val and id_test."""
    root = draw(*(f"{at}.png" for at in range(10)))
    names = ("train", "val", "test", "id_val", "id_test")
    text = "filename,split,y\n" + "".join(
        f"{at}.png,{names[at % 5]},{at // 5}\n" for at in range(10)
    )
    for reading in (PLAIN, LabelFileConfig(validation_fold="id_val")):
        with pytest.raises(DataError, match="in column 'split', which is no split"):
            opened(root, text, reading)
    both = LabelFileConfig(validation_fold="id_val", test_fold="id_test")
    assert len(opened(root, text, both)) == 2
    assert len(opened(root, text, LabelFileConfig(split_column="none"))) == 10


def test_labels_with_spaces_behind_names(draw: Draw) -> None:
    """As of FGVC-Aircraft, whose names lack the extension, too."""
    root = draw("images/0034309.jpg", "images/0034958.jpg", "images/0037511.jpg")
    source = opened(root, "0034309 707-320\n0034958 A340 200\n0037511 707-320\n")
    assert (keys(source)[1], source.classes) == ("images/0034958.jpg", ("707-320", "A340 200"))


def test_lines_that_name_folders(draw: Draw) -> None:
    """As of MURA, whose labels are those of studies."""
    root = draw("p1/study1_positive/1.png", "p2/study1_negative/1.png")
    with pytest.raises(DataError, match="do not exist") as caught:
        opened(root, "p1/study1_positive/,1\np2/study1_negative/,0\n")
    assert caught.value.remedy.startswith("'p1/study1_positive/' is a folder")
    assert "--class-level" in caught.value.remedy


def test_objects_in_cells_are_no_labels(draw: Draw) -> None:
    root = draw("0.png", "1.png", "2.png")
    text = 'image,choice\n0.png,Cat\n1.png,Dog\n2.png,"{""a"":[""Cat"",""Dog""]}"\n'
    with pytest.raises(DataError, match="holds JSON objects, such as ") as caught:
        opened(root, text)
    assert "cat|dog under the heading tags" in caught.value.remedy
    twice = text + "3.png,Cat\n"
    assert len(opened(draw("3.png"), twice, LabelFileConfig(label_column="choice")).classes) == 3


def test_labels_of_another_column_do_not_stop_learning_without_them(draw: Draw) -> None:
    root = draw("0.png", "1.png")
    (root / "list.csv").write_text('image,choice\n0.png,"{""a"":1}"\n1.png,b\n')
    assert any(
        "labels are not used" in note for note in check(str(root / "list.csv")).account.notes
    )


def test_attributes_of_celeba(draw: Draw) -> None:
    """A count, headings that lack the first, cells between any number of spaces, and -1."""
    root = draw(*(f"img_align_celeba/{at:06d}.jpg" for at in range(1, 5)))
    rows = ["-1  1", " 1  1", "-1 -1", " 1 -1"]
    text = "4\n5_o_Clock_Shadow Male \n"
    text += "".join(f"{at:06d}.jpg {row}\n" for at, row in enumerate(rows, start=1))
    source = opened(root, text)
    assert source.classes == ("5_o_Clock_Shadow", "Male")
    assert source.targets is not None
    assert source.targets.astype(int).tolist() == [[0, 1], [1, 1], [0, 0], [1, 0]]
    assert "the first line, which counts the others, is skipped" in source.account.notes
    with pytest.raises(DataError, match=r"line 5 .*'000009\.jpg'"):
        opened(root, text.replace("000003", "000009"))
    with pytest.raises(
        DataError, match=r"no column .* clearly holds the labels: it has the columns 'x'"
    ):
        opened(root, "4\nx  z\n" + "".join(f"{at:06d}.jpg  {at} 9\n" for at in range(1, 5)))


def test_a_first_line_that_is_no_count(draw: Draw) -> None:
    root = draw("3.png", "1.png", "2.png", "4.png")
    assert len(Dataset(str(write(root, "list.txt", "3\n1\n2\n4\n"))).training()) == 4


def test_a_list_of_splits_holds_no_labels(draw: Draw) -> None:
    root = draw(*(f"{at}.jpg" for at in range(6)))
    place = write(
        root, "list_eval_partition.txt", "".join(f"{at}.jpg {at % 3}\n" for at in range(6))
    )
    with pytest.raises(DataError, match="has '0' in column 2: it may be a fold"):
        Dataset(str(place)).labelled()
    folds = LabelFileConfig(validation_fold="1", test_fold="2")
    splits = Dataset(str(place), Reading(label_file=folds)).splits()
    assert {name: len(part) for name, part in splits.items()} == {"train": 2, "val": 2, "test": 2}
    named = LabelFileConfig(label_column="2")
    assert len(Dataset(str(place), Reading(label_file=named)).labelled()["train"].classes) == 3


BIRDS = [f"images/{name}/{name[4:]}_{at:04d}.jpg" for name in ("001.Albatross", "002.Auklet")
         for at in range(4)]  # fmt: skip


def birds(draw: Draw) -> Path:
    """As of CUB-200 and NABirds: all lists are about the numbers of images.txt."""
    root = draw(*BIRDS)
    numbered = [*enumerate((name.removeprefix("images/") for name in BIRDS), start=11)]
    write(root, "images.txt", "".join(f"{at} {name}\n" for at, name in numbered))
    write(root, "image_class_labels.txt", "".join(f"{at} {name[2]}\n" for at, name in numbered))
    test = "".join(f"{at} {int(at % 4 > 0)}\n" for at, _ in numbered)
    write(root, "train_test_split.txt", f"{test}99 1\n")
    return root


def test_lists_that_are_joined_by_numbers(draw: Draw) -> None:
    root = birds(draw)
    lists = ("image_class_labels.txt", "train_test_split.txt")
    for name in lists:
        with pytest.raises(DataError, match="do not exist") as refused:
            Dataset(str(root / name)).labelled()
        assert "images.txt gives to images" in refused.value.remedy
        assert f"--join {name}" in refused.value.remedy
    for options in ({"join": lists, "test_fold": "0"}, {"join": lists[::-1], "test_fold": "0"}):
        reading = Reading(label_file=LabelFileConfig(**options))  # type: ignore[arg-type]
        splits = Dataset(str(root / "images.txt"), reading).labelled()
        assert {name: len(part) for name, part in splits.items()} == {"train": 6, "test": 2}
        train = splits["train"]
        assert train.targets is not None
        named = [int(key[9]) for key in keys(train)]
        assert [int(train.classes[target]) for target in train.targets] == named
        assert f"joined from {lists[1]}: 'train_test_split'" in train.account.notes
    with pytest.raises(DataError, match="in column 'train_test_split': it may be a fold"):
        Dataset(str(root / "images.txt"), Reading(label_file=LabelFileConfig(join=lists))).splits()


@pytest.mark.parametrize("number", ["{}", "bird_{}"])
@pytest.mark.parametrize("heading", ["", "image label\n", "number genus\n"])
def test_a_list_that_is_joined_may_name_more_images(draw: Draw, number: str, heading: str) -> None:
    root = draw(*BIRDS)
    numbered = [(number.format(at), name) for at, name in enumerate(BIRDS)]
    write(root, "images.txt", "".join(f"{at} {name}\n" for at, name in numbered[1:]))
    genera = "".join(f"{at} {name.split('/')[1][4:]}\n" for at, name in numbered)
    write(root, "genera.txt", heading + genera)
    title = heading.split()[1] if heading else "genera"
    reading = Reading(label_file=LabelFileConfig(join=("genera.txt",), label_column=title))
    train = Dataset(str(root / "images.txt"), reading).labelled()["train"]
    assert (len(train), train.classes) == (7, ("Albatross", "Auklet"))
    assert f"joined from genera.txt: '{title}'" in train.account.notes


def test_attributes_joined_with_a_partition(draw: Draw) -> None:
    root = draw(*(f"img/{at:02d}.jpg" for at in range(6)))
    rows = [f"{at:02d}.jpg {1 - 2 * (at % 2)} {2 * (at > 2) - 1}\n" for at in range(6)]
    write(root, "list_eval_partition.txt", "".join(f"{at:02d}.jpg {at % 3}\n" for at in range(6)))
    write(
        root,
        "folds.csv",
        "image_id,fold\n" + "".join(f"{at:02d}.jpg,{at % 3}\n" for at in range(6)),
    )
    for other in ("list_eval_partition.txt", "folds.csv"):
        joined = LabelFileConfig(join=(other,), validation_fold="1", test_fold="2")
        place = write(root, "list_attr.txt", "6\nHat Male\n" + "".join(rows))
        splits = Dataset(str(place), Reading(label_file=joined)).labelled()
        assert {name: keys(part) for name, part in splits.items()} == {
            "train": ["img/00.jpg", "img/03.jpg"],
            "val": ["img/01.jpg", "img/04.jpg"],
            "test": ["img/02.jpg", "img/05.jpg"],
        }
        assert splits["val"].classes == ("Hat", "Male")


def test_lists_that_cannot_be_joined(draw: Draw) -> None:
    root = birds(draw)
    write(root, "short.txt", "11 1\n12 1\n")
    for name, error, words in (
        ("short.txt", DataError, "has no column with one row for each of the 8 rows"),
        ("none.txt", ConfigError, "join names none.txt, and there is no such file"),
    ):
        with pytest.raises(error, match=words):
            Dataset(
                str(root / "images.txt"), Reading(label_file=LabelFileConfig(join=(name,)))
            ).labelled()
