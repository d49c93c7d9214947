"""The folders of nnU-Net: images are read, volumes are named with a way to make them images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mask_folders import check_pairs, opened, pairs, put
from PIL import Image

from beit.config import MaskConfig
from beit.data.segmented import SegmentationData
from beit.errors import DataError

LABELS = {"background": 0, "tumour": 1}


def dataset(root, labels=None):
    pairs(root, "imagesTr/{}_0000.png", "labelsTr/{}.png")
    (root / "dataset.json").write_text(json.dumps({"labels": labels or LABELS}))
    return root


@pytest.mark.parametrize("labels", [LABELS, {"0": "background", "1": "tumour"}])
def test_images_of_nnunet_are_read(tmp_path, labels):
    root = dataset(tmp_path, labels)
    put(root / "imagesTs/s9_0000.png")
    found = opened(root)
    assert found.train.classes == ("background", "tumour")
    assert len(found.train) + len(found.validation) == 6
    check_pairs(found.train, "_0000")
    assert found.masks.layout == "nnunet"
    assert "imagesTs/ has no masks, and is not used" in found.account.notes
    assert not [note for note in found.account.notes if "not read" in note]
    put(root / "labelsTs/s9.png", labels=2)
    data = SegmentationData(str(root), MaskConfig(), extra_split="test")
    assert len(data.part("test", classes=("background", "tumour"))) == 1


def test_the_label_to_ignore_is_ignored(tmp_path):
    root = dataset(tmp_path, LABELS | {"ignore": 2})
    for place in (root / "labelsTr").iterdir():
        labels = np.array(Image.open(place))
        labels[-1] = 2
        Image.fromarray(labels).save(place)
    found = opened(root)
    assert found.train.classes == ("background", "tumour")
    assert found.masks.ignore_values == ("2",)
    assert found.train.read(0).labels[-1, 0] == 255


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "whole": [1, 2]}, "are regions"),
        ({"background": 0, "tumour": 2}, r"are 0, 2"),
        ({"background": 0.5}, "are not numbers"),
    ],
)
def test_labels_of_another_form_are_refused(tmp_path, labels, message):
    with pytest.raises(DataError, match=message):
        opened(dataset(tmp_path, labels))


def test_volumes_channels_and_labels_that_stand_alone(tmp_path):
    root = dataset(tmp_path)
    put(root / "labelsTr/s9.png", labels=1)
    with pytest.raises(DataError, match=r"1 of 7 files in .*labelsTr have no image .*'s9'"):
        opened(root)
    put(root / "imagesTr/s9_0001.png")
    with pytest.raises(DataError, match=r"s9_0001\.png .* is a channel in a file of its own"):
        opened(root)
    volumes = tmp_path / "volumes"
    for folder, end in (("imagesTr", "_0000"), ("labelsTr", "")):
        (volumes / folder).mkdir(parents=True)
        (volumes / folder / f"case{end}.nii.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="a NIfTI volume: write its slices as PNG") as raised:
        opened(volumes)
    assert "imagesTr/CASE-SLICE_0000.png" in raised.value.remedy
    assert "--groups" in raised.value.remedy
