"""Labels to images: as indexed PNG, and as overlays."""

from __future__ import annotations

import numpy as np
from PIL import Image

from beit.data.mask_files import read_mask
from beit.visualize import PALETTE, label_map_png, overlay_labels

LABELS = np.array([[0, 1, 2], [3, 254, 255]], np.uint8)


def test_written_label_maps_are_read_again(tmp_path):
    (tmp_path / "labels.png").write_bytes(label_map_png(LABELS))
    assert np.array_equal(read_mask((tmp_path / "labels.png").read_bytes()).values, LABELS)
    with Image.open(tmp_path / "labels.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), PALETTE[LABELS])


def test_the_palette_is_that_of_pascal_voc():
    """Its background, aeroplane, bicycle, person (15) and the white of its borders."""
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (224, 224, 192)]
    assert [tuple(PALETTE[label]) for label in (0, 1, 2, 15, 255)] == expected


def test_overlays_leave_ignored_pixels():
    image = np.full((2, 3, 3), 100, np.uint8)
    covered = overlay_labels(image, LABELS)
    assert tuple(covered[1, 2]) == (100, 100, 100)
    assert tuple(covered[0, 1]) == ((100 + 128) // 2, 50, 50)
