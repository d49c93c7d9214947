"""Lists of splits beside images and masks, and the table of colours that such folders bring."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from mask_folders import check_pairs, opened, pairs, put
from PIL import Image

from beit.config import MaskConfig
from beit.data.segmented import SegmentationData
from beit.errors import DataError


def write_lists(root, **names):
    root.mkdir(parents=True, exist_ok=True)
    for split, lines in names.items():
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")


def keys(source):
    return [source.key(at).rpartition("/")[2].partition(".")[0] for at in range(len(source))]


@pytest.mark.parametrize("folder", ["", "splits", "lists", "ImageSets/Segmentation", "ImageSets"])
@pytest.mark.parametrize(
    "line",
    ["{}", "{}.jpg", "images/{}.jpg", "/home/else/data/images/{}.jpg",
     "images/{}.jpg masks/{}.png", "{}.jpg,{}.png", "{} 1 1 1"],
)  # fmt: skip
def test_lists_divide_what_folders_do_not(tmp_path, folder, line):
    root = pairs(tmp_path)
    parts = {"train": ["s4", "s0"], "val": ["s1"], "test": ["s5", "s2"]}
    lines = {split: [line.replace("{}", name) for name in names] for split, names in parts.items()}
    write_lists(root / folder, **lines)
    found = opened(root)
    assert keys(found.train) == ["s4", "s0"]
    assert keys(found.validation) == ["s1"]
    check_pairs(found.train)
    assert found.account.images == {"train": 2, "val": 1, "test": 2}
    assert "divided by" in found.account.layout
    (skipped,) = found.account.skipped
    assert (skipped.reason, skipped.examples) == ("in no list of a split", ("images/s3.jpg",))
    assert not [note for note in found.account.notes if "not read" in note]


def test_a_fraction_is_held_out_of_a_training_list_alone(tmp_path):
    root = pairs(tmp_path)
    write_lists(root / "annotations", trainval=["s0", "s1", "s2"], test=["s3"])
    found = opened(root)
    assert sorted([*keys(found.train), *keys(found.validation)]) == ["s0", "s1", "s2"]


def test_masks_beside_their_images_are_divided_by_lists(tmp_path):
    root = pairs(tmp_path, "{}.jpg", "{}_mask.png")
    write_lists(root, train_list=["s0.jpg", "s2.jpg"], val_list=["s1.jpg"])
    found = opened(root)
    assert (keys(found.train), keys(found.validation)) == (["s0", "s2"], ["s1"])


def test_images_are_listed_as_what_their_split_is_called(tmp_path):
    root = pairs(tmp_path)
    write_lists(root, train=["s0"], val=["s1"], night=["s2", "s3"])
    data = SegmentationData(str(root), MaskConfig(), extra_split="night")
    assert keys(data.part("night", classes=("0", "1"))) == ["s2", "s3"]
    validation = SegmentationData(str(root), MaskConfig(), extra_split="validation")
    assert keys(validation.part("validation", classes=("0", "1"))) == ["s1"]


def test_test_images_may_lack_masks_and_others_may_not(tmp_path):
    root = pairs(tmp_path, count=3)
    put(root / "images/s9.jpg")
    write_lists(root, train=["s0", "s1"], val=["s2"], test=["s9"])
    assert "the images of test.txt have no masks, and are not used" in opened(root).account.notes
    write_lists(root, train=["s0", "s9"])
    with pytest.raises(DataError, match=r"1 of 2 images have no mask of those in train\.txt"):
        opened(root)
    assert keys(opened(root, unmasked="skip").train) == ["s0"]


def test_one_image_in_two_lists_is_reported(tmp_path):
    root = pairs(tmp_path)
    write_lists(root, train=["s0", "s1"], val=["s1", "s2"])
    notes = opened(root).account.notes
    assert any("1 image of val.txt are also in another list" in note for note in notes)


def test_folders_that_are_splits_count_before_lists(tmp_path):
    for part, start in (("train", 0), ("val", 6)):
        pairs(tmp_path, f"images/{part}/{{}}.jpg", f"masks/{part}/{{}}.png", 6, start)
    write_lists(tmp_path, train=["s0"])
    found = opened(tmp_path)
    assert len(found.train) == 6
    assert "train.txt: not read, as the folders are splits" in found.account.notes


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["s0", "s17"]}, r"1 of the 2 images in .*train\.txt do not exist: line 2"),
        ({"train": [""]}, r"train\.txt is empty"),
        ({"training": ["s0"], "trainval": ["s1"]}, "several lists for train"),
        ({"train": ["masks/s0.png"]}, "not among the images: line 1"),
        ({"train": ["s0.jpg s1.png"]}, r"gives images/s0\.jpg the mask s1\.png"),
    ],
)
def test_lists_that_cannot_be_followed(tmp_path, lists, message):
    write_lists(pairs(tmp_path), **lists)
    with pytest.raises(DataError, match=message) as raised:
        opened(tmp_path)
    assert "--image-folder" not in raised.value.remedy


def test_lists_in_two_places_are_two_readings(tmp_path):
    write_lists(pairs(tmp_path), train=["s0"])
    write_lists(tmp_path / "splits", train=["s1"])
    with pytest.raises(DataError, match=r"in two places: 'train\.txt', 'splits/train\.txt'"):
        opened(tmp_path)


def camvid(root):
    """Images and masks in colours, with train/ and train_labels/, as CamVid is handed on."""
    colours = np.array([[0, 0, 0], [64, 128, 64], [128, 0, 0]], np.uint8)
    for part, start in (("train", 0), ("val", 3)):
        for number in range(start, start + 3):
            put(root / part / f"s{number}.png", number)
            labels = np.ones((16, 9), np.int64)
            labels[0], labels[1:3] = 0, 2
            place = root / f"{part}_labels/s{number}_L.png"
            place.parent.mkdir(exist_ok=True)
            Image.fromarray(colours[labels]).save(place)
    return root


CLASS_DICT = "name,r,g,b\nBuilding,128,0,0\nAnimal, 64, 128, 64\n\nVoid,0,0,0\n"


def test_the_table_of_camvid_names_the_colours(tmp_path):
    root = camvid(tmp_path)
    (root / "class_dict.csv").write_text(CLASS_DICT)
    found = opened(root)
    assert found.train.classes == ("Building", "Animal")
    assert found.train.read(0).labels[:4, 0].tolist() == [255, 0, 0, 1]
    said = "masks are read by the colours of class_dict.csv; 'Void' ignored"
    assert said in found.account.notes
    again = opened(root, legend=str(root / "class_dict.csv"))
    assert again.train.fingerprint() == found.train.fingerprint()


def test_the_table_names_labels_too(tmp_path):
    root = pairs(tmp_path)
    (root / "class_dict.csv").write_text("name,r,g,b\nVoid,0,0,0\nRoof,1,2,3\n")
    found = opened(root, mask_values="labels")
    assert found.train.classes == ("Void", "Roof")
    assert "labels are named in the order of class_dict.csv" in found.account.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,colour\nroof,#ff0000\n", "is not a table of names and colours"),
        ("name,r,g,b\nroof,256,0,0\n", "line 2 of .* gives 'roof' no colour"),
        ("name,r,g,b\nroof,1,0,0\nwall,1,0,0\n", "gives 'roof' and 'wall' one colour"),
        ("name,r,g,b\n", "holds no colours"),
    ],
)
def test_tables_that_are_none(tmp_path, content, message):
    root = camvid(tmp_path)
    (root / "class_dict.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        opened(root)


def test_the_check_reads_masks_on_request(tmp_path):
    root = camvid(tmp_path)
    (root / "class_dict.csv").write_text(CLASS_DICT)

    def check(*options):
        command = [sys.executable, "-m", "beit", "data", "check", str(root), *options]
        return subprocess.run(command, capture_output=True, text=True)

    found = json.loads(check("--masks", "--format", "json").stdout)
    assert found["images"] == {"train": 3, "val": 3}
    assert found["account"]["classes"]["val"] == {"Building": 3, "Animal": 3}
    assert any("class_dict.csv" in note for note in found["account"]["notes"])
    refused = check("--mask-suffix", "_L")
    assert refused.returncode == 2
    assert "add --masks" in refused.stderr
    (root / "train_labels/s0_L.png").write_bytes(b"")
    assert "s0_L.png cannot be read" in check("--masks").stderr
