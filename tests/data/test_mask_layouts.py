"""Where images and masks lie, and which belong together: recognised, or refused with the option."""

from __future__ import annotations

import shutil
import unicodedata

import numpy as np
import pytest
from mask_folders import check_pairs, opened, pairs, put
from PIL import Image

from beit.config import MaskConfig
from beit.data.segmented import SegmentationData
from beit.errors import DataError
from segmented_folder import NAMES, write_folder

LAYOUTS = {
    "images and masks": ("images/{}.jpg", "masks/{}.png"),
    "mmsegmentation": ("img_dir/{}.jpg", "ann_dir/{}.png"),
    "YOLO's folders": ("images/{}.jpg", "labels/{}.png"),
    "capitals": ("Images/{}.jpg", "Masks/{}.png"),
    "short": ("imgs/{}.jpg", "masks/{}.png"),
    "deeper": ("images/a/b/{}.jpg", "masks/a/b/{}.png"),
    "extension kept": ("images/{}.jpg", "masks/{}.jpg.png"),
    "suffix": ("images/{}.jpg", "masks/{}_mask.png"),
    "another suffix": ("images/{}.jpg", "masks/{}-ground.truth.png"),
    "another beginning": ("images/{}.jpg", "masks/mask_{}.png"),
    "in another spelling": ("images/{}_É.jpg", "masks/{}_é.png"),
    "beside each other": ("{}.jpg", "{}_mask.png"),
    "beside each other, by extension": ("{}.jpg", "{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("divided", ["whole", "below", "above"])
def test_layouts_are_recognised(tmp_path, layout, divided):
    image, mask = LAYOUTS[layout]
    for start, (train, *_) in enumerate((("train",), ("val",))):
        places = []
        for place in (image, mask):
            top, slash, rest = place.partition("/")
            if divided == "below" and slash:
                place = f"{top}/{train}/{rest}"
            elif divided != "whole":
                place = f"{train}/{place}"
            places.append(place)
        pairs(tmp_path, *places, start=6 * start)
    found = opened(tmp_path)
    for source in (found.train, found.validation):
        assert len(source) > 0
        check_pairs(source, "_É")
    if divided != "whole":
        assert (len(found.train), len(found.validation)) == (6, 6)
    assert found.masks.layout == "folders"
    assert found.account.layout


def test_what_was_understood_of_names_is_in_the_account(tmp_path):
    notes = opened(pairs(tmp_path / "a", mask="masks/{}_gt.png")).account.notes
    assert "the names of masks end in '_gt'" in notes
    notes = opened(pairs(tmp_path / "b", mask="masks/{}.jpg.png")).account.notes
    assert "masks carry the extension of their image" in notes
    notes = opened(pairs(tmp_path / "c", "images/{}A.jpg", "masks/{}a.png")).account.notes
    assert "names of images and masks differ in case" in notes
    composed, parts = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    notes = opened(
        pairs(tmp_path / "d", f"images/{{}}{composed}.jpg", f"masks/{{}}{parts}.png")
    ).account.notes
    assert "names of images and masks differ in their Unicode form (NFC, NFD)" in notes


def test_images_of_similar_names_are_not_mixed_up(tmp_path):
    """`s1_2` is an image, and no mask of `s1` with the suffix `_2`."""
    for number, name in enumerate(("s1", "s1_2")):
        put(tmp_path / f"images/{name}.jpg")
        put(tmp_path / f"masks/{name}.png", labels=number)
    put(tmp_path / "images/s3.jpg")
    put(tmp_path / "masks/s3.png", labels=3)
    (tmp_path / "masks/s1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images have no mask in masks: 'images/s1\.jpg'"):
        opened(tmp_path)


def test_suffixes_by_option_and_files_without_them(tmp_path):
    root = pairs(tmp_path, "leftImg8bit/a/{}_leftImg8bit.png", "gtFine/a/{}_gtFine_labelIds.png")
    pairs(tmp_path, "leftImg8bit/a/{}_leftImg8bit.png", "gtFine/a/{}_gtFine_color.png")
    with pytest.raises(DataError, match="masks have no image") as raised:
        opened(root)
    assert "--mask-suffix (and --image-suffix)" in raised.value.remedy
    found = opened(root, image_suffix="_leftImg8bit", mask_suffix="_gtFine_labelIds")
    check_pairs(found.train, "_leftImg8bit")
    (skipped,) = found.account.skipped
    assert (skipped.count, skipped.reason) == (6, "its name does not end in '_gtFine_labelIds'")
    with pytest.raises(DataError, match="no name of a mask in gtFine ends in '_x'"):
        opened(root, image_suffix="_leftImg8bit", mask_suffix="_x")


def test_endings_on_both_sides_that_differ_between_splits(tmp_path):
    """As of DRIVE: 21_training.tif with 21_manual1.gif, 01_test.tif with 01_manual1.gif."""
    pairs(tmp_path, "train/images/{}_training.jpg", "train/masks/{}_manual.png")
    root = pairs(tmp_path, "val/images/{}_test.jpg", "val/masks/{}_manual.png")
    found = opened(root)
    check_pairs(found.train, "_training")
    check_pairs(found.validation, "_test")
    assert (
        "the names of masks end with '_manual', where those of images end with '_training'"
    ) in found.account.notes
    beside = opened(pairs(tmp_path / "one", "{}_sat.jpg", "{}_mask.png"))
    check_pairs(beside.train, "_sat")


def test_requested_masks_with_the_splits_of_the_images_below_them(tmp_path):
    """As of COCO-Stuff: train2017/ and val2017/, and once more below the folder of the masks."""
    for split in ("train2017", "val2017"):
        root = pairs(tmp_path, f"{split}/{{}}.jpg", f"pixelmaps/{split}/{{}}.png")
    found = opened(root, annotations="pixelmaps")
    assert found.account.images == {"train": 6, "val": 6}
    check_pairs(found.train)


def test_the_usual_folder_of_images_among_several_beside_requested_masks(tmp_path):
    """As of Supervisely: img/, masks_machine/ and masks_human/."""
    root = pairs(tmp_path, "img/{}.jpg", "masks_machine/{}.jpg.png")
    pairs(tmp_path, "img/{}.jpg", "masks_human/{}.jpg.png")
    check_pairs(opened(root, annotations="masks_machine").train)


def test_images_without_a_mask(tmp_path):
    root = pairs(tmp_path)
    (root / "masks/s2.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 images have no mask") as raised:
        opened(root)
    assert "--unmasked background" in raised.value.remedy
    assert "--unmasked skip" in raised.value.remedy
    skipped = opened(root, unmasked="skip")
    assert len(skipped.train) + len(skipped.validation) == 5
    assert skipped.account.skipped[0].examples == ("images/s2.jpg",)
    found = opened(root, unmasked="background")
    assert len(found.train) + len(found.validation) == 6
    assert "1 image without a mask: all background (--unmasked background)" in (found.account.notes)
    both = [source.read(at) for source in found[:2] for at in range(len(source))]
    (labels,) = [one.labels for one in both if one.key == "images/s2.jpg"]
    assert labels.shape == (16, 9)
    assert not labels.any()
    before = found.train.fingerprint(), found.validation.fingerprint()
    put(root / "masks/s2.png", labels=2)
    after = opened(root)
    assert before != (after.train.fingerprint(), after.validation.fingerprint())


def test_several_folders_of_masks_are_two_readings(tmp_path):
    root = pairs(pairs(tmp_path), mask="labels/{}.png")
    with pytest.raises(DataError, match="several folders of masks: 'labels', 'masks'") as raised:
        opened(root)
    assert "--annotations labels" in raised.value.remedy
    check_pairs(opened(root, annotations="labels").train)
    (root / "labels").rename(root / "drawn by hand")
    check_pairs(opened(root, annotations="drawn by hand").train)
    (root / "masks").rename(root / "labels")
    (root / "labels").rename(root / "other")
    with pytest.raises(DataError, match="--annotations names a folder of masks"):
        opened(root)


def test_what_cvat_writes_in_the_layout_of_voc(tmp_path):
    pairs(tmp_path, "JPEGImages/{}.png", "SegmentationClass/{}.png")
    for place in (tmp_path / "SegmentationClass").iterdir():
        labels = np.asarray(Image.open(place))
        colours = np.array([[0, 0, 0], [250, 50, 20]], np.uint8)[labels]
        Image.fromarray(colours).save(place)
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("".join(f"s{number}\n" for number in range(6)))
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nroof:250,50,20::\n")
    found = opened(tmp_path)
    assert found.train.classes == ("background", "roof")
    assert found.masks.layout == "voc"
    check_pairs(found.train)


def test_voc_ignores_its_borders(tmp_path):
    folder = write_folder(tmp_path / "data", train=3, validation=1)
    root = tmp_path / "VOC2012"
    shutil.copytree(folder / "images/train", root / "JPEGImages")
    shutil.copytree(folder / "masks/train", root / "SegmentationClass")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in (("train", "00\n01"), ("val", "02"), ("trainval", "00\n01\n02")):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(names)
    found = opened(root, class_names=str(folder / "classes.txt"))
    assert found.train.classes == NAMES
    assert found.train.read(0).labels[0, 0] == 255
    assert (len(found.train), len(found.validation)) == (2, 1)  # and not those of trainval
    assert any("trainval.txt is not read" in note for note in found.account.notes)
    part = SegmentationData(
        str(root), MaskConfig(class_names=str(folder / "classes.txt")), extra_split="trainval"
    ).part("trainval", classes=NAMES)
    assert len(part) == 3


def test_classes_of_roboflow(tmp_path):
    for part, start in (("train", 0), ("valid", 6)):
        pairs(tmp_path, f"{part}/{{}}.jpg", f"{part}/{{}}_mask.png", 6 - start // 6, start)
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, crack\n")
    found = opened(tmp_path)
    assert found.train.classes == ("background", "crack")
    check_pairs(found.validation)
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n1, background\n2, crack\n")
    with pytest.raises(DataError, match="not a table of pixel values from 0"):
        opened(tmp_path)


@pytest.mark.parametrize("line", ["{} {}", "{}: {}", "{},{}"])
def test_class_lists_with_values(tmp_path, line):
    root, names = pairs(tmp_path), ("ground", "roof")

    def classes(*values):
        lines = [line.format(*each) for each in zip(values, names, strict=True)]
        (root / "classes.txt").write_text("\n".join(lines))
        return opened(root).train.classes

    assert classes(0, 1) == names
    assert classes(2, 5) == tuple(map(line.format, (2, 5), names))  # such as coins
    for values in ((1, 0), (1, 2)):
        with pytest.raises(DataError, match="not a table of pixel values from 0"):
            classes(*values)


def test_a_file_is_no_folder_of_images_and_masks(tmp_path):
    (tmp_path / "train.csv").write_text("image,mask")
    with pytest.raises(DataError, match=r"train\.csv is a file"):
        opened(tmp_path / "train.csv")


def test_masks_without_an_image_and_twice(tmp_path):
    root = pairs(tmp_path)
    shutil.copy(root / "masks/s0.png", root / "masks/more.png")
    with pytest.raises(DataError, match=r"1 of 7 masks have no image in images: 'masks/more\.png'"):
        opened(root)
    (root / "masks/more.png").unlink()
    shutil.copy(root / "masks/s0.png", root / "masks/s0.bmp")
    with pytest.raises(DataError, match="differ in their extension only"):
        opened(root)


@pytest.mark.parametrize("ending", ["_masks", "annot", "_labels"])
def test_masks_in_a_folder_called_after_that_of_their_images(tmp_path, ending):
    for part, start in (("train", 0), ("val", 6)):
        pairs(tmp_path, f"{part}/{{}}.jpg", f"{part}{ending}/{{}}.png", 6 - start // 2, start)
    found = opened(tmp_path)
    assert {key.split("/")[0] for key in map(found.train.key, range(6))} == {"train"}
    assert len(found.validation) == 3
    check_pairs(found.train)
    check_pairs(found.validation)
    shutil.rmtree(tmp_path / f"val{ending}")
    with pytest.raises(DataError, match="val/ has no masks, and there are masks of train"):
        opened(tmp_path)


def test_images_in_a_folder_of_any_name_beside_requested_masks(tmp_path):
    root = pairs(tmp_path, "slices/{}.jpg", "drawn/{}.png")
    with pytest.raises(DataError, match="has no images/ beside masks/"):
        opened(root)
    check_pairs(opened(root, annotations="drawn").train)
    check_pairs(opened(pairs(root / "x", "Original/{}.jpg", "Ground Truth/{}.png")).train)


@pytest.mark.parametrize("mask", ["val/masks/{}.png", "val/images/{}_mask.png"])
def test_a_split_without_masks_is_refused(tmp_path, mask):
    root = pairs(tmp_path, "train/images/{}.jpg", mask.replace("val", "train"))
    put(root / "val/images/s9.jpg")
    with pytest.raises(DataError, match="val/ has no masks"):
        opened(root)
    (root / "val").rename(root / "test")
    assert "test/ has no masks, and is not used" in opened(root).account.notes


def test_nothing_beside_images_and_masks_is_left_out_in_silence(tmp_path):
    root = pairs(tmp_path)
    pairs(tmp_path, "q/{}.jpg", "overlays/{}.png")
    shutil.rmtree(tmp_path / "q")
    (root / "names.txt").write_text("s0\ns1")
    account = opened(root).account
    (skipped,) = account.skipped
    assert (skipped.reason, skipped.count) == ("beside images and masks", 6)
    assert "files beside the folders that are not read: 'names.txt'" in account.notes


def test_folders_around_it_all_are_gone_through(tmp_path):
    root = pairs(tmp_path / "download" / "data").parents[1]
    (root / "README.md").write_text("of 2024")
    account = opened(root).account
    assert account.data == str(root / "download" / "data")
    assert any("is the only folder there" in note for note in account.notes)
    (root / "legend.json").write_text("{}")
    with pytest.raises(DataError, match="has no images/ beside masks/"):
        opened(root)


def test_masks_of_another_kind_are_named(tmp_path):
    put(tmp_path / "images/s0.jpg")
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks/s0.npy", np.zeros(2))
    with pytest.raises(DataError, match=r"no images in .*masks; it holds files with \.npy"):
        opened(tmp_path)
