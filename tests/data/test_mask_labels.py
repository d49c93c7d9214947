"""What the values of all masks mean together: labels, one object, nothing, or two things."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from beit.config import MaskConfig
from beit.config.data import Division
from beit.data.mask_labels import MaskReading
from beit.data.segmented import SegmentationData
from beit.errors import BeitError, ConfigError, DataError, UnreadableError

SHAPE = (12, 16)


def write(root, masks, names=(), tags=None, seed=0):
    """images/ and masks/ of these arrays, as PNG, or TIFF where PNG has no such numbers."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    for number, mask in enumerate(masks):
        image = chance.integers(0, 255, (*mask.shape, 3)).astype(np.uint8)
        Image.fromarray(image).save(root / f"images/{number}.jpg")
        if mask.dtype in (np.uint8, np.uint16) and tags is None:
            Image.fromarray(mask).save(root / f"masks/{number}.png")
        else:
            tifffile.imwrite(root / f"masks/{number}.tif", mask, extratags=tags or [])
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    return root


def masks_of(*values, kind=np.uint8, count=4):
    """Masks in which all values occur, the first on most pixels."""
    mask = np.full(SHAPE, values[0], kind)
    for row, value in enumerate(values[1:]):
        mask[row, :4] = value
    return [mask] * count


def opened(root, **options):
    return SegmentationData(str(root), MaskConfig(**options)).divide(Division(split=0.25, seed=0))


def labels(splits):
    return np.unique(np.stack([splits.train.read(at).labels for at in range(len(splits.train))]))


@pytest.mark.parametrize(("white", "kind"), [(255, np.uint8), (65535, np.uint16), (255, np.int32)])
@pytest.mark.parametrize("names", [(), ("ground", "roof")])
def test_black_and_white_are_background_and_object(tmp_path, white, kind, names):
    root = write(tmp_path / "data", masks_of(0, white, kind=kind), names)
    found = opened(root)
    assert found.train.classes == (names or ("background", "object"))
    assert labels(found).tolist() == [0, 1]
    assert any(f"hold 0 and {white} only" in note for note in found.account.notes)
    assert found.masks.mask_values == "binary"
    again = SegmentationData(str(root), found.masks).divide(
        Division(split=0.25, seed=0), known=found.train.classes
    )  # reads no mask to find out
    assert labels(again).tolist() == [0, 1]
    part = SegmentationData(str(root), MaskConfig(), extra_split="val").part(
        "val", classes=found.train.classes
    )
    assert np.unique(part.read(0).labels).tolist() == [0, 1]


def test_black_and_white_beside_images_without_a_mask(tmp_path):
    """Those are read before it is known that 255 is the object."""
    root = write(tmp_path, masks_of(0, 255, count=6))
    (root / "masks/0.png").unlink()
    found = opened(root, unmasked="background")
    every = [source.read(at) for source in found[:2] for at in range(len(source))]
    assert {one.key: int(one.labels.max()) for one in every} == {
        f"images/{number}.jpg": int(number > 0) for number in range(6)
    }


def test_255_among_labels_is_ignored_and_said_to_be(tmp_path):
    found = opened(write(tmp_path, masks_of(0, 1, 255)))
    assert found.train.classes == ("0", "1")
    assert labels(found).tolist() == [0, 1, 255]
    assert "255 is ignored" in found.account.notes
    assert found.masks.mask_values == "labels"


@pytest.mark.parametrize(
    ("values", "names", "words"),
    [
        ((0, 255), ("roof",), "only, for 1 class"),
        ((0, 255), ("a", "b", "c"), "only, for 3 classes"),
        ((0, 128), (), "hold 0 and 128 only"),
        ((0, 128), ("ground", "roof"), "hold 0 and 128 only, for 2 classes"),
    ],
)
def test_two_readings_are_named_with_what_settles_them(tmp_path, values, names, words):
    root = write(tmp_path, masks_of(*values), names)
    with pytest.raises(DataError, match=words) as raised:
        opened(root)
    assert "--mask-values labels" in raised.value.remedy
    assert "--mask-values binary" in raised.value.remedy
    if len(names) < 3:
        found = opened(root, mask_values="binary")
        assert labels(found).tolist() == [0, 1]
        expected = names if len(names) == 2 else ("background", *(names or ("object",)))
        assert found.train.classes == expected
    if names == ("a", "b", "c"):
        with pytest.raises(DataError, match="not ignored are of one class, 'a'"):
            opened(root, mask_values="labels")


def test_some_masks_of_one_bit_and_others_of_eight_are_two_readings(tmp_path):
    root = write(tmp_path, [*masks_of(0, 255, count=3), *masks_of(0, 1, count=3)])
    with pytest.raises(DataError, match=r"some masks .* hold 0 and 1, others 0 and 255"):
        opened(root)
    found = opened(root, mask_values="binary")
    assert labels(found).tolist() == [0, 1]
    assert "0 is background, 1, 255 are the object" in found.train.account.notes


def test_smoothed_edges_are_no_two_hundred_classes(tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 255
    mask[:4, 19] = np.arange(4) * 60 + 3
    masks = [mask + np.where(mask == 0, 0, 0).astype(np.uint8) for _ in range(6)]
    for number, each in enumerate(masks):
        each[5:10, 19] = np.arange(5) * 40 + number + 1
    root = write(tmp_path, masks)
    with pytest.raises(DataError, match="look like binary masks that were smoothed"):
        opened(root)
    assert opened(root, mask_values="binary").train.classes == ("background", "object")
    assert len(opened(root, mask_values="labels").train.classes) > 100


@pytest.mark.parametrize(
    ("values", "kind", "option", "advice"),
    [
        ((0, 1, np.nan), np.float32, ("nan",), "whole numbers"),
        ((0, 1, -1), np.int32, ("-1",), "whole numbers"),
        ((0, 1, -9999.5), np.float32, ("-9999.5",), "whole numbers"),
        ((0, 1, -3.4028234663852886e38), np.float32, ("-3.402823e+38",), "whole numbers"),
        ((0, 1, 0.5), np.float64, ("0.5",), "threshold"),
        ((0, 1, 300), np.uint16, ("300",), "254 is the largest"),
        ((0, 1, np.nan, -1), np.float32, ("-1", "nan"), "whole numbers"),
    ],
)
def test_values_that_are_no_labels_are_refused_or_ignored_by_option(
    tmp_path, values, kind, option, advice
):
    root = write(tmp_path, masks_of(*values, kind=kind))
    with pytest.raises(DataError) as raised:
        opened(root)
    assert "--ignore-values " + " ".join(option) in raised.value.remedy
    assert advice in raised.value.remedy
    assert "in 3 of 4 masks" in raised.value.problem or "in 4 of 4" in raised.value.problem
    found = opened(root, ignore_values=option)
    assert found.train.classes == ("0", "1")
    assert labels(found).tolist() == [0, 1, 255]


def test_probabilities_are_not_offered_as_ignored(tmp_path):
    values = np.linspace(0, 0.9, 10)
    with pytest.raises(DataError, match="threshold") as raised:
        opened(write(tmp_path, masks_of(*values, kind=np.float32)))
    assert "--ignore-values" not in raised.value.remedy


def test_what_files_call_nodata_is_ignored_unless_it_may_be_a_label(tmp_path):
    tags = [(42113, "s", 0, "-9999", True)]
    found = opened(write(tmp_path / "a", masks_of(0, 1, -9999, kind=np.int16), tags=tags))
    assert labels(found).tolist() == [0, 1, 255]
    assert "-9999 is ignored: 4 masks call it nodata (GDAL)" in found.account.notes
    assert found.masks.ignore_values == ("-9999",)
    root = write(tmp_path / "b", masks_of(0, 1, 2), tags=[(42113, "s", 0, "0", True)])
    with pytest.raises(DataError, match=r"4 masks .* call 0 nodata") as raised:
        opened(root)
    assert "--ignore-values 0 ignores it, --ignore-values none" in raised.value.remedy
    assert labels(opened(root, ignore_values=("0",))).tolist() == [1, 2, 255]
    assert labels(opened(root, ignore_values=("none",))).tolist() == [0, 1, 2]
    root = write(tmp_path / "c", masks_of(0, 1, 255), tags=[(42113, "s", 0, "255", True)])
    assert labels(opened(root)).tolist() == [0, 1, 255]


def test_measurements_are_no_labels(tmp_path):
    chance = np.random.default_rng(0)
    masks = [chance.random((80, 80)).astype(np.float32) for _ in range(4)]
    with pytest.raises(DataError, match="different values, from"):
        opened(write(tmp_path, masks))


def test_binary_masks_have_no_ignored_values(tmp_path):
    with pytest.raises(ConfigError, match="every value but 0 is the object"):
        MaskConfig(mask_values="binary", ignore_values=("nan",))
    with pytest.raises(ConfigError, match="'water' in ignore_values"):
        MaskConfig(ignore_values=("water",))
    with pytest.raises(BeitError, match="label 0 is ignored by"):
        opened(write(tmp_path, masks_of(0, 1)), mask_values="binary", reduce_zero_label=True)


def test_a_reading_of_labels():
    reading = MaskReading(reduce_zero_label=True)
    values = np.array([[0, 1, 2], [3, 254, 255]])
    for kind in (np.uint8, np.uint16, np.int32, np.float32):
        assert reading(values.astype(kind)).tolist() == [[255, 0, 1], [2, 253, 255]]
    with pytest.raises(UnreadableError, match="1 of its pixels hold -1, which is no label"):
        MaskReading()(np.array([[0, -1]]))


def test_a_legend_reads_colours_in_the_order_of_the_classes(tmp_path):
    colours = np.zeros((*SHAPE, 3), np.uint8)
    colours[0], colours[1] = (250, 50, 20), (9, 9, 9)
    write(tmp_path, masks_of(0))
    for number in range(4):
        Image.fromarray(colours).save(tmp_path / f"masks/{number}.png")
    with pytest.raises(DataError, match="holds colours, such as #fa3214"):
        opened(tmp_path)
    lines = "# label:color_rgb:parts:actions\nground:0,0,0::\nroof:250,50,20::\n"
    (tmp_path / "labelmap.txt").write_text(lines)
    with pytest.raises(DataError, match="not in the legend, such as #090909") as raised:
        opened(tmp_path)
    assert "complete the legend" in raised.value.remedy
    (tmp_path / "labelmap.txt").write_text(lines + "tree:9,9,9::\n")
    found = opened(tmp_path)
    assert found.train.classes == ("ground", "roof", "tree")
    assert found.train.read(0).labels[:3, 0].tolist() == [1, 2, 0]
    (tmp_path / "classes.txt").write_text("tree\nroof\nground")
    assert opened(tmp_path).train.read(0).labels[:3, 0].tolist() == [1, 0, 2]
    (tmp_path / "legend.json").write_text("{}")
    with pytest.raises(DataError, match=r"legend\.json.*labelmap\.txt.*may differ"):
        opened(tmp_path)
    with pytest.raises(DataError, match="ignore_values names values"):
        opened(tmp_path, legend=str(tmp_path / "labelmap.txt"), ignore_values=("0",))


def test_a_legend_may_only_name_labels(tmp_path):
    write(tmp_path, masks_of(0, 1))
    (tmp_path / "labelmap.txt").write_text("ground:0,0,0::\nroof:250,50,20::\n")
    with pytest.raises(DataError, match="--mask-values labels"):
        opened(tmp_path)
    found = opened(tmp_path, mask_values="labels")
    assert found.train.classes == ("ground", "roof")
    assert labels(found).tolist() == [0, 1]


def test_what_is_ignored_is_no_background(tmp_path):
    root = write(tmp_path, masks_of(np.nan, 1, kind=np.float32))
    with pytest.raises(DataError, match="not ignored are of one class, '1'") as refused:
        opened(root, ignore_values=("nan",))
    assert "write it into the masks as label 0" in refused.value.remedy
    assert opened(write(root, masks_of(np.nan, 0, 1, kind=np.float32)), ignore_values=("nan",))
    with pytest.raises(DataError, match="not ignored are of one class, '1'"):
        opened(write(tmp_path / "255", masks_of(255, 1)))


@pytest.mark.parametrize(
    "values", [(0, 128, 255), (0, 85, 170, 255), (0, 50, 100, 200, 250), (0, 36, 73, 109, 255)]
)
def test_labels_spread_over_grey_levels_are_two_readings(tmp_path, values):
    root = write(tmp_path, masks_of(*values))
    with pytest.raises(DataError, match="spread over the grey levels") as refused:
        opened(root)
    assert f'"#{values[1]:02x}{values[1]:02x}{values[1]:02x}"' in refused.value.remedy
    classes = max(value for value in values if value < 255) + 1
    assert len(opened(root, mask_values="labels").train.classes) == classes
    names = {f"#{value:02x}{value:02x}{value:02x}": f"level {value}" for value in values}
    (root / "legend.json").write_text(json.dumps(names))
    assert opened(root).train.classes == tuple(names.values())


@pytest.mark.parametrize(
    "values", [(0, 7, 11), (0, 1, 2, 3), (0, 2, 4, 6), (0, 7, 11, 23, 26, 255)]
)
def test_numbers_of_classes_with_gaps_are_labels(tmp_path, values):
    assert opened(write(tmp_path, masks_of(*values))).masks.mask_values == "labels"


@pytest.mark.parametrize(
    "counts",
    [(9, 12, 5, 20), (1, 2, 1, 20, 2, 3, 1, 5, 1, 2, 1, 1)],  # nuclei, and people on a street
)
def test_numbers_of_objects_are_no_classes(tmp_path, counts):
    masks = []
    for count in counts:
        mask = np.zeros((24, 24), np.uint8)
        mask.reshape(-1)[: 4 * count] = np.repeat(np.arange(1, count + 1), 4)
        masks.append(mask)
    root = write(tmp_path, masks)
    with pytest.raises(DataError, match="from 1 to some number, 20 at most") as refused:
        opened(root)
    assert "classes.txt" in refused.value.remedy
    assert labels(opened(root, mask_values="binary")).tolist() == [0, 1]
    (root / "classes.txt").write_text("\n".join(map(str, range(21))))
    assert len(opened(root).train.classes) == 21


def test_a_hundred_values_without_names_may_be_a_photograph(tmp_path):
    root = write(tmp_path, [np.arange(0, 200, 2, dtype=np.uint8).reshape(10, 10)] * 4)
    with pytest.raises(DataError, match="100 different values, as photographs"):
        opened(root)
    assert len(opened(root, mask_values="labels").train.classes) == 199


def test_masks_that_hide_all_are_said_to(tmp_path):
    with pytest.raises(DataError, match="every pixel of the training masks is ignored"):
        opened(write(tmp_path, masks_of(255)))
