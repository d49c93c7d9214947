"""Small folders of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Writes random images of 20 x 24 pixels under the test's folder and returns it."""

    def write(*names: str) -> Path:
        for number, name in enumerate(names):
            place = tmp_path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place, "PNG")
        return tmp_path

    return write


@pytest.fixture
def root(draw: Draw) -> Path:
    """A folder with six images, p0.png to p5.png."""
    return draw(*(f"p{number}.png" for number in range(6)))


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not the test's own."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this test alone keeps what is indexed and fetched."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("BEIT_HOME", str(home))
    return home
