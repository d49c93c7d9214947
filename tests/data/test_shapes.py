"""Shapes of COCO and LabelMe: found, drawn as label maps, or refused."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from beit.config import MaskConfig
from beit.config.data import Division
from beit.data.mask_pairs import Shape, Shapes
from beit.data.segmented import SegmentationData
from beit.errors import BeitError, ConfigError, DataError

HEIGHT, WIDTH = 20, 30


def image(place, seed=0, size=(HEIGHT, WIDTH)):
    place.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(place)


def box(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def opened(root, **options):
    return SegmentationData(str(root), MaskConfig(**options)).divide(Division(split=0.5, seed=0))


def labels(splits):
    """Label maps by image."""
    return {
        source.key(at): source.read(at).labels for source in splits[:2] for at in range(len(source))
    }


def coco(root, name="annotations/instances_all.json", count=4, **changed):
    """Images, a car (category 7) on each, a bus (3) below it, and a crowd of cars."""
    plain = [0] * (WIDTH * HEIGHT)
    for column in range(25, 30):
        plain[column * HEIGHT + 15 : column * HEIGHT + 20] = [1] * 5
    runs, value = [0], 0
    for pixel in plain:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    images, annotations = [], []
    for number in range(count):
        images.append({"id": 10 + number, "file_name": f"{number}.jpg",
                       "height": HEIGHT, "width": WIDTH})  # fmt: skip
        for category, area, shape, crowd in (
            (7, 25, [box(5, 5, 10, 10)], 0),
            (3, 150, [box(5, 5, 20, 15)], 0),
            (7, 25, {"counts": runs, "size": [HEIGHT, WIDTH]}, 1),
        ):
            annotations.append({"id": len(annotations), "image_id": 10 + number, "area": area,
                                "category_id": category, "segmentation": shape,
                                "iscrowd": crowd})  # fmt: skip
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "bus"}],
    } | changed
    place = root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(content))
    return content


def test_coco_shapes_are_drawn(tmp_path):
    coco(tmp_path)
    for number in range(4):
        image(tmp_path / f"images/{number}.jpg", number)
    found = opened(tmp_path)
    assert found.train.classes == ("background", "bus", "car")
    assert found.masks.layout == "coco"
    assert "COCO" in found.account.layout
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:15, 5:20] = 1
    expected[5:10, 5:10] = 2  # the smaller lies on the larger
    expected[15:20, 25:30] = 2
    for drawn in labels(found).values():
        assert np.array_equal(drawn, expected)
    known = SegmentationData(str(tmp_path), found.masks).divide(
        Division(split=0.5, seed=0), known=found.train.classes
    )
    assert np.array_equal(known.train.read(0).labels, expected)


def test_packed_run_lengths_are_drawn(tmp_path):
    mask = pytest.importorskip("faster_coco_eval.core.mask")
    region = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    region[3:9, 4:17] = 1
    packed = mask.encode(region)
    content = coco(tmp_path)
    shape = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    content["annotations"] = [
        {"id": number, "image_id": 10 + number, "category_id": 3, "segmentation": shape}
        for number in (0, 2, 3)
    ]
    coco(tmp_path, **content)
    for number in range(4):
        image(tmp_path / f"images/{number}.jpg", number)
    found = labels(opened(tmp_path))
    assert np.array_equal(found["images/0.jpg"], region)
    assert not found["images/1.jpg"].any()
    shape["size"] = [5, 5]
    coco(tmp_path, **content)
    with pytest.raises(DataError, match=r"run lengths are for \[5, 5\] pixels"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}.json", "images/{}"),
        ("annotations/{}.json", "images"),
        ("{}/_annotations.coco.json", "{}"),
        ("{}.json", "{}/images"),
    ],
)
def test_places_of_coco_files(tmp_path, name, folder):
    for number, part in enumerate(("train", "val")):
        content = coco(tmp_path, name.format(part), count=2)
        for entry in content["images"]:
            entry["file_name"] = f"{number}{entry['file_name']}"
            image(tmp_path / folder.format(part) / entry["file_name"], number)
        coco(tmp_path, name.format(part), **content)
    (tmp_path / "annotations").mkdir(exist_ok=True)
    captions = {"images": [], "annotations": [{"caption": "a bus"}]}
    (tmp_path / "annotations/captions_train2017.json").write_text(json.dumps(captions))
    found = opened(tmp_path)
    assert (len(found.train), len(found.validation)) == (2, 2)
    assert not {*labels(found)} & {None}
    assert all(drawn.any() for drawn in labels(found).values())


def test_two_coco_files_that_share_images(tmp_path):
    coco(tmp_path, "annotations/first.json")
    coco(tmp_path, "annotations/second.json")
    for number in range(4):
        image(tmp_path / f"images/{number}.jpg", number)
    with pytest.raises(DataError, match=r"first\.json and annotations/second\.json") as raised:
        opened(tmp_path)
    assert "--annotations" in raised.value.remedy
    assert len(labels(opened(tmp_path, annotations="annotations/first.json"))) == 4
    (tmp_path / "annotations/first.json").rename(tmp_path / "annotations/train.json")
    (tmp_path / "annotations/second.json").rename(tmp_path / "annotations/val.json")
    notes = opened(tmp_path).account.notes
    assert any("4 images of annotations/val.json are also in another split" in n for n in notes)


def test_images_that_a_coco_file_does_not_list(tmp_path):
    coco(tmp_path)
    for number in range(5):
        image(tmp_path / f"images/{number}.jpg", number)
    with pytest.raises(DataError, match=r"1 of 5 images have no mask in .*: 'images/4\.jpg'"):
        opened(tmp_path)
    assert len(labels(opened(tmp_path, unmasked="skip"))) == 4
    assert not labels(opened(tmp_path, unmasked="background"))["images/4.jpg"].any()


def test_annotations_without_a_shape_are_counted(tmp_path):
    content = coco(tmp_path)
    content["annotations"][0]["segmentation"] = []
    content["annotations"][3]["segmentation"] = [[]]
    del content["annotations"][6]["segmentation"]
    coco(tmp_path, **content)
    for number in range(4):
        image(tmp_path / f"images/{number}.jpg", number)
    (skipped,) = opened(tmp_path).account.skipped
    assert (skipped.reason, skipped.count) == ("annotation without a shape", 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("images") and content.update(images={}), "no list 'images'"),
        (lambda content: content["images"][1].update(file_name=5), "entry 2 of 'images'"),
        (lambda content: content["images"][1].update(file_name="no.jpg"), "1 of 4 images of"),
        (lambda content: content["annotations"][0].update(category_id=1), "category 1"),
        (lambda content: content["annotations"][0].update(category_id=None, segments_info=[]),
         "sound 'category_id': it describes a panoptic mask"),
        (lambda content: content["annotations"][0].update(image_id=1), "image 1"),
        (lambda content: content.update(categories=[]), "no categories"),
        (lambda content: content["annotations"][1].update(segmentation=[[1, 2]]),
         r"shape \d \('bus'\) cannot be drawn"),
        (lambda content: content["annotations"][1].update(segmentation=[[1, 2, 3, 4]]),
         "4 numbers, and three corners have six"),
        (lambda content: content["annotations"][2].update(
            segmentation={"size": [HEIGHT, WIDTH], "counts": "zz~~"}), "cannot be drawn"),
        (lambda content: content["annotations"][2].update(segmentation="x"), "cannot be drawn"),
        (lambda content: content["images"][2].update(height=21),
         r"are for \[20, 30\] pixels, and the image has \[21, 30\]"),
        (lambda content: content["images"][1].update(id=10), "entries of 'images' .* the id 10"),
        (lambda content: content["categories"][1].update(id=7), "of 'categories' .* the id 7"),
        (lambda content: content["images"][1].update(file_name="0.jpg"), r"images twice: '0\.jpg'"),
        (lambda content: [one.update(segmentation=[]) for one in content["annotations"]],
         "are of one class, 'background'"),
        (lambda content: [one.update(segmentation=[box(0.1, 0.1, 0.4, 0.4)])
                          for one in content["annotations"]], "are of one class, 'background'"),
    ],
)  # fmt: skip
def test_faults_of_coco_files_are_named(tmp_path, change, words):
    content = coco(tmp_path)
    change(content)
    coco(tmp_path, **content)
    for number in range(4):
        image(tmp_path / f"images/{number}.jpg", number)
    with pytest.raises(DataError, match=words):
        opened(tmp_path)


def test_shapes_beside_masks_are_two_readings(tmp_path):
    coco(tmp_path)
    for number in range(4):
        image(tmp_path / f"images/{number}.jpg", number)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)).save(
            tmp_path / f"masks/{number}.png"
        )
    with pytest.raises(DataError, match="masks in image files, and shapes in") as raised:
        opened(tmp_path)
    assert "--layout folders or --layout coco" in raised.value.remedy
    assert opened(tmp_path, layout="coco").train.classes == ("background", "bus", "car")
    assert opened(tmp_path, layout="folders").train.classes == ("0", "1")
    with pytest.raises(ConfigError, match="--mask-suffix is for masks in image files"):
        opened(tmp_path, layout="coco", mask_suffix="_x")


def labelme(place, shapes, size=(HEIGHT, WIDTH), **changed):
    image(place.with_suffix(".jpg"))
    content = {"shapes": shapes, "imagePath": place.with_suffix(".jpg").name, "imageData": None,
               "imageHeight": size[0], "imageWidth": size[1]}  # fmt: skip
    place.write_text(json.dumps(content | changed))


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "flags": {}} | more


def test_labelme_shapes_are_drawn_in_their_order(tmp_path):
    bitmap = io.BytesIO()
    Image.new("L", (4, 3), 255).save(bitmap, "PNG")
    encoded = base64.b64encode(bitmap.getvalue()).decode()
    shapes = [
        shape("roof", [[2, 2], [12, 2], [12, 9], [2, 9]]),
        shape("tree", [[5, 5], [8, 7]], "rectangle"),
        shape("tree", [[20.0, 10.0], [20.0, 13.0]], "circle"),
        shape("roof", [[25, 15], [29, 18]], "mask", mask=encoded),
        shape("__ignore__", [[0, 0], [1, 1]], "rectangle"),
        shape("roof", [[3, 3]], "point"),
    ]
    for number in range(2):
        labelme(tmp_path / f"{number}.json", shapes)
    found = opened(tmp_path)
    assert found.train.classes == ("background", "roof", "tree")
    assert found.masks.layout == "labelme"
    (skipped,) = found.account.skipped
    assert (skipped.reason, skipped.count) == ("a point has no area", 2)
    drawn = labels(found)["0.jpg"]
    assert drawn[3, 3] == drawn[9, 12] == 1
    assert np.all(drawn[5:8, 5:9] == 2)
    assert drawn[10, 20] == drawn[13, 20] == drawn[10, 17] == 2
    assert drawn[13, 17] == 0
    assert np.all(drawn[15:18, 25:29] == 1)
    assert np.all(drawn[:2, :2] == 255)
    assert drawn[19, 0] == 0


def test_classes_and_splits_of_labelme(tmp_path):
    square = [[2, 2], [12, 2], [12, 9], [2, 9]]
    for part in ("train", "val"):
        for number in range(2):
            labelme(tmp_path / part / f"{part}{number}.json", [shape("tree", square)])
    (tmp_path / "labels.txt").write_text("")
    (tmp_path / "classes.txt").write_text("__ignore__\n_background_\nroof\ntree\n")
    found = opened(tmp_path)
    assert found.train.classes == ("background", "roof", "tree")
    assert len(found.train) == len(found.validation) == 2
    assert found.train.read(0).labels.max() == 2
    (tmp_path / "classes.txt").write_text("roof\n")
    with pytest.raises(DataError, match=r"labels of .* are not in .*: 'tree'"):
        opened(tmp_path)
    (tmp_path / "classes.txt").unlink()
    labelme(tmp_path / "train" / "train0.json", [shape("Tree ", square)])
    assert (
        "the classes 'Tree ', 'tree' differ in case or blanks only"
        in opened(tmp_path).account.notes
    )


def test_labelme_files_in_another_folder(tmp_path):
    square = [[2, 2], [12, 2], [12, 9], [2, 9]]
    for number in range(2):
        labelme(tmp_path / "json" / f"{number}.json", [shape("tree", square)])
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / f"json/{number}.jpg").rename(tmp_path / f"images/{number}.jpg")
    assert sorted(labels(opened(tmp_path))) == ["images/0.jpg", "images/1.jpg"]
    image(tmp_path / "images/2.jpg")
    with pytest.raises(DataError, match="1 of 3 images have no mask in a LabelMe file"):
        opened(tmp_path)
    (tmp_path / "images/1.jpg").unlink()
    with pytest.raises(DataError, match=r"json/1\.json has 0 images of its name"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (shape("a", [[1, 1], [2, 2]]), "'polygon' of 2 points"),
        (shape("a", [[1, 1], [2, 2]], "cuboid"), "'cuboid' of 2 points"),
        (shape(None, [[1, 1], [2, 2]]), "no label or no points"),
        (shape("a", [[1, 1], [2, 2], ["x", 3]]), r"shape 1 \('a'\) cannot be drawn"),
        (shape("a", [[1, 1], [2, 2]], "mask", mask="?"), r"shape 1 \('a'\) cannot be drawn"),
    ],
)
def test_faults_of_labelme_files_are_named(tmp_path, one, words):
    for number in range(2):
        labelme(tmp_path / f"{number}.json", [one])
    with pytest.raises(BeitError, match=words):
        opened(tmp_path)


def test_the_fingerprint_knows_the_shapes(tmp_path):
    square = [[2, 2], [12, 2], [12, 9], [2, 9]]
    for number in range(2):
        labelme(tmp_path / f"{number}.json", [shape("tree", square)])
    before = opened(tmp_path).train.fingerprint(), opened(tmp_path).validation.fingerprint()
    for number in range(2):
        labelme(tmp_path / f"{number}.json", [shape("tree", [[2, 2], [12, 3], [12, 9], [2, 9]])])
    after = opened(tmp_path).train.fingerprint(), opened(tmp_path).validation.fingerprint()
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_runs_know_their_shapes_by_how_they_were_always_written():
    """Fingerprints of data are kept in runs and models."""
    shapes = Shapes("a.json", 2, 3, (Shape("bitmap", "x", ([0, 0], "iVBO")),))
    assert repr(shapes) == (
        "Shapes(name='a.json', height=2, width=3, shapes=(Shape(kind='bitmap', label='x', "
        "data=([0, 0], 'iVBO')),))"
    )


def test_coco_files_of_windows_and_of_fiftyone(tmp_path):
    content = coco(tmp_path, "train/labels.json")
    for number, entry in enumerate(content["images"]):
        entry["file_name"] = f"a\\{number}.jpg"
        image(tmp_path / f"train/data/a/{number}.jpg", number)
    coco(tmp_path, "train/labels.json", **content)
    assert opened(tmp_path).train.classes == ("background", "bus", "car")


def test_two_images_for_one_labelme_file(tmp_path):
    for number in range(3):
        labelme(tmp_path / f"{number}.json", [shape("roof", [[2, 2], [9, 2], [9, 9]])])
    image(tmp_path / "0.png")
    with pytest.raises(DataError, match="differ in their extension only"):
        opened(tmp_path)
