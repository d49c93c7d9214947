"""A small folder of images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("ground", "disc", "bar")


def write_pair(root: Path, part: str, name: str, *, seed: int, size: tuple[int, int]) -> None:
    """One image (JPEG) of a bright disc and a dark bar, and its mask (indexed PNG)."""
    chance = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    labels = np.zeros(size, np.uint8)
    labels[:, (x[0] > width * chance.uniform(0.6, 0.8)) & (x[0] < width * 0.9)] = 2
    row, column = chance.uniform(0.3, 0.7) * height, chance.uniform(0.2, 0.4) * width
    labels[(y - row) ** 2 + (x - column) ** 2 < (min(size) / 4) ** 2] = 1
    colours = np.array([[120, 110, 100], [230, 220, 90], [20, 30, 90]])
    pixels = colours[labels] + chance.integers(-15, 16, (*size, 3))
    labels[0, 0] = 255
    for folder, array, extension in (
        ("images", pixels.clip(0, 255).astype(np.uint8), "jpg"),
        ("masks", labels, "png"),
    ):
        place = root / folder / part / f"{name}.{extension}"
        place.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(array)
        if folder == "masks":
            image.putpalette([value * 80 % 256 for value in range(768)])
        image.save(place)


def write_folder(root: Path, train: int = 10, validation: int = 3) -> Path:
    """images/ and masks/ with train/ and val/ below them, and classes.txt."""
    for part, number in (("train", train), ("val", validation)):
        for index in range(number):
            seed = index + 100 * (part == "val")
            write_pair(root, part, f"{index:02}", seed=seed, size=(40, 36 + 8 * (index % 2)))
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root
