"""Which images with masks are learned from, measured on, or not used."""

from __future__ import annotations

import shutil

import pytest
from mask_folders import check_pairs, opened, pairs

from beit.config import MaskConfig
from beit.data.folder_names import split_called
from beit.data.segmented import SegmentationData
from beit.errors import DataError


def test_test_images_are_not_learned_from(tmp_path):
    for part, start in (("train", 0), ("test", 6)):
        pairs(tmp_path, f"images/{part}/{{}}.jpg", f"masks/{part}/{{}}.png", 6 - start // 6, start)
    found = opened(tmp_path)
    keys = [source.key(at) for source in found[:2] for at in range(len(source))]
    assert len(keys) == 6
    assert all("train" in key for key in keys)
    assert found.account.images["test"] == 5
    assert "test: not used here" in found.account.notes
    part = SegmentationData(str(tmp_path), MaskConfig(), extra_split="test").part(
        "test", classes=("0", "1")
    )
    assert len(part) == 5
    with pytest.raises(DataError, match="none called val"):
        SegmentationData(str(tmp_path), MaskConfig(), extra_split="val").part(
            "val", classes=("0", "1")
        )
    shutil.rmtree(tmp_path / "masks/test")  # as published tests often are
    assert "images/test/ has no masks, and is not used" in opened(tmp_path).account.notes


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/10k/{split}/{{}}.jpg", "labels/sem_seg/masks/{split}/{{}}.png"),
        ("site{at}/{split}/{{}}.jpg", "site{at}/{split}/{{}}_mask.png"),
    ],
)
@pytest.mark.parametrize("masked", [True, False])
def test_splits_further_down_are_none_to_learn_from(tmp_path, image, mask, masked):
    """As of BDD100K."""
    for number, split in enumerate(("train", "val", "test", "train", "val", "test")):
        places = (place.format(split=split, at=number % 2) for place in (image, mask))
        pairs(tmp_path, *places, count=2, start=2 * number)
        for place in tmp_path.rglob("test/**/*.png") if not masked else ():
            place.unlink()
    found = opened(tmp_path)
    for source, split in ((found.train, "train"), (found.validation, "val")):
        assert len(source) == 4
        assert all(f"/{split}/" in source.key(at) for at in range(4))
        check_pairs(source)
    assert found.account.layout.endswith("divided by the folders in their paths")
    note = "test: not used here" if masked else "the images of test have no masks, and are not used"
    assert note in found.account.notes
    for place in tmp_path.rglob("test"):
        shutil.rmtree(place)
    assert (len(opened(tmp_path).train), len(opened(tmp_path).validation)) == (4, 4)
    pairs(tmp_path, image.format(split="more", at=0), mask.format(split="more", at=0), 1, 20)
    with pytest.raises(DataError, match=r"some images of .* lie in folders of splits, others do"):
        opened(tmp_path)


def test_a_split_of_another_name_can_be_measured(tmp_path):
    for part in ("train", "val", "night"):
        pairs(tmp_path, f"images/{part}/{{}}.jpg", f"masks/{part}/{{}}.png", 3)
    part = SegmentationData(str(tmp_path), MaskConfig(), extra_split="night").part(
        "night", classes=("0", "1")
    )
    assert part.key(0) == "images/night/s0.jpg"


def test_a_split_of_another_name_with_masks_beside_their_images(tmp_path):
    for part in ("train", "val", "night"):
        pairs(tmp_path, f"{part}/{{}}.jpg", f"{part}/{{}}_mask.png", 3)
    data = SegmentationData(str(tmp_path), MaskConfig(), extra_split="night")
    part = data.part("night", classes=("0", "1"))
    assert part.key(0) == "night/s0.jpg"


def test_a_split_of_which_no_image_has_a_mask_is_refused(tmp_path):
    root = pairs(tmp_path, "JPEGImages/{}.jpg", "SegmentationClass/{}.png", 3)
    (root / "SegmentationClass/s2.png").unlink()
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in (("train", "s0\ns1"), ("val", "s2")):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(names)
    with pytest.raises(DataError, match=r"no image of val .* has a mask"):
        opened(root, unmasked="skip")
    with pytest.raises(DataError, match="has no LabelMe file"):
        opened(root, unmasked="skip", layout="labelme")


@pytest.mark.parametrize(
    ("name", "split"),
    [("train2017", "train"), ("Training", "train"), ("training_set", "train"), ("testset", "test"),
     ("VALIDATION", "val"), ("dev", "val"), ("aachen", None), ("2017", None), ("set", None)],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_called(name) == split
