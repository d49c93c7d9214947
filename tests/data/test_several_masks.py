"""Several mask files of one image: joined, a class each, or refused; never only the first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.config import MaskConfig
from beit.config.data import Division
from beit.config.segment_run import SeveralMasks
from beit.data.segmented import SegmentationData, SegmentedSplits
from beit.errors import ConfigError, DataError

SIDE = 24
IMAGES = range(1, 7)


def image(place: Path, seed: int = 0) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(place)


def mask(place: Path, row: int, *, rows: int = 4, value: int = 255) -> None:
    """A band of so many rows."""
    place.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[row : row + rows] = value
    Image.fromarray(pixels).save(place)


def opened(root: Path, **options: object) -> SegmentedSplits:
    config = MaskConfig(**options)  # type: ignore[arg-type]
    return SegmentationData(str(root), config).divide(Division(split=0.34, seed=0))


def columns(splits: SegmentedSplits) -> dict[str, list[int]]:
    """The first column of every label map, each fourth row, by the name of the image."""
    found = {}
    for source in splits[:2]:
        for at in range(len(source)):
            labels = source.read(at).labels
            assert labels is not None
            found[source.key(at)] = labels[::4, 0].tolist()
    return found


def lesions(root: Path) -> Path:
    """As BUSI has them: one mask for each image, and more for some."""
    for number in IMAGES:
        for name in ("benign", "normal"):
            image(root / name / f"{name} ({number}).png", number)
            mask(root / name / f"{name} ({number})_mask.png", 0, rows=4 * (name == "benign"))
    for number in (2, 4):
        mask(root / "benign" / f"benign ({number})_mask_1.png", 8)
    return root


def test_parts_of_an_object_are_joined(tmp_path: Path) -> None:
    splits = opened(lesions(tmp_path))
    found = columns(splits)
    assert len(found) == 12
    assert found["benign/benign (1).png"] == [1, 0, 0, 0, 0, 0]
    assert found["benign/benign (2).png"] == [1, 0, 1, 0, 0, 0]
    assert found["normal/normal (2).png"] == [0] * 6
    assert splits.train.classes == ("background", "object")
    assert splits.masks.several_masks == "object"
    assert any("masks of 2 images are joined" in note for note in splits.account.notes)
    again = SegmentationData(str(tmp_path), splits.masks)
    known = again.divide(Division(split=0.34, seed=0), known=splits.train.classes)
    assert columns(SegmentedSplits(*known[:2], known.masks, known.pixels)) == found
    assert known.train.fingerprint() == splits.train.fingerprint()


def test_one_of_several_by_its_ending_counts_the_others_as_skipped(tmp_path: Path) -> None:
    splits = opened(lesions(tmp_path), mask_suffix="_mask")
    assert len(columns(splits)) == 12
    (skipped,) = splits.account.skipped
    assert (skipped.count, skipped.reason) == (2, "its name does not end in '_mask'")


@pytest.mark.parametrize("root", ["", "stage1_train/"])
def test_a_folder_for_each_image(tmp_path: Path, root: str) -> None:
    """As of the Data Science Bowl 2018, whose masks are called by hashes."""
    for number in IMAGES:
        image(tmp_path / f"{root}id{number}/images/id{number}.png", number)
        for part in range(1 + number % 3):
            mask(tmp_path / f"{root}id{number}/masks/{number}f{part}a.png", 8 * part)
    if root:
        image(tmp_path / "stage1_test/te1/images/te1.png")
    splits = opened(tmp_path)
    found = columns(splits)
    assert found[f"{root}id2/images/id2.png"] == [1, 0, 1, 0, 1, 0]
    assert found[f"{root}id3/images/id3.png"] == [1, 0, 0, 0, 0, 0]
    assert len(found) == len(IMAGES)
    assert splits.account.layout.startswith("a folder for each image")
    assert ("stage1_test/ has no masks, and is not used" in splits.account.notes) == bool(root)


@pytest.mark.parametrize(
    "name", ["masks/{}_{}.png", "masks/{}_a_{}_v1.png", "masks/{1}/{0}.png", "masks/{}/{}.png"]
)
def test_a_class_each(tmp_path: Path, name: str) -> None:
    for number in IMAGES:
        image(tmp_path / f"images/x{number}.png", number)
        mask(tmp_path / name.format(f"x{number}", "road"), 0, value=1)
        if number > 1:
            mask(tmp_path / name.format(f"x{number}", "big_tree"), 8)
    splits = opened(tmp_path)
    assert splits.train.classes == ("background", "big_tree", "road")
    found = columns(splits)
    assert found["images/x1.png"] == [2, 0, 0, 0, 0, 0]
    assert found["images/x2.png"] == [2, 0, 1, 0, 0, 0]
    assert splits.masks.several_masks == "classes"
    (tmp_path / "classes.txt").write_text("road\nbig_tree\n")
    assert opened(tmp_path).train.classes == ("background", "road", "big_tree")
    (tmp_path / "classes.txt").write_text("road\n")
    with pytest.raises(DataError, match=r"labels of .* are not in .*classes.txt: 'big_tree'"):
        opened(tmp_path)


def numbered(root: Path, *rows: int) -> Path:
    for number in IMAGES:
        image(root / f"images/x{number}.png", number)
        for at, row in enumerate(rows):
            mask(root / f"masks/x{number}_{at}.png", row)
    return root


@pytest.mark.parametrize(
    ("several", "column"), [("object", [1, 0, 1, 0, 0, 0]), ("classes", [1, 0, 2, 0, 0, 0])]
)
def test_masks_numbered_alike_need_the_option(
    tmp_path: Path, several: SeveralMasks, column: list[int]
) -> None:
    numbered(tmp_path, 0, 8)
    with pytest.raises(DataError, match="or the same drawn by several people") as refused:
        opened(tmp_path)
    for option in ("--several-masks object", "--several-masks classes", "--mask-suffix _0"):
        assert option in refused.value.remedy
    assert columns(opened(tmp_path, several_masks=several))["images/x1.png"] == column
    assert columns(opened(tmp_path, mask_suffix="_1"))["images/x1.png"] == [0, 0, 1, 0, 0, 0]


def test_what_overlaps_is_refused_unless_an_option_says_what_it_is(tmp_path: Path) -> None:
    numbered(tmp_path, 0, 2)
    (tmp_path / "masks/x1_1.png").unlink()  # numbered unlike each other: parts of an object
    with pytest.raises(DataError, match=r"48 of 144 pixels .* are in several") as refused:
        opened(tmp_path)
    assert "--several-masks object" in refused.value.remedy
    assert columns(opened(tmp_path, several_masks="object"))["images/x2.png"] == [1, 1, 0, 0, 0, 0]
    for number in IMAGES:
        mask(tmp_path / f"classes/x{number}_road.png", 0, rows=8)
        mask(tmp_path / f"classes/x{number}_tree.png", 4, rows=8)
    with pytest.raises(DataError, match=r"96 of 288 pixels .* are in several"):
        opened(tmp_path, annotations="classes")
    (tmp_path / "classes.txt").write_text("tree\nroad\n")
    stated = opened(tmp_path, annotations="classes", several_masks="classes")
    assert columns(stated)["images/x2.png"] == [2, 2, 1, 0, 0, 0]


def test_what_no_class_of_its_own_can_be(tmp_path: Path) -> None:
    for number in IMAGES:
        image(tmp_path / f"images/x{number}.png", number)
        mask(tmp_path / f"masks/x{number}_road.png", 0)
        mask(tmp_path / f"masks/x{number}_tree.png", 8)
    with pytest.raises(ConfigError, match="--reduce-zero-label is for masks in image files"):
        opened(tmp_path, reduce_zero_label=True)
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[8:10], pixels[10:12] = 1, 2
    Image.fromarray(pixels).save(tmp_path / "masks/x2_tree.png")
    with pytest.raises(
        DataError, match=r"x2_tree.png shows one of several classes, and holds more"
    ):
        opened(tmp_path)


def test_the_option_where_each_image_has_one_mask(tmp_path: Path) -> None:
    for number in IMAGES:
        image(tmp_path / f"a/images/x{number}.png", number)
        mask(tmp_path / f"a/masks/x{number}.png", 0)
        image(tmp_path / f"b/imagesTr/x{number}_0000.png", number)
        mask(tmp_path / f"b/labelsTr/x{number}.png", 0)
    splits = opened(tmp_path / "a", several_masks="object")
    assert columns(splits)["images/x1.png"] == [1, 0, 0, 0, 0, 0]
    with pytest.raises(ConfigError, match="several_masks is object, and the masks of "):
        opened(tmp_path / "b", several_masks="object")


def test_words_that_never_come_back_are_two_readings(tmp_path: Path) -> None:
    for number, words in enumerate((("left", "old"), ("new", "right"))):
        image(tmp_path / f"images/x{number}.png", number)
        for at, word in enumerate(words):
            mask(tmp_path / f"masks/x{number}_{word}.png", 8 * at)
    with pytest.raises(DataError, match="these may be parts of one object, a class each"):
        opened(tmp_path)


def test_a_mask_whose_name_says_no_class(tmp_path: Path) -> None:
    for number in IMAGES:
        image(tmp_path / f"images/x{number}.png", number)
        mask(tmp_path / f"masks/x{number}.png", 0)
        mask(tmp_path / f"masks/x{number}_edge.png", 8)
    with pytest.raises(DataError, match="these may be parts of one object, a class each"):
        opened(tmp_path)
    with pytest.raises(DataError, match="have nothing besides those of their images"):
        opened(tmp_path, several_masks="classes")


def test_masks_of_label_studio_by_its_tasks(tmp_path: Path) -> None:
    tasks = []
    for number in IMAGES:
        name = f"{number:08x}-x {number}.jpg"
        image(tmp_path / "images" / (name if number % 2 else f"x {number}.jpg"), number)
        tasks.append({"id": number, "annotations": [],
                      "data": {"image": f"/data/upload/1/{name.replace(' ', '%20')}"}})  # fmt: skip
        for at, word in enumerate(("Road", "Tree")):
            name = f"task-{number}-annotation-{number + 10}-by-1-tag-{word}-0.png"
            mask(tmp_path / "masks" / name, 8 * at)
    with pytest.raises(DataError, match="12 of 12 masks have no image") as refused:
        opened(tmp_path)
    assert "put its JSON export beside the folders" in refused.value.remedy
    (tmp_path / "project-1.json").write_text(json.dumps(tasks))
    splits = opened(tmp_path)
    assert splits.train.classes == ("background", "Road", "Tree")
    assert columns(splits)["images/x 2.jpg"] == [1, 0, 2, 0, 0, 0]
