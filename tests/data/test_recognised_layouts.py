"""What folders mean: splits, folds, classes at some level, masks, wrappers; and what is refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_folders import keys, labelled, some

from beit.config.data import Division, FolderConfig, Reading
from beit.data import folders, label_columns
from beit.data.dataset import Dataset, open_source, split_of
from beit.data.labelled import divide
from beit.doctor.check import check
from beit.errors import ConfigError, DataError

Draw = Callable[..., Path]


@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("train", "test"),
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("TRAIN", "Test Data"),
        ("train-images", "test-images"),
    ],
)
def test_a_test_split_is_never_trained_on(draw: Draw, train: str, other: str) -> None:
    classes = ("cat", "dog")
    root = draw(
        *some(*(f"{train}/{name}" for name in classes), count=4),
        *some(*(f"{other}/{name}" for name in classes)),
    )
    splits = labelled(root)
    assert splits.train.classes == classes
    assert splits.test is not None
    assert {key.split("/")[0] for key in keys(splits.train) + keys(splits.validation)} == {train}
    assert {key.split("/")[0] for key in keys(splits.test)} == {other}
    assert splits.train.account.images == {"train": 4, "val": 4, "test": 4}
    assert f"{train}/, {other}/" in splits.train.account.layout
    assert "held out for validation" in splits.train.account.notes[-1]
    learned = open_source(str(root))
    assert {key.split("/")[0] for key in keys(learned)} == {train}
    assert learned.account.notes == ("only 'train' is read: no image of test (4)",)
    assert set(Dataset(str(root)).splits()) == set(check(str(root)).images) == {"train", "test"}
    place, part = Dataset(str(root)).part("testing")
    assert (place, len(part), part.classes) == (str(root / other), 4, classes)
    assert keys(part)[0] == "cat/0.png"


@pytest.mark.parametrize("other", ["val", "Val", "valid", "validation", "dev", "validation_set"])
def test_validation_has_many_names(draw: Draw, other: str) -> None:
    root = draw(*some("Train/a", "Train/b", f"{other}/a", f"{other}/b"))
    splits = labelled(root)
    assert splits.test is None
    assert {key.split("/")[0] for key in keys(splits.validation)} == {other}
    assert len(Dataset(str(root)).part("valid")[1]) == 4


def test_a_test_split_without_classes_is_not_measured(draw: Draw) -> None:
    root = draw(*some("train/a", "train/b", "test"))
    splits = labelled(root)
    assert splits.test is None
    assert "test/ has no class folders and is not measured" in splits.train.account.notes
    draw("val/0.png")
    with pytest.raises(DataError, match="val has no class folders"):
        labelled(root)


def test_a_table_beside_images_is_named(draw: Draw) -> None:
    root = draw(*some("train"))
    (root / "train" / "metadata.csv").write_text("file_name,label\n")
    with pytest.raises(DataError, match=r"folders, and '.*metadata\.csv' may hold") as told:
        labelled(root)
    assert told.value.remedy.endswith(f"give its path itself: {root / 'train' / 'metadata.csv'}")


def test_two_folders_for_one_split(draw: Draw) -> None:
    root = draw(*some("train/a", "train/b", "val/a", "valid/a"))
    with pytest.raises(DataError, match=r"2 folders for the split val: 'val', 'valid'"):
        open_source(str(root))


def test_other_folders_beside_the_splits_are_counted(draw: Draw) -> None:
    root = draw(*some("train/a", "train/b", "val/a", "val/b", "extra", count=3))
    (skipped,) = open_source(str(root)).account.skipped
    assert (skipped.reason, skipped.count, skipped.extension) == ("beside the splits", 3, ".png")


def test_a_train_is_a_class_among_others(draw: Draw) -> None:
    assert labelled(draw(*some("car", "train", "bus"))).train.classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("folders", "match"),
    [
        (("a", "b", "test"), "holds test/ beside 'a', 'b': it may be the split for test, or a cla"),
        (("train/a", "train/b", "unlabelled"), "train/ beside 'unlabelled'"),
        (("site1/train", "site1/test", "site2/train", "site2/test"), "each divided by itself"),
        (("cats/train", "cats/test", "dogs/train", "dogs/test"), "'cats', 'dogs', each divided"),
        (("fold1/train", "fold1/test", "fold2/train", "fold2/test"), "each divided by itself"),
    ],
)
def test_two_plausible_readings_are_refused_by_all(
    draw: Draw, folders: tuple[str, ...], match: str
) -> None:
    root = draw(*some(*folders))
    for use in (labelled, lambda root: open_source(str(root)), lambda root: check(str(root))):
        with pytest.raises(DataError, match=match) as caught:
            use(root)
        assert caught.value.remedy


def test_images_of_their_own_beside_a_test_folder(draw: Draw) -> None:
    with pytest.raises(DataError, match="test/ beside images of their own"):
        open_source(str(draw("0.png", "1.png", "test/2.png")))


def test_sites_above_classes(draw: Draw) -> None:
    root = draw(*some("site1/ok", "site1/bad", "site2/ok", "site2/bad", count=3))
    with pytest.raises(
        DataError, match=r"'site1', 'site2' .*1\); or .*'bad', 'ok' .*2\)"
    ) as caught:
        labelled(root)
    assert caught.value.remedy.startswith(
        "say which: --class-level 1, or --class-level 2; if those"
    )
    assert labelled(root, class_level=1).train.classes == ("site1", "site2")
    inside = labelled(root, class_level=2)
    assert inside.train.classes == ("bad", "ok")
    assert inside.train.account.layout == "one folder per class at level 2"
    assert {key.split("/")[0] for key in keys(inside.train)} == {"site1", "site2"}
    source = open_source(str(root))  # which needs no classes
    assert source.classes == ()
    assert "no classes are taken" in source.account.notes[0]
    assert open_source(str(root), Reading(FolderConfig(class_level=2))).classes == ("bad", "ok")
    draw("site1/stray.png")  # makes no difference
    with pytest.raises(DataError, match="class-level"):
        labelled(root)
    with pytest.raises(ConfigError, match="class_level is 0"):
        FolderConfig(class_level=0)


def test_deeper_levels_of_a_split(draw: Draw) -> None:
    days = [f"{part}/{day}/{name}" for part in ("train", "val") for day in ("1", "2")
            for name in ("a", "b")]  # fmt: skip
    root = draw(*some(*days))
    splits = labelled(root, class_level=2)
    assert splits.validation.classes == ("a", "b")
    assert len(splits.validation) == 8
    place, part = Dataset(str(root), Reading(FolderConfig(class_level=2))).part("val")
    assert (place, part.classes) == (str(root / "val"), ("a", "b"))


def test_one_folder_inside_of_each_class_is_no_second_reading(draw: Draw) -> None:
    root = draw(*some("n01/images", "n02/images", count=4))
    assert labelled(root).train.classes == ("n01", "n02")
    assert open_source(str(root)).classes == ("n01", "n02")


def test_a_class_that_holds_the_classes_once_more(draw: Draw) -> None:
    root = draw(*some("a", "b", "sample/a"))
    with pytest.raises(DataError, match="sample holds 'a', which are classes beside it"):
        labelled(root)
    assert labelled(root, class_level=1).train.classes == ("a", "b", "sample")


def test_a_wrapper_around_it_all(draw: Draw) -> None:
    root = draw(*some("download/data/train/a", "download/data/train/b", "download/data/test/a",
                      "download/data/test/b", count=3))  # fmt: skip
    splits = labelled(root)
    assert splits.train.classes == ("a", "b")
    assert splits.test is not None
    assert keys(splits.test)[0] == "download/data/test/a/0.png"
    assert any("download/data/ is the only folder" in note for note in splits.train.account.notes)
    flat = draw("one/deep/0.png", "one/deep/1.png") / "one"
    source = open_source(str(flat))
    assert (keys(source), source.classes) == (["deep/0.png", "deep/1.png"], ())


def test_a_split_alone(draw: Draw) -> None:
    root = draw(*some("train/a", "train/b"))
    assert labelled(root).train.classes == ("a", "b")
    with pytest.raises(DataError, match="none called val"):
        Dataset(str(root)).part("val")
    (root / "train").rename(root / "testing")
    for use in (labelled, lambda root: open_source(str(root))):
        with pytest.raises(DataError, match="no split for training, only 'test'"):
            use(root)
    assert Dataset(str(root)).part("test")[1].classes == ("a", "b")


def test_folds(draw: Draw) -> None:
    root = draw(*some(*(f"folds/fold_{number}/{name}" for number in (1, 2, 10) for name in "ab")))
    with pytest.raises(DataError, match="'fold_1', 'fold_2', 'fold_10', and none is chosen"):
        labelled(root)
    splits = labelled(root, fold="fold_2")
    assert {key.split("/")[1] for key in keys(splits.train)} == {"fold_1", "fold_10"}
    assert {key.split("/")[1] for key in keys(splits.validation)} == {"fold_2"}
    assert splits.train.account.images == {"train": 8, "val": 4}
    assert len(open_source(str(root))) == 12
    assert len(open_source(str(root), Reading(FolderConfig(fold="fold_1")))) == 8
    assert len(Dataset(str(root)).part("fold_10")[1]) == 4
    assert set(Dataset(str(root)).splits()) == {"fold_1", "fold_2", "fold_10"}
    with pytest.raises(ConfigError, match="has no fold fold_3"):
        labelled(root, fold="fold_3")
    with pytest.raises(ConfigError, match="is not in folds"):
        labelled(root / "folds" / "fold_1", fold="fold_1")


def test_accents_are_the_same_name_however_they_are_written(draw: Draw) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = draw(*some(f"train/{composed}", "train/tea", f"val/{decomposed}", "val/tea"))
    splits = labelled(root)
    assert splits.train.classes == splits.validation.classes == (composed, "tea")
    assert keys(splits.validation)[0] == f"val/{decomposed}/0.png"
    assert splits.validation.read(0).data == (root / "val" / decomposed / "0.png").read_bytes()


def test_classes_that_differ_in_case_are_named(draw: Draw) -> None:
    account = labelled(draw(*some("Cat", "cat", "dog"))).train.account
    assert "the classes 'Cat', 'cat' differ in case or blanks only" in account.notes
    account = labelled(draw(*some("x/a  b", "x/a b", "x/dog\u200b", "x/dog")) / "x").train.account
    assert "the classes 'a  b', 'a b' differ in case or blanks only" in account.notes
    assert "the classes 'dog', 'dog\\u200b' differ in case or blanks only" in account.notes


def test_going_on_without_a_class(draw: Draw) -> None:
    root = draw(*some("train/a", "train/b", "train/c", "val/a", "val/d"))
    with pytest.raises(DataError, match="lacks 'b', 'c' and has besides 'd'") as caught:
        labelled(root)
    assert "--accept-missing-classes" in caught.value.remedy
    splits = labelled(root, accept_missing_classes=True)
    assert splits.validation.classes == splits.train.classes == ("a", "b", "c")
    assert keys(splits.validation) == ["val/a/0.png", "val/a/1.png"]
    assert [splits.validation.read(index).target for index in range(2)] == [0, 0]
    assert splits.train.account.notes == (
        "val lacks 'b', 'c' and has besides 'd' (--accept-missing-classes)",
        "2 images of val skipped: of other classes",
    )
    assert splits.train.account.classes["val"] == {"a": 2, "b": 0, "c": 0}
    for name in ("0.png", "1.png"):
        (root / "val" / "a" / name).unlink()
    with pytest.raises(DataError, match="none of the classes"):
        labelled(root, accept_missing_classes=True)


def test_ids_of_classes_are_those_of_training(draw: Draw) -> None:
    """Without the first class the ids of the others would be shifted."""
    splits = labelled(
        draw(*some("train/a", "train/b", "train/c", "test/b", "test/c")),
        accept_missing_classes=True,
    )
    assert splits.test is not None
    assert [splits.test.read(index).target for index in range(4)] == [1, 1, 2, 2]


def test_images_beside_the_class_folders_are_counted(draw: Draw) -> None:
    splits = labelled(draw(*some("a", "b"), "stray.png"))
    (skipped,) = splits.train.account.skipped
    assert (skipped.examples, skipped.count) == (("stray.png",), 1)
    assert "no label" in skipped.reason
    assert len(splits.train) + len(splits.validation) == 4


def test_a_folder_is_walked_once_and_a_label_file_read_once(
    draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often what is in them is requested."""
    names = some("train/a", "train/b", "val/a", "val/b")
    root = draw(*names)
    (root / "list.csv").write_text("".join(f"{name},{name[-7]}\n" for name in names))
    done: list[str] = []
    for module, name in ((folders, "find_images"), (label_columns, "read_table")):
        function = getattr(module, name)

        def counted(*given: object, do: Callable[..., object] = function) -> object:
            done.append(str(given[0]))
            return do(*given)

        monkeypatch.setattr(module, name, counted)
    for path in (str(root), str(root / "list.csv")):
        data = Dataset(path)
        learned = data.training()
        before = learned.account
        splits = divide(data, Division(split=0.5, seed=0))
        assert len(data.part("val").source) == len(data.splits()["val"]) == 4
        assert keys(splits.train) == keys(learned) == names[:4]
        assert learned.account is before  # of what is learned from, not of all splits
        assert done.count(path) == 1


@pytest.mark.parametrize("inside", ["imgs/", ""])
def test_label_files_beside_the_images_are_named(draw: Draw, inside: str) -> None:
    root = draw(f"{inside}a.png", f"{inside}b.png")
    (root / "labels.csv").write_text("image,label\n")
    with pytest.raises(DataError) as caught:
        labelled(root)
    assert str(root / "labels.csv") in caught.value.remedy


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("pets_train", "pets_test"),
        ("X_train", "X_test"),
        ("train", "test1"),
        ("trainval", "test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)
def test_splits_behind_a_beginning_that_they_share(draw: Draw, train: str, test: str) -> None:
    root = draw(*some(f"{train}/a", f"{train}/b", f"{test}/a", f"{test}/b", count=4))
    splits = labelled(root)
    assert splits.test is not None
    assert splits.train.classes == ("a", "b")
    assert all(key.startswith(test) for key in keys(splits.test))
    assert splits.train.account.images == {"train": 4, "val": 4, "test": 8}
    parts = Dataset(str(root)).parts()  # by which they are packed, and read again
    assert {split_of(place) for place in parts} == {*check(str(root)).images} == {"train", "test"}


def test_a_folder_for_validation_beside_classes_is_a_class_by_option_only(draw: Draw) -> None:
    root = draw(*some("a", "b", "validation"))
    with pytest.raises(DataError, match="may be the split for val, or a class") as caught:
        labelled(root)
    assert "--class-level 1" in caught.value.remedy
    assert labelled(root, class_level=1).train.classes == ("a", "b", "validation")


def test_one_folder_of_a_test_split_that_is_no_class_has_no_labels(draw: Draw) -> None:
    root = draw(*some("train/a", "train/b", "test/unknown"))
    splits = labelled(root)
    assert splits.test is None
    assert "test/ has no class folders and is not measured" in splits.train.account.notes
    (root / "test" / "unknown").rename(root / "test" / "a")
    with pytest.raises(DataError, match="lacks 'b'"):
        labelled(root)


def test_images_beside_the_splits_are_counted(draw: Draw) -> None:
    root = draw("cover.png", *some("train/a", "train/b", "val/a", "val/b"))
    (skipped,) = labelled(root).train.account.skipped
    assert (skipped.reason, skipped.examples) == ("beside the splits", ("cover.png",))
    data = draw("x/cover.png", *some("x/data/a", "x/data/b")) / "x"
    assert labelled(data).train.classes == ("a", "b")


def test_folders_inside_of_class_folders_are_named_and_thumbnails_skipped(draw: Draw) -> None:
    account = labelled(draw(*some("a", "b", "a/test", "b/thumbs"))).train.account
    assert "2 images in folders inside the class folders: 'a/test/'" in account.notes
    assert [(one.reason, one.examples) for one in account.skipped] == [
        ("thumbnails", ("b/thumbs/",))
    ]
