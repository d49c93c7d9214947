"""Folders of images and masks: layouts, pairs, classes, and every fault named before the work."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from beit.config import MaskConfig
from beit.config.data import Division
from beit.data.class_names import VOC_CLASSES
from beit.data.images import Images
from beit.data.segmented import SegmentationData
from beit.data.sources import select
from beit.errors import BeitError, DataError
from encoding import turned
from segmented_folder import NAMES, write_folder


def opened(root, split=0.2, known=(), **masks):
    return SegmentationData(str(root), MaskConfig(**masks)).divide(
        Division(split=split, seed=0), known=known
    )


def keys(source):
    return [source.key(index) for index in range(len(source))]


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "data", train=4, validation=2)


def repaint(place, change):
    """Change the labels of a mask in its file."""
    labels = np.array(Image.open(place))
    change(labels)
    Image.fromarray(labels).save(place)


def test_images_and_masks_lie_behind_each_other(folder):
    train, validation, *_ = opened(folder)
    assert train.classes == validation.classes == NAMES
    assert keys(validation) == ["images/val/00.jpg", "images/val/01.jpg"]
    for cache in (False, True):
        pixels = Images(select(train, [3]), 3, cache).read(0).pixels
        assert pixels.shape == (40, 44, 4)
        mask = Image.open(folder / "masks/train/03.png")
        assert np.array_equal(pixels[..., 3], np.asarray(mask))
        assert np.array_equal(
            pixels[..., :3], np.asarray(Image.open(folder / "images/train/03.jpg"))
        )


def test_other_names_of_the_folders(folder):
    before = keys(opened(folder).validation)
    (folder / "masks").rename(folder / "annotations")
    for kind in ("images", "annotations"):
        (folder / kind / "train").rename(folder / kind / "training")
        (folder / kind / "val").rename(folder / kind / "validation")
    after = keys(opened(folder).validation)
    assert [key.replace("validation", "val") for key in after] == before


def test_held_out_images_are_the_same_for_the_same_seed(folder):
    for kind in ("images", "masks"):
        for file in (folder / kind / "train").iterdir():
            file.rename(folder / kind / file.name)
        shutil.rmtree(folder / kind / "train")
        shutil.rmtree(folder / kind / "val")
    train, validation, *_ = opened(folder, split=0.25)
    assert (len(train), len(validation)) == (3, 1)
    assert not set(keys(train)) & set(keys(validation))
    assert keys(opened(folder, split=0.25).validation) == keys(validation)
    with pytest.raises(BeitError, match="split is 0"):
        opened(folder, split=0.0)


def test_without_a_list_the_largest_label_tells(folder):
    (folder / "classes.txt").unlink()
    assert opened(folder).train.classes == ("0", "1", "2")


def test_ade20k_ignores_zero(folder):
    (folder / "classes.txt").unlink()
    train = opened(folder, layout="ade20k").train
    assert len(train.classes) == 150
    labels = train.read(0).labels
    assert set(np.unique(labels)) == {0, 1, 255}


def test_pascal_voc(folder, tmp_path):
    root = tmp_path / "VOC2012"
    for kind, name in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
        shutil.copytree(folder / kind / "train", root / name)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for part, names in (("train", "00\n02\n"), ("val", "01\n")):
        (root / "ImageSets" / "Segmentation" / f"{part}.txt").write_text(names)
    train, validation, *_ = opened(root, layout="voc")
    assert train.classes == VOC_CLASSES
    assert keys(validation) == ["JPEGImages/01.jpg"]
    (root / "SegmentationClass" / "02.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images have no mask .*02\.jpg"):
        opened(root, layout="voc")


def test_colours_with_a_legend_beside_the_folders(folder):
    (folder / "classes.txt").unlink()
    legend = {"#0a0000": "disc", "#000b00": "ground", "#00000c": "bar", "#ffffff": None}
    (folder / "legend.json").write_text(json.dumps(legend))
    before = {}
    colours = np.zeros((256, 3), np.uint8)
    colours[[0, 1, 2, 255]] = (0, 11, 0), (10, 0, 0), (0, 0, 12), (255, 255, 255)
    for place in (folder / "masks").rglob("*.png"):
        before[place.name] = np.asarray(Image.open(place))
        Image.fromarray(colours[before[place.name]]).save(place)
    train = opened(folder).train
    assert train.classes == ("disc", "ground", "bar")
    swapped = np.arange(256)
    swapped[:2] = 1, 0
    assert np.array_equal(train.read(3).labels, swapped[before["03.png"]])


@pytest.mark.parametrize("mask_too", [False, True], ids=["image", "image and mask"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_lies_upright_behind_its_mask(folder, orientation, mask_too):
    """The mask is that of the upright image, or is turned by EXIF itself."""
    place, mask = folder / "images/train/03.jpg", folder / "masks/train/03.png"
    expected = np.dstack([np.asarray(Image.open(place)), np.asarray(Image.open(mask))])
    stored, exif = turned(expected, orientation)
    place.unlink()
    Image.fromarray(np.ascontiguousarray(stored[..., :3])).save(
        place.with_suffix(".png"), exif=exif
    )
    if mask_too:
        Image.fromarray(np.ascontiguousarray(stored[..., 3])).save(mask, exif=exif)
    train = opened(folder).train  # which compares their sizes
    assert np.array_equal(Images(select(train, [3]), 3).read(0).pixels, expected)


def test_a_mask_of_the_image_as_stored_is_refused(folder):
    place = folder / "images/train/03.jpg"
    stored, exif = turned(np.asarray(Image.open(place)), 6)
    Image.fromarray(stored).save(place, exif=exif, quality=95)
    Image.fromarray(np.zeros(stored.shape[:2], np.uint8)).save(folder / "masks/train/03.png")
    with pytest.raises(DataError, match=r"03\.png has 44 x 40 [\s\S]*turned by EXIF count upright"):
        opened(folder)


@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
def test_broken_exif_turns_nothing_and_hides_no_wrong_mask(folder, block):
    place = folder / "images/train/03.jpg"
    Image.open(place).save(place, exif=block, quality=95)
    opened(folder)
    Image.new("L", (40, 44)).save(folder / "masks/train/03.png")
    with pytest.raises(DataError, match=r"03\.png has 44 x 40 pixels, its image 40 x 44"):
        opened(folder)


def test_the_fingerprint_knows_the_masks(folder):
    before = opened(folder).train.fingerprint()
    (folder / "masks/train/00.png").rename(folder / "masks/train/00.tif")
    assert opened(folder).train.fingerprint() != before


def test_known_classes_open_no_mask(folder):
    (folder / "masks/train/00.png").write_bytes(b"rubbish")
    assert opened(folder, known=NAMES).train.classes == NAMES
    with pytest.raises(DataError, match="other classes"):
        opened(folder, known=("a", "b"))


FAULTS = {
    "no mask": (lambda root: (root / "masks/train/01.png").unlink(),
                r"1 of 4 images have no mask in masks/train: 'images/train/01\.jpg'"),
    "no image": (lambda root: (root / "images/val/01.jpg").unlink(),
                   r"1 of 2 masks have no image .*'masks/val/01\.png'"),
    "size": (lambda root: Image.new("L", (40, 36)).save(root / "masks/train/02.png"),
             r"02\.png has 36 x 40 pixels, its image 40 x 36"),
    "label": (lambda root: repaint(root / "masks/val/00.png", lambda x: x[:2, :3].fill(7)),
              r"00\.png holds label 7 on 6 pixels, and the 3 classes end with 2"),
    "rubbish": (lambda root: (root / "masks/val/00.png").write_bytes(b"x"),
                r"val.00\.png cannot be read"),
    "twice": (lambda root: shutil.copy(root / "masks/val/00.png", root / "masks/val/00.gif"),
              "differ in their extension only"),
    "one part": (lambda root: [shutil.rmtree(root / kind / "train")
                               for kind in ("images", "masks")], "there is only val/"),
    "half a part": (lambda root: shutil.rmtree(root / "masks/val"), "masks/ has not"),
    "no masks": (lambda root: shutil.rmtree(root / "masks"), "no images/ beside masks/"),
    "twice the name": (lambda root: (root / "classes.txt").write_text("a\na\nb"),
                       "3 class names, 2 of them different"),
    "one class": (lambda root: [(root / "classes.txt").unlink(),
                                *(repaint(place, lambda x: x.fill(0))
                                  for place in root.rglob("*.png"))], "single class"),
    "all ignored": (lambda root: [repaint(place, lambda x: x.fill(255))
                                  for place in (root / "masks/train").iterdir()],
                    r"every pixel of the training masks is ignored[\s\S]*--reduce-zero-label"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(folder, fault):
    break_it, words = FAULTS[fault]
    break_it(folder)
    with pytest.raises(DataError, match=words):
        opened(folder)


def test_what_is_rarely_meant_is_in_the_account(folder):
    repaint(folder / "masks/val/00.png", lambda x: x.fill(255))
    repaint(folder / "masks/val/01.png", lambda x: np.copyto(x, 0, where=x == 2))
    account = opened(folder).account
    assert account.images == {"train": 4, "val": 2}
    assert account.classes["val"] == {"ground": 1, "disc": 1, "bar": 0}
    assert list(account.lines())[1:3] == [
        "  train: 4 images in 3 classes: ground 4, disc 4, bar 4",
        "  val: 2 images in 2 classes: ground 1, disc 1",
    ]
    assert account.notes == (
        "255 is ignored",
        "1 validation masks have no pixel that is not ignored",
        "classes that never occur in validation: 'bar'",
    )
