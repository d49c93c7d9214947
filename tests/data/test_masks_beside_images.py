"""Masks that lie beside images are no training images, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_folders import keys, labelled, some

from beit.data.dataset import open_source
from beit.data.folders import open_every_image
from beit.errors import DataError

Draw = Callable[..., Path]


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images", "masks"), ("imgs", "labels"), ("img_dir", "ann_dir"), ("Images", "Annotations")],
)
def test_masks_are_no_images_to_learn_from(draw: Draw, images: str, masks: str) -> None:
    root = draw(*some(images, masks, count=3))
    source = open_source(str(root))
    assert {key.split("/")[0] for key in keys(source)} == {images}
    assert source.classes == ()
    (skipped,) = source.account.skipped
    assert (skipped.reason, skipped.count, skipped.examples) == (
        "masks",
        3,
        tuple(f"{masks}/{number}.png" for number in range(3)),
    )
    with pytest.raises(DataError, match=r"no class folders: .*lies beside masks") as caught:
        labelled(root)
    assert "beit segment" in caught.value.remedy


def test_masks_in_splits(draw: Draw) -> None:
    inside = draw(*some("x/train/images", "x/train/masks", "x/val/images", "x/val/masks")) / "x"
    assert keys(open_source(str(inside))) == ["train/images/0.png", "train/images/1.png"]
    above = draw(*some("y/images/train", "y/masks/train", "y/images/val", "y/masks/val")) / "y"
    assert keys(open_source(str(above))) == ["images/train/0.png", "images/train/1.png"]
    (above / "labels").mkdir()
    (above / "labels" / "0.txt").write_text("0 .5 .5 .2 .2")
    assert len(open_source(str(above))) == 2


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (("sick/{}.png", "well/{}.png"), ("sick/{}_mask.png", "well/{}_mask.png")),
        (("sick/{} (1).jpg", "well/{}.jpg"), ("sick/{} (1)_mask_1.png", "well/{}_mask.png")),
        (("sick/{}.jpg", "well/{}.jpg"), ("sick/{}.png", "well/{}.png")),
        (("sick/images/{}.png", "well/images/{}.png"), ("sick/masks/{}.png", "well/masks/{}.png")),
    ],
)
def test_masks_are_no_images_of_a_class(
    draw: Draw, images: tuple[str, ...], masks: tuple[str, ...]
) -> None:
    found = [one.format(number) for one in images for number in range(4)]
    root = draw(*found, *(one.format(number) for one in masks for number in range(4)))
    splits = labelled(root)
    assert sorted([*keys(splits.train), *keys(splits.validation)]) == sorted(found)
    assert splits.train.classes == ("sick", "well")
    assert sorted(keys(open_source(str(root)))) == sorted(found)
    assert sorted(keys(open_every_image(str(root)))) == sorted(found)
    (skipped,) = splits.train.account.skipped
    assert (skipped.count, skipped.reason.startswith("masks")) == (8, True)


@pytest.mark.parametrize("masks", ["train_masks", "trainannot", "Train-Labels"])
def test_masks_in_a_folder_called_after_that_of_their_images(draw: Draw, masks: str) -> None:
    root = draw(*some("train", masks))
    assert {key.split("/")[0] for key in keys(open_source(str(root)))} == {"train"}
    with pytest.raises(DataError, match="no class folders"):
        labelled(root)
    faces = draw(*some("x/face", count=3), *some("x/face_mask", count=5)) / "x"
    assert labelled(faces).train.classes == ("face", "face_mask")


def test_a_folder_of_text_beside_the_images_is_no_empty_class(draw: Draw) -> None:
    root = draw(*some("train/images", "valid/images"))
    (root / "train" / "labels").mkdir()
    with pytest.raises(DataError, match="only one class, 'images'"):
        labelled(root)
