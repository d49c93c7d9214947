"""Regions of the world with the climate group of every pixel, for segmentation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from beit.studies.tiles import COLUMNS, REGION, ROWS, part_of
from beit.studies.world import read_map

# Temperate and cold are one class: from above their border is a matter of temperature alone.
GROUPS = {"A": "tropical", "B": "arid", "C": "temperate or cold", "D": "temperate or cold",
          "E": "polar"}  # fmt: skip
CLASSES = ("water", *dict.fromkeys(GROUPS.values()))
LAND = 0.1  # least share of land in a region
COMPLETE = "regions.json"


def group_of(zone: str) -> int:
    """The class of a zone: 0 water, from 1 the groups."""
    return 0 if zone == "Ocean" else CLASSES.index(GROUPS[zone[0]])


def find_regions(classes: np.ndarray) -> Iterator[tuple[int, int, str]]:
    """Corner and part of every region with enough land."""
    for row, top in enumerate(ROWS[::REGION]):
        for column, left in enumerate(COLUMNS[::REGION]):
            if (classes[top : top + REGION, left : left + REGION] > 0).mean() >= LAND:
                yield top, left, part_of(row, column)


def make_regions(folder: Path) -> dict[str, int]:
    """Write images/ and masks/, each with train, val and test, unless they are there; how many
    regions each part has."""
    record = folder / COMPLETE
    if record.exists():
        known: dict[str, int] = json.loads(record.read_text())
        return known
    pixels, classes = read_map(group_of)
    counts = {"train": 0, "val": 0, "test": 0}
    for top, left, part in find_regions(classes):
        counts[part] += 1
        for kind, whole in (("images", pixels), ("masks", classes)):
            place = folder / kind / part
            place.mkdir(parents=True, exist_ok=True)
            square = whole[top : top + REGION, left : left + REGION]
            Image.fromarray(square).save(place / f"{top:04d}_{left:04d}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    record.write_text(json.dumps(counts))
    return counts
