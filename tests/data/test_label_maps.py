"""Masks to labels, in every form they come in, and labels to pictures."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from beit.data.label_maps import PALETTE, MaskReader, painted, read_legend, save_label_map
from beit.data.values import UnreadableError
from beit.errors import DataError

LABELS = np.array([[0, 1, 2], [3, 254, 255]], np.uint8)
PLAIN = MaskReader(reduce_zero_label=False)


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def indexed(labels: np.ndarray) -> Image.Image:
    """Its colours say nothing of the labels."""
    picture = Image.fromarray(labels)
    picture.putpalette([(7 * value) % 256 for value in range(768)])
    return picture


@pytest.mark.parametrize("picture", [indexed(LABELS), Image.fromarray(LABELS),
                                     Image.fromarray(LABELS.astype(np.uint16))],
                         ids=["indexed", "grey", "16 bits"])  # fmt: skip
def test_values_are_labels(picture):
    assert np.array_equal(PLAIN(encoded(picture)), LABELS)


def test_black_and_white_are_two_labels():
    assert np.array_equal(PLAIN(encoded(Image.fromarray(LABELS > 2))), LABELS > 2)


def test_reduced_labels_keep_what_is_ignored():
    """0 becomes ignored, and 255 does not become the class 254."""
    found = MaskReader(reduce_zero_label=True)(encoded(Image.fromarray(LABELS)))
    assert np.array_equal(found, [[255, 0, 1], [2, 253, 255]])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(Image.fromarray(np.full((2, 2), 300, np.uint16))), "label 300"),
        (encoded(Image.new("RGB", (2, 2))), "colours need a legend"),
        (encoded(Image.new("L", (2, 2)), "JPEG"), "JPEG blurs labels"),
        (b"rubbish", "none of PNG"),
        (encoded(indexed(LABELS))[:50], "Error"),
    ],
)
def test_what_is_no_mask(data, reason):
    with pytest.raises(UnreadableError, match=reason):
        PLAIN(data)


def test_colours_with_a_legend(tmp_path):
    place = tmp_path / "legend.json"
    place.write_text(json.dumps({"#ff0000": "roof", "00FF00": "tree", "#000000": None}))
    legend = read_legend(place)
    reader = MaskReader(legend=legend, classes=("tree", "roof"), reduce_zero_label=False)
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 0]]], np.uint8)
    assert np.array_equal(reader(encoded(Image.fromarray(pixels))), [[1, 0, 255]])
    pixels[0, 0] = 9, 8, 7
    with pytest.raises(UnreadableError, match=r"1 of its pixels .* #090807"):
        reader(encoded(Image.fromarray(pixels)))
    with pytest.raises(DataError, match="'roof'"):
        MaskReader(legend=legend, classes=("tree",), reduce_zero_label=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "cannot be read"), ("[]", "no colours"), ('{"red": "roof"}', "'red'"),
     ('{"#ff0000": 3}', "is 3")],
)  # fmt: skip
def test_legends_of_another_form(tmp_path, text, words):
    (tmp_path / "legend.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_legend(tmp_path / "legend.json")


def test_written_label_maps_are_read_again(tmp_path):
    save_label_map(LABELS, tmp_path / "labels.png")
    assert np.array_equal(PLAIN((tmp_path / "labels.png").read_bytes()), LABELS)
    with Image.open(tmp_path / "labels.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), PALETTE[LABELS])


def test_the_palette_is_that_of_pascal_voc():
    """Its background, aeroplane, bicycle, person (15) and the white of its borders."""
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (224, 224, 192)]
    assert [tuple(PALETTE[label]) for label in (0, 1, 2, 15, 255)] == expected


def test_overlays_leave_ignored_pixels():
    picture = np.full((2, 3, 3), 100, np.uint8)
    covered = painted(picture, LABELS)
    assert tuple(covered[1, 2]) == (100, 100, 100)
    assert tuple(covered[0, 1]) == ((100 + 128) // 2, 50, 50)
