"""Images with several independent attributes, in class folders that share them as links or copies.

Each image may be red (or blue), striped (or plain) and framed (or not): three labels that have
nothing to do with each other, of which an image has any number.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.config import AugmentConfig

LABELS = ("framed", "red", "striped")
SIZE = 32
OPTIONS: dict[str, Any] = {
    "workers": 0, "quiet": True, "report": False, "device": "cpu", "precision": "fp32",
    "size": (32, 32), "multi_label": True,
}  # fmt: skip
SHORT: dict[str, Any] = OPTIONS | {
    "steps": 6, "warmup_steps": 1, "batch": 16, "save_every": 2, "log_every": 1,
    "evaluate_every": 3, "average": 0.9, "drop_path": 0.2,
    "augment": AugmentConfig(crop_scale=(0.5, 1.0), erasing=0.5),
}  # fmt: skip


def draw(labels: dict[str, bool], chance: np.random.Generator) -> np.ndarray:
    """An image uint8 [SIZE, SIZE, 3] with these attributes, with some noise."""
    pixels = np.empty((SIZE, SIZE, 3))
    pixels[:] = (180, 60, 60) if labels["red"] else (60, 60, 180)
    if labels["striped"]:
        pixels[:, (np.arange(SIZE) + chance.integers(8)) % 8 < 4] += 50
    if labels["framed"]:
        for side in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
            side[:] = 250
    return (pixels + chance.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)


def attributes(number: int) -> list[dict[str, bool]]:
    """Every combination in turn."""
    return [
        {name: bool(index >> place & 1) for place, name in enumerate(LABELS)}
        for index in range(number)
    ]


def write(root: Path, number: int, *, seed: int = 0, links: bool = False) -> dict[str, list[str]]:
    """Class folders with every image in the folder of each of its labels, as copies or as links;
    the labels of each by its name. Images without any label are left away, as no folder is theirs.
    """
    chance = np.random.default_rng(seed)
    found = {}
    for name in LABELS:
        (root / name).mkdir(parents=True)
    for index, labels in enumerate(attributes(number)):
        pixels, names = draw(labels, chance), [name for name in LABELS if labels[name]]
        places = [root / name / f"{index:03}.png" for name in names]
        for place in places:
            if links and place != places[0]:
                os.link(places[0], place)
            else:
                Image.fromarray(pixels).save(place)
        if names:
            found[f"{index:03}.png"] = names
    return found
